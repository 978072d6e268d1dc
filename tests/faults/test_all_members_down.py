"""Every member is out of service at once: the machine room is dark."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.errors import OverloadedError, UnavailableError
from hsm.group.states import GroupState
from hsm.member import states
from hsm.member.settings import Failover
from hsm.member.states import BACKOFF_OUTAGE_MAX_S
from tests.faults.rig import CROWDED_S, Rig, make_rig, member_hung, module_rules
from tests.softhsm import Store
from tests.waiting import until

BUDGET_S = 0.8
MARGIN_S = 0.1 + CROWDED_S
DEAD = "C_Initialize rv 0x30"


@contextmanager
def all_members_down(rig: Rig) -> Iterator[None]:
    """Every process is killed, and no HSM answers a new one."""
    with module_rules(rig, *rig.hsms, rules=[DEAD]):
        for name in rig.hsms:
            os.kill(rig.member(name).pid, signal.SIGKILL)
        yield


async def test_all_members_down(partitions: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F32: While no member is in service each request fails within its budget and says why each member is away; once
    one HSM is back, requests are signed again within moments, however long the outage was, before the other HSM is."""
    monkeypatch.setattr(states, "BACKOFF_FIRST_S", 0.4)  # a long outage in little time: the fourth pause is 3.2 s
    async with make_rig(tmp_path, partitions[:2], failover=Failover(budget_s=BUDGET_S)) as rig:
        async with rig.load(failures=True) as load:
            begun = rig.now()
            with all_members_down(rig):
                await until(lambda: rig.group.state is GroupState.OUTAGE, "the group knows")
                (alarm,) = rig.history.said("^group: last -> outage: ", begun)
                assert alarm.level == logging.ERROR
                await until(lambda: min(rig.starts()) > 4, "the HSMs are tried again and again")
                assert not rig.group.in_service()
                failed = len(load.errors)
                await until(lambda: len(load.errors) > failed + 100, "requests fail")
                assert [rig.logins(name) for name in rig.hsms] == [1, 1]
                rig.hsm("m2").clear()
                returned = rig.now()
                await rig.until_up("m2")
                up = rig.now()
                await load.more(20)
                assert rig.path("m1", begun)[-1] in ("starting", "down")
                assert rig.group.in_service()
            await rig.group.reset("m1")
            recovered = rig.now()
            await load.more(100)
        assert load.errors
        assert {type(error) for error in load.errors} == {UnavailableError}
        during = [str(one.error) for one in load.answers if one.error and one.begun + one.took_s < returned]
        assert all("m1: " in text or "m2: " in text for text in during), set(during)
        assert max(one.took_s for one in load.answers if one.error) < BUDGET_S + MARGIN_S
        assert up - returned < 1.2 * BACKOFF_OUTAGE_MAX_S + 0.6, "the longest pause, and a start"
        first = min(one.begun + one.took_s for one in load.answers if one.error is None and one.begun > returned)
        assert first - up < 0.5
        assert not [one for one in load.answers if one.error and one.begun > recovered]
        assert [rig.logins(name) for name in rig.hsms] == [2, 2]


async def test_all_members_down_for_a_moment(rig: Rig) -> None:
    """F32: An outage that is shorter than a request's budget makes requests wait, and none fail."""
    async with rig.load() as load:
        begun = rig.now()
        for name in rig.hsms:
            os.kill(rig.member(name).pid, signal.SIGKILL)
        for name in rig.hsms:
            await rig.until_path(name, ["down", "starting", "up"], begun)
        await load.more(100)
    assert rig.path("group", begun)[:2] == ["last", "outage"]
    assert rig.path("group", begun)[-1] == "healthy"
    assert rig.starts() == [2, 2]
    assert [rig.logins(name) for name in rig.hsms] == [2, 2]


async def test_all_members_hung(partitions: list[Store], tmp_path: Path) -> None:
    """F32: Where all members hang, no request waits longer than its budget, and service is back with their first new
    process."""
    async with make_rig(tmp_path, partitions[:2], failover=Failover(budget_s=BUDGET_S)) as rig:
        async with rig.load(failures=True) as load:
            begun = rig.now()
            with member_hung(rig, "m1"), member_hung(rig, "m2"):
                for name in rig.hsms:
                    await rig.until_path(name, ["suspect", "down", "starting", "up"], begun, timeout_s=10)
            back = rig.now()
            await load.more(100)
        assert {type(error) for error in load.errors} <= {UnavailableError, OverloadedError}
        assert load.slowest_s < BUDGET_S + MARGIN_S
        assert back - begun < 4
        assert not [one for one in load.answers if one.error and one.begun > back]


async def test_sessions_come_back_slowly(partitions: list[Store], tmp_path: Path) -> None:
    """F32: A member that comes back opens at most twenty sessions a second, and serves with the first."""
    async with make_rig(tmp_path, partitions[:1], sessions=12) as rig, rig.load() as load:
        opened, begun = rig.hsm("m1").calls("C_OpenSession"), rig.now()
        os.kill(rig.member("m1").pid, signal.SIGKILL)
        await rig.until_path("m1", ["down", "starting", "up"], begun)
        up = rig.history.of("m1", begun)[-1].at
        most = {}
        while (so_many := rig.hsm("m1").calls("C_OpenSession") - opened) < 13:
            most[so_many] = rig.now() - up
            await until(lambda before=so_many: rig.hsm("m1").calls("C_OpenSession") - opened > before, "one more")
        assert min(most) <= 4
        assert rig.now() - up > 0.9 * (13 - min(most)) / 20
        await load.more(50)
