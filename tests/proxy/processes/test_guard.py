"""Only one supervisor of a configuration, and what becomes of a killed one's processes. With small real processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from hsm.errors import MisconfiguredError
from hsm.wire.run_directory import RunDirectory
from proxy.processes.guard import Guard
from tests.waiting import wait_until


def _guard(directory: Path, name: str = "hsmitm.toml") -> Guard:
    return Guard(RunDirectory(directory), directory / name)


def test_one_supervisor_for_each_configuration(tmp_path: Path) -> None:
    """A second `hsmitm run` with the same file is refused, one with another file is not, and the next one may run."""
    guard = _guard(tmp_path)
    assert guard.holder() == 0
    with guard.hold():
        assert guard.holder() == _guard(tmp_path).holder() == os.getpid()
        assert _guard(tmp_path, "other.toml").holder() == 0
        with pytest.raises(MisconfiguredError, match="hsmitm runs already with this configuration; stop"):
            _guard(tmp_path).hold()
        with _guard(tmp_path, "other.toml").hold():
            pass
    assert guard.holder() == 0
    guard.hold().close()


def test_nobody_else_can_take_its_place(tmp_path: Path) -> None:
    """A user of this machine who takes every public address does not keep hsmitm from starting: the lock is private."""
    digest = hashlib.sha256(os.fsencode(tmp_path / "hsmitm.toml")).hexdigest()[:32]
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(f"\0hsmitm/{os.geteuid()}/{digest}")  # where the guard of before was
        with _guard(tmp_path).hold():
            (lock,) = tmp_path.iterdir()
            assert lock.stat().st_mode & 0o077 == 0


def test_a_lock_that_is_looked_at_can_be_taken(tmp_path: Path) -> None:
    """`hsmitm check` in the very moment of a start does not make the start fail."""
    guard = _guard(tmp_path)
    guard.hold().close()
    (lock,) = tmp_path.iterdir()
    with _started(_LOOKING, str(lock)) as other:
        assert _line(other.stdout) == "looking"
        guard.hold().close()


_LOOKING = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_SH)
print("looking", flush=True)
time.sleep(0.2)
fcntl.flock(file, fcntl.LOCK_UN)
sys.stdin.read()
"""
_SUPERVISOR = """
import sys
from pathlib import Path
from hsm.wire.run_directory import RunDirectory
from proxy.processes.guard import Guard

path = Path(sys.argv[1])
guard = Guard(RunDirectory(path.parent), path)
held = guard.hold()
guard.dismiss()
print("held", flush=True)
sys.stdin.read()
"""
_ORPHAN = """
import asyncio, signal, sys
from proxy.processes import supervised

async def main():
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    print(await supervised.begin(None), flush=True)
    await leave.wait()
    print("left", flush=True)

asyncio.run(main())
"""
_PARENT = """
import json, os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-P", "-c", *json.loads(os.environ["ORPHAN"])], stdin=subprocess.PIPE)
child.stdin.write(b"first line\\n")
child.stdin.flush()
time.sleep(60)
"""


@contextmanager
def _started(code: str, *argv: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of ours, killed afterwards."""
    command = [sys.executable, "-P", "-c", code, *argv]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, text=True, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip("\n")


@contextmanager
def _family(config: Path) -> Iterator[subprocess.Popen[str]]:
    """What looks like `hsmitm run` to the process table, with a supervised child whose output is its own."""
    orphan = json.dumps([_ORPHAN, "--supervised", str(config)])
    with _started(_PARENT, "proxy.main", "run", ORPHAN=orphan) as process:
        assert _line(process.stdout) == "first line"
        try:
            yield process
        finally:
            process.kill()
            process.wait()  # its child is an orphan from here on, and would serve on after the tests
            for pid in _guard(config.parent, config.name).orphans():
                os.kill(pid, signal.SIGKILL)


def test_a_killed_supervisor_holds_nothing(tmp_path: Path) -> None:
    """After a SIGKILL of the supervisor `hsmitm run` can start at once."""
    path = tmp_path / "hsmitm.toml"
    with _started(_SUPERVISOR, str(path)) as other:
        assert _line(other.stdout) == "held"
        assert _guard(tmp_path).holder() == other.pid
        other.kill()
        other.wait()
        assert _guard(tmp_path).holder() == 0
        _guard(tmp_path).hold().close()


def test_a_child_outlives_its_supervisor_until_there_is_a_new_one(tmp_path: Path) -> None:
    """A killed supervisor stops nobody's traffic: its children serve on, are seen as orphans, and make room for the
    next supervisor."""
    path = tmp_path / "hsmitm.toml"
    guard = _guard(tmp_path)
    with _family(path) as parent:
        assert guard.orphans() == []
        parent.kill()
        assert _line(parent.stderr) == "the supervisor is gone; serving on until 'hsmitm run' is started again"
        wait_until(guard.orphans, "the child is no orphan")
        assert _guard(tmp_path, "other.toml").orphans() == []
        with _started(_SUPERVISOR, str(path)) as following:
            assert _line(following.stdout) == "held"
            assert _line(parent.stdout) == "left"
        wait_until(lambda: not guard.orphans(), "the orphan stays")


def test_a_supervisor_of_the_version_before_is_seen(tmp_path: Path) -> None:
    """One that holds no lock in the run directory still keeps a second one away, and its children are left alone."""
    path = tmp_path / "hsmitm.toml"
    guard = _guard(tmp_path)
    with _family(path) as parent:
        assert guard.holder() == parent.pid
        with pytest.raises(MisconfiguredError, match="runs already"):
            guard.hold()
        assert not guard.dismiss()


def test_where_the_run_directory_is_anothers_the_process_table_says_who_runs(tmp_path: Path) -> None:
    """`hsmitm proxy` has no right to write there: it starts all the same, and a second one does not."""
    path = tmp_path / "hsmitm.toml"
    elsewhere = Guard(RunDirectory(tmp_path / "absent"), path)
    elsewhere.hold().close()
    with _family(path) as parent:
        assert elsewhere.holder() == parent.pid
        with pytest.raises(MisconfiguredError, match="runs already"):
            elsewhere.hold()
