"""All HSMs are busy, and say so with CKR_FUNCTION_FAILED now and then."""

from __future__ import annotations

import pytest

from tests.faults.rig import Rig, module_rules

pytestmark = pytest.mark.alone

SHARE = 0.05


async def test_throttling(rig: Rig) -> None:
    """F17: While every HSM fails one request in twenty, clients hardly ever notice, and HSMs are hardly asked more."""
    async with rig.load(failures=True) as load:
        begun, asked = rig.now(), len(load.answers)
        with module_rules(rig, "m1", "m2", rules=[f"C_SignInit rv 0x6 p={SHARE}"]):
            await load.more(1000)
        asked = len(load.answers) - asked
    failed = rig.counted("hsmitm_signature_errors_total", purpose="mint")
    retries = rig.counted("hsmitm_signature_retries_total")
    assert len(load.errors) <= 0.001 * asked, "four throws of the dice in a row"
    assert failed > 0.4 * SHARE * asked, "the fault was met"
    assert retries <= 0.2 * asked
    for name in rig.hsms:
        assert "down" not in rig.path(name, begun)
    assert rig.starts() == [1, 1]
    assert load.slowest_s < 0.3
