"""The signer, or the disk, goes away while a PIN is tried: what the next signer does with that PIN."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bench.rig.faulty_module import FaultyModule
from tests.faults.signer import signer_on, until_ready
from tests.integration.harness import System
from tests.waiting import wait_until


def killed_in_login(system: System, hsm: FaultyModule, logins: int) -> None:
    """Kill the signer while its member is in the C_Login of this number."""
    wait_until(lambda: hsm.calls("C_Login") == logins, f"login {logins} is begun")
    assert system.process is not None
    os.kill(system.process.pid, signal.SIGKILL)
    system.process.wait(10)


def ended(system: System) -> int:
    """Wait for the signer's end; its status."""
    assert system.process is not None
    return system.process.wait(20)


def test_signer_killed_in_each_login(softhsm_module: str, tmp_path: Path) -> None:
    """F21: A signer that is killed in the middle of a login tries that PIN once more when it comes back, and not a
    third time: it says what to do, and the file that it names is all that holds the PIN."""
    hsm = FaultyModule(tmp_path / "hsm")
    hsm.rules("C_Login hang")
    with signer_on(hsm, tmp_path) as system:
        killed_in_login(system, hsm, 1)
        system.start(wait=False)
        killed_in_login(system, hsm, 2)
        for _ in range(2):
            system.start(wait=False)
            assert ended(system) == os.EX_CONFIG
            assert hsm.calls("C_Login") == 2
        hsm.clear()
        noted = next((tmp_path / "hsmitm" / "state").glob("*.pin-tried"))
        system.until_logged(str(noted))
        noted.unlink()
        system.start(wait=False)
        until_ready(system)
        assert hsm.calls("C_Login") == 3
        assert not noted.exists()
        assert system.stop() == 0


@pytest.mark.parametrize("code", [0xA0, 0x30], ids=["a wrong PIN", "a code that names no PIN"])
def test_signer_killed_after_the_answer(softhsm_module: str, tmp_path: Path, code: int) -> None:
    """F21: A PIN that had its answer is not tried by the next signer, however the first one ended."""
    hsm = FaultyModule(tmp_path / "hsm")
    hsm.rules(f"C_Login rv {code:#x}")
    with signer_on(hsm, tmp_path) as system:
        for _ in range(3):
            assert ended(system) == os.EX_CONFIG
            system.start(wait=False)
        assert ended(system) == os.EX_CONFIG
        assert hsm.calls("C_Login") == 1


def test_signer_killed_before_the_login(softhsm_module: str, tmp_path: Path) -> None:
    """F21: Signers that are killed before the login, however many, cost no try: the PIN has not left them."""
    hsm = FaultyModule(tmp_path / "hsm")
    hsm.rules("C_OpenSession hang")
    with signer_on(hsm, tmp_path) as system:
        for number in range(1, 4):
            wait_until(lambda number=number: hsm.calls("C_OpenSession") == number, "a session is asked for")
            assert system.process is not None
            system.process.kill()
            system.process.wait(10)
            system.start(wait=False) if number < 3 else hsm.clear()
        system.start(wait=False)
        until_ready(system)
        assert hsm.calls("C_Login") == 1
        assert system.stop() == 0
