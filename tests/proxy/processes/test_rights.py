"""What a process gives up, seen from outside, as another process of the same user sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.processes.cage import Cage

_USER = 65430
_SEALED = """
import sys
from proxy.processes import rights
rights.seal()
print("sealed", flush=True)
sys.stdin.read()
"""


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def test_a_sealed_process_gets_no_new_privileges_and_belongs_to_root() -> None:
    """Its memory and environment are no files of its own user any more: proc(5)."""
    with subprocess.Popen([sys.executable, "-P", "-c", _SEALED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"sealed\n"
        assert _status(one.pid)["NoNewPrivs"] == "1"
        assert Path(f"/proc/{one.pid}/environ").stat().st_uid == 0
        one.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
@pytest.mark.parametrize(("uid", "low_ports", "left"), [(None, False, 0), (_USER, False, 0), (_USER, True, 1 << 10)])
def test_capabilities_are_given_up(uid: int | None, low_ports: bool, left: int) -> None:
    """Nothing stays but the right to listen below 1024 where that is needed, also in a program that is executed."""
    cage = Cage(uid=uid, gid=_USER if uid else -1, low_ports=low_ports, confined=False)
    done = subprocess.run(cage.command(["/bin/cat", "/proc/self/status"]), capture_output=True, text=True, check=True)
    said = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(said[name], 16) == left, name
    assert set(said["Uid"].split()) == {str(uid or 0)}
    assert said["Groups"].split() == [] or uid is None
    assert said["NoNewPrivs"] == "1"
