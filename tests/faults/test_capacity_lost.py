"""One of two members is lost, and the other has to carry the load alone."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.errors import OverloadedError, UnavailableError
from tests.faults.lateness import lateness
from tests.faults.rig import CROWDED_S, Rig, make_rig
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone

SESSIONS = 4
SIGNING_MS = 40
CAPACITY = SESSIONS * 1000 / SIGNING_MS
"""Signatures a second that one member makes at most: 100."""
SLOW = f"C_Sign delay {SIGNING_MS}"


@contextmanager
def member_lost(rig: Rig, name: str) -> Iterator[None]:
    """Its process is killed, and its HSM answers no new one."""
    rig.hsm(name).rules(SLOW, "C_Initialize rv 0x30")
    os.kill(rig.member(name).pid, signal.SIGKILL)
    try:
        yield
    finally:
        rig.hsm(name).rules(SLOW)


async def _for_s(rig: Rig, seconds: float) -> None:
    begun = rig.now()
    await until(lambda: rig.now() - begun > seconds, "the load goes on", timeout_s=seconds + 5)


async def test_capacity_is_enough(partitions: list[Store], tmp_path: Path) -> None:
    """F36: At four fifths of what one member can do, the loss of its peer fails no request and lets few wait."""
    async with make_rig(tmp_path, partitions[:2], sessions=SESSIONS) as rig:
        for name in rig.hsms:
            rig.hsm(name).rules(SLOW)
        async with rig.load(rate=0.8 * CAPACITY) as load:
            begun = rig.now()
            await _for_s(rig, 1.5)
            lost = rig.now()
            with member_lost(rig, "m1"):
                await _for_s(rig, 3)
            await rig.until_up("m1", timeout_s=10)
        before, after = load.p99_s(begun, lost), load.p99_s(lost)
        assert after < 3 * before + CROWDED_S


async def test_capacity_is_exceeded(partitions: list[Store], tmp_path: Path) -> None:
    """F36: At half as much again as one member can do, the loss of its peer has it sign as much as it can, for each key
    its share; of the rest a part is refused at once, and all of it with the true reason."""
    async with make_rig(tmp_path, partitions[:2], sessions=SESSIONS) as rig:
        for name in rig.hsms:
            rig.hsm(name).rules(SLOW)
        async with lateness() as late, rig.load(rate=1.5 * CAPACITY, failures=True) as load:
            with member_lost(rig, "m1"):
                await until(lambda: load.errors, "the line is full", timeout_s=15)
                full, signed = rig.now(), rig.signed_by("m2")
                await _for_s(rig, 3)
                reached = (rig.signed_by("m2") - signed) / (rig.now() - full)
                assert rig.path("m2") == ["starting", "up"]
            await rig.until_up("m1", timeout_s=10)
        assert reached > 0.7 * CAPACITY
        good = Counter(one.key for one in load.answers if one.error is None and one.begun > full)
        assert min(good.values()) > max(good.values()) / 4, good
        assert {type(error) for error in load.errors} <= {OverloadedError, UnavailableError}
        at_once = [one for one in load.answers if isinstance(one.error, OverloadedError) and one.took_s < CROWDED_S]
        assert len(at_once) > 10, "how many depends on the machine; the others learn it at the end of their time"
        assert load.slowest_s < rig.group.failover.budget_s + CROWDED_S + late.worst_s
        assert not [error for error in load.errors if "no member of the HSM is in service" in str(error)], "m2 is"
