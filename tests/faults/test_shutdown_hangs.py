"""The module hangs in C_Finalize, and in everything else, while the service is stopped."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from bench.rig.faulty_module import FaultyModule
from tests.faults.signer import signer_on, until_ready
from tests.integration.harness import alive
from tests.waiting import wait_until


@pytest.mark.parametrize("rule", ["C_Finalize hang", "* hang"])
def test_shutdown_hangs(softhsm_module: str, tmp_path: Path, rule: str) -> None:
    """F7: The service stops within five seconds though the module hangs in C_Finalize: it is not even called."""
    hsm = FaultyModule(tmp_path / "hsm")
    with signer_on(hsm, tmp_path) as system:
        until_ready(system)
        members = system.pids("hsm.token.main")
        assert len(members) == 1
        finalised = hsm.calls("C_Finalize")
        with hsm.fault(rule):
            begun = time.monotonic()
            assert system.stop(signal.SIGTERM) == 0
            assert time.monotonic() - begun < 5
        assert hsm.calls("C_Finalize") == finalised
        wait_until(lambda: not any(map(alive, members)), "no member process is left", 2)
