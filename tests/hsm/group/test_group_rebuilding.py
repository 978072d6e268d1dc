"""Members whose sessions are built anew: by an operator, by a reload, by themselves. Never two at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import combinations_with_replacement

import pytest
from msgspec import structs

from hsm.group.group import Group
from hsm.member.life import Life
from hsm.member.member import Member
from hsm.member.process import MemberProcess
from hsm.member.settings import Failover
from hsm.member.states import State
from hsm.wire.member import Vital
from tests.hsm.members import hung, keys_of, kill, make_group, sign, verifies
from tests.softhsm import Store
from tests.waiting import until

QUICK = Failover(keep_alive_s=0.1)
ROUNDS = 3

Rebuild = Callable[[Group, Member], Awaitable[object]]


async def by_reset(group: Group, member: Member) -> None:
    """An operator has the member reset."""
    await group.reset(member.name)


async def by_reload(group: Group, member: Member) -> None:
    """A reload found other settings for the member."""
    sessions = 5 - member.settings.sessions
    await group.change(member, structs.replace(member.settings, sessions=sessions))


async def by_itself(_group: Group, member: Member) -> None:
    """A session of the member hangs: it builds new ones."""
    before = member.pid
    seem_hung(member)
    await until(lambda: member.pid not in (0, before), f"{member.name} has replaced its process")


def seem_hung(member: Member) -> None:
    """The running process tells from now on that one of its calls has not returned for long."""
    life = member._life
    assert life is not None

    async def vital(_deadline: float) -> Vital:
        return Vital(99.0, 2, 0, 0, silent_s=99.0)

    life.vital = vital  # type: ignore[method-assign]


@asynccontextmanager
async def watched(group: Group) -> AsyncIterator[list[int]]:
    """How many members start a process beside an old one, looked at whenever anything happens."""
    seen: list[int] = [0]

    async def watch() -> None:
        while True:
            seen.append(sum(one._starter.pid > 0 and one.serving for one in group.members))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()


@pytest.mark.parametrize(
    ("one", "other"),
    list(combinations_with_replacement([by_reset, by_reload, by_itself], 2)),
    ids=lambda rebuild: rebuild.__name__,
)
async def test_never_two_members_at_a_time(stores: list[Store], one: Rebuild, other: Rebuild) -> None:
    """Whoever wants it, and whenever: one member gets new sessions while the other serves."""
    async with make_group(stores[:2], QUICK) as group:
        first, second = group.members
        for _ in range(ROUNDS):
            before = (first.pid, second.pid)
            async with watched(group) as seen:
                await asyncio.gather(one(group, first), other(group, second))
            assert max(seen) == 1, "both were built anew at once, or none"
            assert not set(before) & {first.pid, second.pid}
            assert verifies(group, await sign(group))
        assert [member.state for member in group.members] == [State.UP, State.UP]


async def test_all_three_meet(stores: list[Store]) -> None:
    """A reset of all, a reload and a member that replaces itself come to their ends when they meet, in any order."""
    async with make_group(stores, QUICK) as group:
        first, second, third = group.members
        async with watched(group) as seen, asyncio.timeout(30):
            await asyncio.gather(
                group.reset(None), by_reload(group, first), by_itself(group, third), by_reload(group, second),
                by_itself(group, first), group.reset("m3"),
            )  # fmt: skip
        assert max(seen) == 1
        assert all(member.serving for member in group.members)


async def test_a_member_that_would_replace_itself_is_reset_meanwhile(stores: list[Store]) -> None:
    """While a member waits for its turn to replace itself it may be lost, and a reset of it ends well nevertheless."""
    async with make_group(stores[:2], QUICK) as group:
        first, second = group.members
        async with group.turn.taken():
            seem_hung(first)
            looked = first._succession._examination._tested_at
            await until(lambda: first._succession._examination._tested_at > looked + 0.3, "it has found that out")
            before = kill(first)
            resetting = asyncio.create_task(group.reset("m1"))
            await until(lambda: first.state is State.UP and first.pid != before, "it is started again all the same")
        async with asyncio.timeout(5):
            assert len(await resetting) == 1
        assert second.starts == 1


async def test_a_member_that_dies_while_it_is_found_hung(stores: list[Store]) -> None:
    """A process that ends in the moment when it would be replaced is started again at once, as any other that ends."""
    async with make_group(stores[:2], QUICK) as group:
        first = group.members[0]
        life = first._life
        assert life is not None

        async def vital(_deadline: float) -> Vital:
            await life.process.end()
            await until(lambda: life.lost, "its end is known")
            return Vital(99.0, 2, 0, 0, silent_s=99.0)

        before = first.pid
        life.vital = vital  # type: ignore[method-assign]
        await until(lambda: first.serving and first.pid not in (0, before), "it is started again", 3)
        assert group.turn.free


async def test_a_start_that_hangs_holds_up_the_others_for_a_start_at_most(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member whose new process opens its partition and then hangs gives up its turn when its start timeout ends."""
    short = [structs.replace(store.settings(f"m{place}"), start_timeout_s=1.0) for place, store in enumerate(stores, 1)]
    async with make_group(short[:2], Failover(keep_alive_s=60), keys=keys_of(stores[0])) as group:
        first, second = group.members
        prove = Life.prove
        entered = asyncio.Event()

        async def hang(life: Life) -> None:
            if life._member != "m1":
                await prove(life)
                return
            with hung(life.process.pid):
                entered.set()
                await prove(life)

        monkeypatch.setattr(Life, "prove", hang)
        resetting = asyncio.create_task(group.reset(None))
        async with asyncio.timeout(1.0 + 2.0):
            await entered.wait()
            lines = await resetting
        assert lines[0] == "m1: not reset: it did not start within 1.0 s"
        assert lines[1].startswith("m2: new sessions in process")
        assert (first.state, second.state, first.starts) == (State.UP, State.UP, 2)
        assert isinstance(first._life, Life)
        assert isinstance(first._life.process, MemberProcess)
        assert verifies(group, await sign(group))
