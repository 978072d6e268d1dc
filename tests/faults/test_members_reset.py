"""An operator resets the members under load: all in turn, one of them down, one of them hanging."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hsm.member.states import State
from tests.faults.rig import Rig, make_rig, module_rules
from tests.hsm.members import alive
from tests.softhsm import Store
from tests.waiting import until

DEAD = "C_Initialize rv 0x30"


@asynccontextmanager
async def members_reset(rig: Rig) -> AsyncIterator[list[str]]:
    """`hsmitm hsm reset`; what the operator reads."""
    yield await rig.group.reset(None)


@pytest.mark.parametrize("members", [1, 2, 3])
async def test_members_reset(partitions: list[Store], tmp_path: Path, members: int) -> None:
    """F34: All members get new processes in turn while they are busy: no request fails, none leaves service, and each
    logs in once more."""
    async with make_rig(tmp_path, partitions[:members], sessions=8) as rig, rig.load() as load:
        for hsm in rig.hsms.values():
            hsm.rules("C_Sign delay 15")  # so that there is always something in flight
        begun, before = rig.now(), {one.name: one.pid for one in rig.group.members}
        async with members_reset(rig) as told:
            assert [line.partition(": new sessions in process ")[0] for line in told] == list(rig.hsms)
        signed = {name: rig.signed_by(name) for name in rig.hsms}
        await load.more(100)
        for name, pid in before.items():
            assert rig.path(name, begun) == []
            await until(lambda name=name: rig.signed_by(name) > signed[name], f"{name} signs with its new process", 15)
            assert rig.logins(name) == rig.member(name).starts == 2
            assert not alive(pid)
            assert len(rig.history.said(f"^member {name}: new sessions in process .*; the old ones drain", begun)) == 1
        assert rig.path("group", begun) == []
        assert rig.counted("hsmitm_signature_errors_total") == 0, "the old sessions answer what they have"


async def test_members_reset_with_one_down(rig: Rig) -> None:
    """F34: With one member out of service a reset of all says so of that one, renews the other beside its old sessions,
    and the last member never leaves service."""
    async with rig.load() as load:
        begun = rig.now()
        with module_rules(rig, "m1", rules=[DEAD]):
            os.kill(rig.member("m1").pid, signal.SIGKILL)
            await until(lambda: rig.member("m1").starts > 2, "m1 cannot start")
            async with members_reset(rig) as told:
                assert told[0].startswith("m1: not reset: member m1 is down: ")
                assert told[1].startswith("m2: new sessions in process ")
            assert rig.path("m2", begun) == []
        await rig.until_up("m1")
        await load.more(50)
    assert "outage" not in rig.path("group", begun)
    assert rig.logins("m2") == 2


async def test_member_reset_that_does_not_start(rig: Rig) -> None:
    """F34: A reset whose new process cannot start changes nothing: the old sessions serve on."""
    async with rig.load() as load:
        begun, before = rig.now(), rig.member("m1").pid
        with rig.hsm("m1").fault(DEAD):
            async with members_reset(rig) as told:
                assert told[0].startswith("m1: not reset: ")
        assert (rig.member("m1").pid, rig.path("m1", begun)) == (before, [])
        signed = rig.signed_by("m1")
        await until(lambda: rig.signed_by("m1") > signed, "the old sessions serve")
        await load.more(20)
    assert rig.logins("m1") == 1


async def test_members_reset_twice_at_once(rig: Rig) -> None:
    """F34: Two operators who reset at the same time get their turns: never are two members renewed at once."""
    starting: list[int] = []

    async def watch() -> None:
        while True:
            starting.append(sum(one._starter.pid > 0 for one in rig.group.members))
            await asyncio.sleep(0)

    async with rig.load() as load:
        watching = asyncio.create_task(watch())
        told = await asyncio.gather(rig.group.reset(None), rig.group.reset(None))
        watching.cancel()
        await load.more(20)
    assert [len(lines) for lines in told] == [2, 2]
    assert max(starting) == 1
    assert rig.starts() == [3, 3]
    assert rig.states() == [State.UP, State.UP]
