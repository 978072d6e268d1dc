"""A return code that no standard knows: a vendor's own."""

from __future__ import annotations

import pytest

from tests.faults.rig import Rig
from tests.waiting import until


@pytest.mark.parametrize("code", [0x80000001, 0xCE000001])
async def test_vendor_code(rig: Rig, code: int) -> None:
    """F18: A code of the vendor's own is told with its number, discards the session, and costs no request."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault(f"C_Sign rvafter 0x{code:x} n=1"):
            await until(lambda: rig.hsm("m1").fired() == 1, "the code came")
            await until(lambda: rig.replaced("m1") == 1, "the session is replaced, and counted")
        await load.more(50)
    told = f"a request failed at member m1 and is tried again: PKCS#11 code 0x{code:x} while signing"
    assert [line.text for line in rig.history.said("tried again", begun)] == [told]
    assert rig.path("m1", begun) == []
    assert rig.starts() == [1, 1]
    assert load.slowest_s < 0.2
