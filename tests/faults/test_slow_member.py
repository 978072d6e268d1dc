"""One HSM answers slowly, and correctly: a brown-out. Or all of them do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.rig import ATTEMPT_S, CROWDED_S, Rig, make_rig, module_rules
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone

DELAY_S = 0.2
ALL_DELAY_S = 0.3


async def test_slow_member(rig: Rig) -> None:
    """F33: A member that takes 200 ms for a signature is left alone for its quick peer, and is not restarted."""
    async with rig.load() as load:
        allowed, begun = rig.longest_s(), rig.now()
        with rig.hsm("m1").fault(f"C_Sign delay {1000 * DELAY_S:g}"):
            await load.more(240)
            second = rig.now()
            await load.more(500)
        assert len(load.slow(0.1, second)) <= 5
        assert "down" not in rig.path("m1", begun)
        assert rig.path("m1", begun)[-1:] in ([], ["up"])
        signed = rig.signed_by("m1")
        await until(lambda: _tested(rig) and rig.signed_by("m1") > signed + 20, "its tests bring it back")
    assert load.slowest_s < allowed
    assert rig.starts() == [1, 1]
    assert rig.path("m2", begun) == []


async def test_all_members_slow(partitions: list[Store], tmp_path: Path) -> None:
    """F33: When all HSMs slow down at once, to what is still within an attempt's time, nobody is refused."""
    async with make_rig(tmp_path, partitions[:2], sessions=64) as rig:
        async with rig.load() as load:
            await load.more(150)
            begun = rig.now()
            with module_rules(rig, "m1", "m2", rules=[f"C_Sign delay {1000 * ALL_DELAY_S:g}"]):
                await load.more(400)
        assert load.slowest_s < 0.1 + ATTEMPT_S + CROWDED_S
        for name in rig.hsms:
            assert "down" not in rig.path(name, begun)
        assert rig.starts() == [1, 1]


def _tested(rig: Rig) -> bool:
    """Test signatures in quick succession, in the place of one every five seconds: what a minute would bring."""
    rig.member("m1").ask_for_test()
    return True
