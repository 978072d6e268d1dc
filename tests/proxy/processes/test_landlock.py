"""A process that has given up files, for good: with real processes, on this kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.processes import landlock, reach
from proxy.processes.cage import EX_CAGE, Cage


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Files with and without a rule."""
    for name in ("open", "listed", "written"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "alone").write_text("alone")
    return tmp_path


def _says(place: Path, code: str) -> str:
    """What Python code prints in a cage: `read(path)`, `write(path)` and `names(path)` say what comes of it."""
    assert landlock.abi(), "this kernel has no Landlock: workers are kept by their user alone"
    helpers = """
import os, sys
def tried(act):
    try:
        return act()
    except PermissionError:
        return "refused"
def read(path): return tried(lambda: open(path).read())
def write(path): return tried(lambda: open(path, "w").write("x"))
def names(path): return tried(lambda: sorted(os.listdir(path)))
"""
    cage = Cage(
        reads=[*map(str, reach._python()), str(place / "open"), str(place / "alone")],
        lists=[str(place / "listed")],
        writes=[str(place / "written")],
    )
    done = subprocess.run(
        cage.command([sys.executable, "-I", "-c", helpers + code]), capture_output=True, text=True, check=False,
        cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_has_no_rule_is_refused(place: Path) -> None:
    """A worker reads what it was given, sees names where it may list, and writes where it may."""
    assert _says(place, "print(read('open/file'), read('alone'), read('secret'), read('listed/file'))") == (
        "open alone refused refused"
    )
    assert _says(place, "print(names('listed'), names('.'))") == "['file'] refused"
    assert _says(place, "print(write('written/new'), write('open/file'), write('alone'), write('new'))") == (
        "1 refused refused refused"
    )
    assert (place / "open" / "file").read_text() == "open"


def test_what_it_starts_is_kept_too(place: Path) -> None:
    """No program that a worker executes gets further than itself."""
    assert _says(place, "sys.stdout.flush(); os.system('cat secret open/file 2>/dev/null')") == "open"


def test_others_are_out_of_reach(place: Path) -> None:
    """A worker cannot look into processes outside of its cage, nor signal them (from ABI 6 on)."""
    assert _says(place, f"print(read('/proc/{os.getpid()}/environ'))") == "refused"
    if landlock.abi() >= 6:
        assert _says(place, f"print(tried(lambda: os.kill({os.getpid()}, 0)))") == "refused"


def test_a_file_that_takes_anothers_place_is_not_the_one_that_was_given(place: Path) -> None:
    """A renewed certificate that is renamed over the old one is another file to the kernel: so the supervisor opens
    files for workers."""
    assert "renamed" not in _says(
        place, "os.rename('written/file', 'written/it'); print(tried(lambda: os.replace('written/it', 'alone')))"
    )


@pytest.mark.parametrize(("version", "newest"), [(1, 1 << 12), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15), (7, 1 << 15)])
def test_a_right_that_the_kernel_does_not_know_is_not_asked_for(version: int, newest: int) -> None:
    """On an older kernel all that it can take away is taken away."""
    assert newest <= landlock.handled(version) < 2 * newest


def test_a_cage_that_cannot_be_put_on_executes_nothing() -> None:
    """A worker without its cage does not run: a sentence says why."""
    cage = Cage(confined=False).command(["/nowhere/at/all"])
    done = subprocess.run(cage, capture_output=True, text=True, check=False)
    assert done.returncode == EX_CAGE
    assert done.stderr == "hsmitm cage: No such file or directory: /nowhere/at/all\n"
