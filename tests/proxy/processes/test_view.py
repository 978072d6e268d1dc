"""A user gets behind closed directories, to what it needs and to nothing else there. With real mounts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.processes import reach, view
from proxy.processes.cage import Cage

_USER = 65431
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A directory for root alone, with files and directories that anybody may read."""
    place = tmp_path / "closed"
    (place / "deep" / "er").mkdir(parents=True)
    for name in ("file", "secret", "deep/er/file", "deep/other"):
        (place / name).write_text(name)
    place.chmod(0o700)
    (place / "deep").chmod(0o700)
    return place


def test_the_first_closed_directory_is_found(closed: Path) -> None:
    """By mode, owner and group, as the kernel does it for a directory."""
    assert view.closed(Path("/etc/hosts"), _USER, {_USER}) is None
    path = closed / "deep" / "er" / "file"
    first = view.closed(path, _USER, {_USER})
    assert first is not None
    assert first in path.parents
    assert view.closed(path, os.geteuid(), set()) is None


def _says(closed: Path, *needed: str) -> list[str]:
    """What the user reads of four files, where it needs some of them."""
    code = "import sys\nfor path in sys.argv[1:]:\n try: print(open(path).read())\n except OSError as e: print(e.errno)"
    files = [str(closed / one) for one in ("file", "secret", "deep/er/file", "deep/other")]
    python = sorted(reach.through(map(str, reach._python())))
    cage = Cage(
        uid=_USER, gid=_USER, reads=[*python, *(str(closed / one) for one in needed)], confined=False
    )  # fmt: skip
    done = subprocess.run(
        cage.command([sys.executable, "-I", "-c", code, *files]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@as_root
def test_what_is_needed_is_there_and_nothing_else(closed: Path) -> None:
    """A worker's user reads a configuration in root's directory, and does not see what stands beside it."""
    assert _says(closed) == ["13"] * 4 or set(_says(closed)) <= {"2", "13"}
    assert _says(closed, "file") == ["file", "2", "2", "2"]
    assert _says(closed, "deep/er") == ["2", "2", "deep/er/file", "2"]
    assert _says(closed, "file", "deep/er/file", "deep/other")[:1] == ["file"]


@as_root
def test_nobody_else_sees_a_difference(closed: Path) -> None:
    """The view is the process's own: mounts of it are not those of the machine."""
    before = Path("/proc/self/mountinfo").read_text()
    _says(closed, "file")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert (closed / "secret").read_text() == "secret"
