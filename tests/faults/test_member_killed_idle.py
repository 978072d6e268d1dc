"""A member process is killed while it has nothing to do."""

from __future__ import annotations

from tests.faults.rig import Rig, member_killed


async def test_member_killed_idle(rig: Rig) -> None:
    """F1: A member whose process is killed while idle is back within a second, after one restart and one login."""
    begun = rig.now()
    with member_killed(rig, "m1"):
        await rig.until_path("m1", ["down", "starting", "up"], begun)
    assert rig.away_s("m1", begun) < 1
    assert rig.starts() == [2, 1]
    assert [rig.logins("m1"), rig.logins("m2")] == [2, 1]
    async with rig.load() as load:
        await load.more(60)
