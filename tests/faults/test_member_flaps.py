"""A member dies again shortly after each start."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from hsm.member import states
from tests.faults.rig import Rig, member_killed

pytestmark = pytest.mark.alone

EVERY_S, FOR_S = 0.5, 8.0


async def test_member_flaps(rig: Rig) -> None:
    """F35: A member that dies every half second stays away ever longer, and none of its deaths costs a request."""
    async with rig.load() as load:
        begun, kills = rig.now(), 0
        while rig.now() < begun + FOR_S:
            if rig.member("m1").serving:
                with member_killed(rig, "m1"):
                    kills += 1
            await asyncio.sleep(EVERY_S)  # the pace of the fault; nothing waits for it
        await rig.until_up("m1", timeout_s=3 * states.BACKOFF_MAX_S)
        await load.more(60)
    been = rig.history.of("m1", begun)
    pauses = [later.at - one.at for one, later in pairwise(been) if later.after == "starting"]
    assert [one.after for one in been] == ["down", "starting", "up"] * kills, "three lines of the log for each death"
    assert kills > 4
    for failure, pause in enumerate(pauses, 1):
        plain = states.BACKOFF_FIRST_S * 2 ** (failure - 1)
        assert 0.8 * plain <= pause < 1.2 * plain + 0.25
    assert rig.logins("m1") == rig.member("m1").starts == 1 + kills
    assert rig.path("m2", begun) == []
    assert load.slowest_s < 0.3
