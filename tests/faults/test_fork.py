"""A process that was forked from one with a module loaded hangs, or holds a login that nobody gave it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults.rig import Rig
from tests.softhsm import MODULE


async def test_members_are_programs_of_their_own(rig: Rig) -> None:
    """F10: A process with a module in it is never forked: each member is a program of its own, and starts no other."""
    for member in rig.group.members:
        place = Path(f"/proc/{member.pid}")
        loaded = (place / "maps").read_text()
        assert str(rig.hsm(member.name).path) in loaded
        assert Path(MODULE).name in loaded
        assert b"hsm.token.main" in (place / "cmdline").read_bytes().split(b"\0"), "it was started by exec"
        assert (place / f"task/{member.pid}/children").read_text() == ""
        sockets = [one for one in place.glob("fd/*") if str(one.readlink()).startswith("socket:")]
        assert len(sockets) == 1, "it has its own socket, and no other member's"


def test_the_service_loads_no_pkcs11() -> None:
    """F10: Neither the signer nor the proxy nor their supervisor ever loads the PKCS#11 binding: they may fork."""
    modules = "hsm.signer.signer, proxy.main, proxy.processes.supervisor, proxy.processes.worker"
    code = f"import sys, {modules}; sys.exit('pkcs11' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=False, timeout=30)
    assert done.returncode == 0
