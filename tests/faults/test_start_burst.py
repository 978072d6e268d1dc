"""The service comes back, and everybody who waited for it asks at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.rig.faulty_module import FaultyModule
from hsm.member.slots import RAMP_S
from tests.faults.rig import Rig, make_rig, member_killed, verifies
from tests.hsm.members import key_of, sign
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone

REQUESTS = 110


async def test_start_burst(partitions: list[Store], tmp_path: Path) -> None:
    """F8: A service that was just started bears at once what its HSMs can sign: no member waits for another's ramp."""

    def slow(hsms: dict[str, FaultyModule]) -> None:
        for hsm in hsms.values():
            hsm.rules("C_Sign delay 90")

    async with make_rig(tmp_path, partitions[:2], sessions=8, before=slow) as rig:
        begun = rig.now()
        messages = [b"%d" % number for number in range(REQUESTS)]
        ends = await asyncio.gather(*[sign(rig.group, "untrust", one) for one in messages], return_exceptions=True)
        took_s = rig.now() - begun
        key = rig.group.keys["untrust"]
        assert [end for end in ends if isinstance(end, BaseException)] == []
        assert all(verifies(key, one, end) for one, end in zip(messages, ends, strict=True) if isinstance(end, bytes))
        assert took_s < 1.2, "sixteen sessions, 90 ms each: 0.62 s"


async def test_nobody_ramps_after_an_outage(rig: Rig) -> None:
    """F8: After an outage of all members the first ones back bear the load in full: there is no peer to spare them."""
    full = [one.slots for one in rig.group.members]
    with member_killed(rig, "m1"), member_killed(rig, "m2"):
        await rig.until_up("m1", starts=2)
        await rig.until_up("m2", starts=2)
        assert [one.slots for one in rig.group.members] == full == [8, 8]


async def test_one_that_comes_back_to_peers_ramps(rig: Rig) -> None:
    """F8: A member that comes back beside one that serves takes up its share over a second."""
    await until(lambda: rig.now() > _last_up(rig) + RAMP_S, "both serve for a while")
    with member_killed(rig, "m1"):
        await rig.until_up("m1", starts=2)
        came = rig.now()
        few = rig.member("m1").slots
        assert few < 8 or rig.now() > came + 0.5, "or this machine slept meanwhile"
        assert rig.member("m2").slots == 8
        await until(lambda: rig.member("m1").slots == 8, "it has its full share", 3)


async def test_a_member_with_keys_of_its_own_does_not_ramp(partitions: list[Store], tmp_path: Path) -> None:
    """F8: A member that alone has a key bears its whole load as soon as it is back: nobody else can."""
    keys = {
        "trust": key_of(partitions[0], "trust", members=frozenset({"m1"})),
        "untrust": key_of(partitions[0], "untrust", members=frozenset({"m2"})),
    }
    async with make_rig(tmp_path, partitions[:2], keys=keys) as rig:
        with member_killed(rig, "m1"):
            await rig.until_up("m1", starts=2)
            assert [one.slots for one in rig.group.members] == [8, 8]


def _last_up(rig: Rig) -> float:
    return max(one.at for one in rig.history.transitions if one.after == "up")
