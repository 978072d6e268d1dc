"""One bad slot is one bad slot: what is wrong with a slot that nobody asked for hides no other, and is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.rig.quirks_module import QuirksModule
from hsm.errors import HsmitmError, MemberLostError, TryLaterError
from hsm.member.process import MemberProcess
from hsm.token import slots
from hsm.wire.member import Inspect, Inspected, Open, Opened, Selector
from tests.softhsm import MODULE, PIN, Store, in_s

START_S = 5.0
"""How long a start may take in these tests."""


@pytest.fixture
def quirky(tmp_path: Path) -> QuirksModule:
    """SoftHSM, otherwise than it is."""
    return QuirksModule(tmp_path / "quirks")


class Behind:
    """Member processes on the partition behind the module."""

    def __init__(self, store: Store, quirky: QuirksModule) -> None:
        self._store, self._quirky = store, quirky

    async def opened(self, selector: Selector | None = None, *, inspected: bool = False) -> tuple[Opened, Any]:
        """What a member finds and, if asked, what its module tells then."""
        process = await MemberProcess.spawn(self._store.environment | self._quirky.environment(MODULE))
        opening = Open(
            str(self._quirky.path), selector or Selector(label=self._store.label), PIN, 2, self._store.uris()
        )  # fmt: skip
        try:
            opened = await process.call(opening, in_s(START_S))
            assert isinstance(opened, Opened)
            told = await process.call(Inspect(), in_s(2)) if inspected else None
        finally:
            await process.end()
        assert not any(found.problem for found in opened.keys.values())
        return opened, told


@pytest.fixture
def behind(store: Store, quirky: QuirksModule) -> Behind:
    """Of the session's partition."""
    return Behind(store, quirky)


@pytest.mark.parametrize("code", [0x30, 0x05, 0x06, 0x32, 0xE0, 0xE1, 0x03, 0x54, 0x80000001], ids=hex)
@pytest.mark.parametrize("place", ["first", ""], ids=["before ours", "behind ours"])
async def test_a_slot_that_fails(behind: Behind, quirky: QuirksModule, code: int, place: str) -> None:
    """A slot that answers every call with an error, or has a token that is not recognised or was just taken out, takes
    down no member on another one, and `hsm info` says what it answered."""
    quirky.quirks(f"extra_slot {code:#x} {place}".strip())
    opened, told = await behind.opened(inspected=True)
    assert opened.partition.label == "tests"
    assert isinstance(told, Inspected)
    assert [slot.partition for slot in told.slots] == [opened.partition]
    problems = list(told.problems.values())
    assert [f"{code:#x}" in one for one in problems] == [True], problems


@pytest.mark.parametrize("function", ["C_GetSlotInfo", "C_GetTokenInfo", "C_GetMechanismList", "C_OpenSession"])
@pytest.mark.parametrize("how", ["", " hangs"], ids=["fails", "hangs"])
async def test_one_call_on_a_slot_that_fails(behind: Behind, quirky: QuirksModule, function: str, how: str) -> None:
    """Whichever call a slot fails or hangs in: who named another slot never asks it, and who named a serial number that
    no other has does not wait for it till the end."""
    ours = (await behind.opened())[0].partition
    quirky.quirks(f"extra_slot 0x30 first{how} only={function}")
    begun = time.monotonic()
    opened, _ = await behind.opened(Selector(slot=ours.slot))
    assert opened.partition == ours
    if function in ("C_GetSlotInfo", "C_GetTokenInfo"):  # the slot that works otherwise has the same token
        opened, _ = await behind.opened(Selector(serial=ours.serial))
        assert opened.partition == ours
    assert time.monotonic() - begun < START_S - 1


async def test_a_slot_that_fails_behind_p11_kit(behind: Behind, quirky: QuirksModule) -> None:
    """Nor does it take down others where the module hands out another function list to each who asks."""
    quirky.quirks("another_list", "serial", "extra_slot 0x30 first only=C_GetSlotInfo")
    opened, told = await behind.opened(inspected=True)
    assert [slot.partition for slot in told.slots] == [opened.partition]
    assert told.problems == {0xBAD0051: "CKR_DEVICE_ERROR (0x30) while reading its token"}


@pytest.mark.parametrize("how", ["", " hangs"], ids=["fails", "hangs"])
async def test_the_slots_that_are_there_are_told(behind: Behind, quirky: QuirksModule, how: str) -> None:
    """Where a partition is not there, its operator reads which slots answered, and what is wrong with the others; in
    time, and not that nothing came within the start time."""
    quirky.quirks(f"extra_slot 0x30{how}")
    with pytest.raises(TryLaterError) as caught:
        await behind.opened(Selector(label="elsewhere"))
    said = str(caught.value)
    assert said.startswith("no partition has label 'elsewhere'. This module shows: 'tests' (serial ")
    why = "it does not answer" if how else "CKR_DEVICE_ERROR (0x30) while reading its token"
    assert f", slot {0xBAD0051}: {why}" in said


async def test_info_does_not_wait_for_a_slot_that_hangs(behind: Behind, quirky: QuirksModule) -> None:
    """`hsm info` tells of the slots that answer, and which does not; no session of the member is held up by it."""
    quirky.quirks("extra_slot 0x30 hangs")
    opened, told = await behind.opened(inspected=True)
    assert [slot.partition for slot in told.slots] == [opened.partition]
    assert told.problems == {0xBAD0051: "it does not answer"}


@pytest.mark.parametrize("function", ["C_GetTokenInfo", "C_GetMechanismList", "C_OpenSession"])
async def test_ones_own_slot_that_fails(behind: Behind, quirky: QuirksModule, function: str) -> None:
    """A member whose own slot fails is lost, and tried again: nobody else's slot is taken for it."""
    quirky.quirks(f"slot_fails 0x30 only={function} label=tests")
    with pytest.raises((MemberLostError, TryLaterError), match=r"CKR_DEVICE_ERROR \(0x30\) while "):
        await behind.opened()


# --- the order of answers ---------------------------------------------------------------------------------------------


def answering(**after_s: float) -> Callable[[int], int]:
    """Slots that answer with their number after so long; `never` for one that does not."""

    def question(slot: int) -> int:
        time.sleep(after_s.get(f"slot{slot}", 0.0))
        return slot

    return question


def test_a_slow_slot_is_waited_for() -> None:
    """A network HSM may take seconds for its first answer: a slot that is wanted is heard, however late it is."""
    answers = slots.ask([1, 2], answering(slot1=0.4), time.monotonic() + 5, lambda found: 1 in found)
    assert answers.found == {1: 1, 2: 2}


def test_nobody_waits_for_what_is_not_wanted() -> None:
    """Once the wanted slot has answered and every other one had its chance, those that do not answer are left."""
    begun = time.monotonic()
    answers = slots.ask([1, 2, 3], answering(slot2=3.0), begun + 5, lambda found: 1 in found)
    assert time.monotonic() - begun < 1.5
    assert answers.found == {1: 1, 3: 3}
    assert answers.problems == {2: "it does not answer"}


def test_an_error_is_an_answer() -> None:
    """What a slot says is wrong is told at once, and does not end the questions to others."""

    def question(slot: int) -> int:
        if slot == 1:
            raise MemberLostError("it is broken")
        return slot

    answers = slots.ask([1, 2], question, time.monotonic() + 5, lambda _: False)
    assert (answers.found, answers.problems) == ({2: 2}, {1: "it is broken"})
    assert issubclass(MemberLostError, HsmitmError)
