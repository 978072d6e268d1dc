"""Codes that may mean the member or the request: CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED."""

from __future__ import annotations

import pytest

from hsm import codes
from hsm.errors import RefusedError, UnavailableError
from hsm.member import examination
from tests.faults.rig import Rig, module_rules
from tests.hsm.members import sign
from tests.waiting import until


@pytest.mark.parametrize("code", [0x05, 0x06])
async def test_one_member_says_it(rig: Rig, code: int) -> None:
    """F15: What one member cannot sign and its peer can is the member's fault: it is doubted, and restarted."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault(f"C_SignInit rv 0x{code:x}"):
            await until(lambda: rig.path("m1", begun)[:2] == ["suspect", "down"], "it is restarted")
        await rig.until_up("m1")
        await load.more(50)
    assert codes.name(code) in rig.history.of("m1", begun)[0].reason
    assert rig.path("m2", begun) == []
    assert rig.logins("m1") == rig.member("m1").starts
    assert load.slowest_s < 0.3


@pytest.mark.parametrize(("code", "attempts"), [(0x05, 2), (0x06, 4)])
async def test_every_member_says_it(rig: Rig, monkeypatch: pytest.MonkeyPatch, code: int, attempts: int) -> None:
    """F15: A request that fails alike everywhere is refused, and no member is blamed for it."""
    monkeypatch.setattr(examination, "ASKED_TEST_EVERY_S", 60)  # a test signature would meet the fault, too
    begun = rig.now()
    for _ in range(10):  # five in a row would make a blamed member doubtful
        with module_rules(rig, "m1", "m2", rules=[f"C_SignInit rv 0x{code:x}"]):
            failed = rig.counted("hsmitm_signature_errors_total", purpose="mint")
            with pytest.raises(RefusedError, match=f"failed alike wherever it was tried: CKR.*0x{code:x}"):
                await sign(rig.group)
            assert rig.counted("hsmitm_signature_errors_total", purpose="mint") - failed == attempts
        await sign(rig.group)
    assert rig.path("m1", begun) == rig.path("m2", begun) == []
    assert rig.starts() == [1, 1]


async def test_every_member_fails_otherwise(rig: Rig) -> None:
    """F15: When every member's HSM fails outright the request is not to blame: it may be tried again later."""
    with module_rules(rig, "m1", "m2", rules=["C_SignInit rv 0x30"]), pytest.raises(UnavailableError, match="0x30"):
        await sign(rig.group)
    for name in rig.hsms:
        await rig.until_up(name)
    await sign(rig.group)
