"""The signer dies, at work or while a member of it hangs in the module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from bench.rig.faulty_module import FaultyModule
from tests.faults.signer import signer_on, until_ready
from tests.integration.harness import System, alive, killed_at_end
from tests.waiting import wait_until

GONE_S, SERVES_S = 2.0, 8.0
"""One second and three, on a machine that has something else to do, too."""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_signer_killed(softhsm_module: str, tmp_path: Path, number: signal.Signals) -> None:
    """F8: When the signer dies its members go within a second, and a new signer serves three seconds later."""
    hsm = FaultyModule(tmp_path / "hsm")
    with signer_on(hsm, tmp_path) as system:
        until_ready(system)
        (member,) = system.pids("hsm.token.main")
        _kill(system, number)
        wait_until(lambda: not alive(member), "its member is gone", GONE_S)
        begun = time.monotonic()
        system.start(wait=False)
        until_ready(system)
        assert time.monotonic() - begun < SERVES_S
        assert system.pids("hsm.token.main") != [member]
        assert hsm.calls("C_Login") == 2
        assert system.stop() == 0


@pytest.mark.parametrize("rule", ["C_Initialize hang", "C_Login hang", "C_Sign hang"])
def test_signer_killed_while_a_member_hangs(softhsm_module: str, tmp_path: Path, rule: str) -> None:
    """F8: A member that hangs in the module goes with its signer, too: nothing stays logged in."""
    hsm = FaultyModule(tmp_path / "hsm")
    hsm.rules(rule)
    with signer_on(hsm, tmp_path) as system:
        wait_until(lambda: hsm.fired() == 1, "its member hangs")
        (member,) = system.pids("hsm.token.main")
        with killed_at_end(lambda: [member]):
            _kill(system, signal.SIGKILL)
            wait_until(lambda: not alive(member), "its member is gone", GONE_S)


def _kill(system: System, number: signal.Signals) -> None:
    assert system.process is not None
    os.kill(system.process.pid, number)
    system.process.wait(10)
