"""The module crashes under a call, once or at every start."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from hsm.member import states
from tests.faults.rig import Rig
from tests.waiting import until


@pytest.mark.parametrize(("action", "number"), [("crash", 11), ("abort", 6), ("exit 3", None)])
async def test_module_crashes(rig: Rig, action: str, number: int | None) -> None:
    """F6: A module that crashes under a signature costs one restart and no request."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault(f"C_Sign {action} n=1"):
            await until(lambda: rig.hsm("m1").fired() == 1, "the module crashed")
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        await load.more(60)
    how = f"killed by signal {number}" if number else "ended with status 3"
    assert how in rig.history.of("m1", begun)[0].reason
    assert load.slowest_s < 0.3
    assert rig.away_s("m1", begun) < 1
    assert rig.starts() == [2, 1]
    assert rig.logins("m1") == 2


async def test_module_crashes_at_every_start(rig: Rig) -> None:
    """F6: A member that crashes at every start is started ever less often, an operator is told, and nobody notices."""
    starts = states.CRASH_LOOP + 2
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_Sign crash"):
            await until(lambda: rig.member("m1").starts > starts, "it was started again and again")
        await rig.until_up("m1", timeout_s=3)
        await load.more(60)
    assert load.slowest_s < 0.3
    (alarm,) = rig.history.said("m1 was started 6 times within a minute", begun)
    assert alarm.level == logging.ERROR
    been = rig.history.of("m1", begun)
    pauses = [later.at - one.at for one, later in pairwise(been) if later.after == "starting"]
    for failure, pause in enumerate(pauses, 1):
        assert pause >= 0.8 * states.BACKOFF_FIRST_S * 2 ** (failure - 1)
    assert rig.logins("m1") == rig.member("m1").starts
    assert rig.path("m2", begun) == []
