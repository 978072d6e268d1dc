"""A token that has no room for an operation now, and says so: CKR_DEVICE_MEMORY, CKR_TOKEN_RESOURCE_EXCEEDED, a
vendor's own code that the operator calls busy."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.codes import Kind
from hsm.member.settings import Failover
from hsm.member.states import State
from tests.faults.rig import Rig, make_rig, verifies
from tests.hsm.members import MESSAGE, sign
from tests.softhsm import Store
from tests.waiting import until

OWN = 0x80000383
BUSY = [0x31, 0x201, OWN]
SETTINGS = {name: {"codes": {OWN: Kind.BUSY}} for name in ("m1", "m2")}


@pytest.mark.parametrize("code", BUSY, ids=hex)
async def test_one_busy_answer(partitions: list[Store], tmp_path: Path, code: int) -> None:
    """F43: A member that has no room for one request is asked for no test, loses no session, and is not blamed."""
    async with make_rig(tmp_path, partitions[:2], settings=SETTINGS, failover=Failover(keep_alive_s=60)) as rig:
        begun, tests = rig.now(), rig.counted("hsmitm_signatures_total", member="m1", purpose="test")
        with rig.hsm("m1").fault(f"C_SignInit rv {code:#x} n=1"):
            rig.prefer("m1")
            assert verifies(rig.group.keys["untrust"], MESSAGE, await sign(rig.group))
            assert rig.hsm("m1").fired() == 1
        assert rig.signed_by("m2") == 1, "the peer signs"
        assert rig.member("m1").resting, "and comes first for a moment"
        await until(lambda: not rig.member("m1").resting, "the moment is over", 2)
        rig.prefer("m1")
        await sign(rig.group)
        assert rig.signed_by("m1") == 1, "later this one"
        assert (rig.path("m1", begun), rig.replaced("m1"), rig.starts()) == ([], 0, [1, 1])
        assert rig.counted("hsmitm_signatures_total", member="m1", purpose="test") == tests


@pytest.mark.parametrize("code", BUSY, ids=hex)
async def test_busy_for_long(partitions: list[Store], tmp_path: Path, code: int) -> None:
    """F43: While one member has no room at all, its peer serves every request; the member stays in service."""
    async with make_rig(tmp_path, partitions[:2], settings=SETTINGS) as rig:
        async with rig.load() as load:
            begun = rig.now()
            with rig.hsm("m1").fault(f"C_SignInit rv {code:#x}"):
                await load.more(600)
                assert rig.hsm("m1").fired() > 0
                assert rig.counted("hsmitm_signature_errors_total", member="m1") < 100, "it is left in peace"
            signed = rig.signed_by("m1")
            await until(lambda: rig.signed_by("m1") > signed + 10, "it signs again", 5)
        assert (rig.path("m1", begun), rig.path("m2", begun), rig.starts()) == ([], [], [1, 1])
        assert load.slowest_s < 0.4


@pytest.mark.parametrize("code", BUSY, ids=hex)
async def test_all_are_busy_for_a_moment(partitions: list[Store], tmp_path: Path, code: int) -> None:
    """F43: Where every member says that it has no room, a request waits a little and asks again."""
    async with make_rig(tmp_path, partitions[:2], settings=SETTINGS) as rig:
        begun = rig.now()
        with (
            rig.hsm("m1").fault(f"C_SignInit rv {code:#x} n=1"),
            rig.hsm("m2").fault(f"C_SignInit rv {code:#x} n=1"),
        ):
            assert verifies(rig.group.keys["untrust"], MESSAGE, await sign(rig.group))
        assert (rig.path("m1", begun), rig.path("m2", begun)) == ([], [])


async def test_a_doubted_member_that_is_busy_is_not_lost(rig: Rig) -> None:
    """F43: Busy answers to the test signatures of a doubted member cost it no restart: it is cleared when it signs."""
    member = rig.member("m1")
    with rig.hsm("m1").fault("C_SignInit rv 0x201 n=9"):
        member._standing.doubt("for this test")
        await until(lambda: rig.hsm("m1").fired() == 9, "it was asked again and again", 10)
    await rig.until_up("m1", starts=1)
    assert member.state is State.UP
