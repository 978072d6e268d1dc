"""The token says that its PIN is locked, at its final try, or that few tries are left."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.errors import MisconfiguredError
from hsm.member.states import State
from hsm.wire.member import worrying_flags
from tests.faults.rig import Rig, make_rig, member_killed
from tests.hsm.members import copy_of
from tests.softhsm import PIN, Store

COUNT_LOW, FINAL_TRY, LOCKED = (f"C_GetTokenInfo flags {bit:#x}" for bit in (0x10000, 0x20000, 0x40000))
PARTITION = r"partition 'tests' \(serial [0-9a-f]{16}, slot \d+\)"


@contextmanager
def pin_in_danger(rig: Rig, name: str, *rules: str) -> Iterator[None]:
    """The token says so, as it does after wrong PINs of somebody else, until its security officer has acted."""
    with rig.hsm(name).fault(*rules):
        yield


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        (LOCKED, f"the PIN of {PARTITION} is locked; its security officer must reset it"),
        (FINAL_TRY, f"{PARTITION} says that one more wrong PIN locks it; log in once with the vendor's own tool"),
    ],
    ids=["locked", "final try"],
)
async def test_pin_locked(partitions: list[Store], tmp_path: Path, flag: str, why: str) -> None:
    """F23: A member whose token says that the PIN is locked, or at its final try, does not log in; the alarm names the
    partition, its peer serves, and once the officer has acted the same PIN is good."""
    async with make_rig(
        tmp_path, partitions[:2], before=lambda hsms: hsms["m1"].rules(flag), all_up=False
    ) as rig, rig.load() as load:  # fmt: skip
        assert rig.states() == [State.QUARANTINED, State.UP]
        (alarm,) = rig.history.said(f"^member m1: starting -> quarantined: {why}")
        assert alarm.level >= logging.WARNING
        with pytest.raises(MisconfiguredError, match=why):
            await rig.group.reset("m1")
        await load.more(50)
        assert rig.logins("m1") == 0
        rig.hsm("m1").clear()
        assert await rig.group.reset("m1") == ["m1: it was quarantined and is up again"]
        assert rig.logins("m1") == 1


async def test_pin_locked_under_a_member(rig: Rig) -> None:
    """F23: A member that must start again while its PIN is in danger waits without a login, and is up by itself after
    the danger."""
    async with rig.load() as load:
        begun = rig.now()
        with pin_in_danger(rig, "m1", FINAL_TRY):
            with member_killed(rig, "m1"):
                await rig.until_path("m1", ["down", "starting", "down"], begun)
            await load.more(50)
            assert rig.logins("m1") == 1
        await rig.until_up("m1")
        await load.more(50)
    assert rig.logins("m1") == 2
    assert rig.history.said(f"starting -> down: {PARTITION} says that one more wrong PIN locks it", begun)


async def test_pin_tries_low(partitions: list[Store], tmp_path: Path) -> None:
    """F23: A token that counts a wrong PIN of somebody else is logged in to with the right one, and the status says
    what the token says."""
    async with make_rig(tmp_path, partitions[:2], before=lambda hsms: hsms["m1"].rules(COUNT_LOW)) as rig:
        opened = rig.member("m1").opened
        assert opened is not None
        assert worrying_flags(opened.partition) == ["USER_PIN_COUNT_LOW"]
        assert rig.logins("m1") == 1


async def test_pin_tries_low_and_a_code_that_nobody_knows(partitions: list[Store], tmp_path: Path) -> None:
    """F23: A vendor's own code at the login of a token that counts wrong PINs is taken for a refused PIN: no second
    try."""
    rules = (COUNT_LOW, "C_Login rv 0x80000005")
    async with make_rig(tmp_path, partitions[:2], before=lambda hsms: hsms["m1"].rules(*rules), all_up=False) as rig:
        assert rig.states() == [State.QUARANTINED, State.UP]
        assert "PKCS#11 code 0x80000005" in rig.member("m1").reason
        with pytest.raises(MisconfiguredError, match="refused this PIN before"):
            await rig.group.reset("m1")
        assert rig.logins("m1") == 1


async def test_pin_locks(partitions: list[Store], tmp_path: Path) -> None:
    """F23: A token that locks its PIN at the first wrong one gets one wrong PIN and, when an operator gives the right
    one, one login for each reset; that a PIN is locked is not held against it."""
    own = copy_of(partitions[0], tmp_path / "own")
    own.pin_file.write_text("a-wrong-pin\n")
    async with make_rig(
        tmp_path, [own, partitions[1]], before=lambda hsms: hsms["m1"].rules("pinlock 1"), all_up=False
    ) as rig:
        assert rig.history.said(rf"quarantined: CKR_PIN_INCORRECT \(0xa0\) while logging in to {PARTITION}")
        own.pin_file.write_text(f"{PIN}\n")
        with pytest.raises(MisconfiguredError, match=rf"CKR_PIN_LOCKED \(0xa4\) while logging in to {PARTITION}"):
            await rig.group.reset("m1")
        assert (rig.logins("m1"), rig.states()[0]) == (2, State.QUARANTINED)
        with pytest.raises(MisconfiguredError, match="CKR_PIN_LOCKED"):
            await rig.group.reset("m1")
        assert rig.logins("m1") == 3, "one for each time that the operator asks"
        assert rig.member("m2").state is State.UP
