"""What an operator does to a member: new sessions beside the old ones, other settings, a stop that loses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from hsm.errors import KeyLostError, MemberLostError, MisconfiguredError, PinRefusedError, TryLaterError
from hsm.group.group import Group
from hsm.member import succession
from hsm.member.life import Life
from hsm.member.member import Member
from hsm.member.process import MemberProcess
from hsm.member.settings import Failover
from hsm.member.starter import Starter
from hsm.member.states import State
from hsm.secrets.settings import PinSource
from hsm.wire.member import Reply, Request, Sign
from tests.hsm.members import (
    Load,
    alive,
    children,
    copy_of,
    hung,
    keys_of,
    kill,
    make_group,
    running,
    sign,
    steps,
    transitions,
    verifies,
)
from tests.softhsm import PIN, Store
from tests.waiting import until

PATIENT = Failover(attempt_timeout_s=5, budget_s=5, keep_alive_s=3600)


async def end_in_flight(group: Group, begun: list[asyncio.Task[bytes]]) -> None:
    """The requests that were begun get signatures."""
    for signature in await asyncio.gather(*begun):
        assert verifies(group, signature)


async def begin(group: Group, requests: int, member: Member) -> list[asyncio.Task[bytes]]:
    """Requests that are in flight at `member`."""
    begun = [asyncio.create_task(sign(group)) for _ in range(requests)]
    await until(lambda: member.in_flight == requests, f"{requests} requests are in flight")
    return begun


# --- new sessions beside the old ones ---------------------------------------------------------------------------------


async def test_new_sessions_cost_no_request(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member whose sessions are renewed by an operator serves all the while, and then with the new ones alone."""
    caplog.set_level("INFO", "hsmitm.member")
    async with make_group(stores[:1]) as group:
        (member,) = group.members
        async with Load(group) as load:
            await load.more(50)
            first = member.pid
            said = await member.reset()
            assert not alive(first)
            await load.more(50)
        assert (load.errors, load.unverified) == ([], 0)
        assert said == f"new sessions in process {member.pid}, 2 of them; the old ones are gone"
        assert (member.starts, member.sessions) == (2, 2)
        assert transitions(group, "m1") == {"down -> starting": 1, "starting -> up": 1}
        assert f"member m1: new sessions in process {member.pid}; the old ones drain" in caplog.messages


async def test_requests_in_flight_end_on_the_old_sessions(stores: list[Store]) -> None:
    """New requests go to the new sessions at once; those in flight are let end on the old ones."""
    async with make_group(stores[:1], PATIENT) as group:
        (member,) = group.members
        first = member.pid
        with hung(first):
            begun = await begin(group, 3, member)
            resetting = asyncio.create_task(member.reset())
            await until(lambda: member.pid != first, "requests move")
            assert verifies(group, await sign(group))
            assert not any(one.done() for one in [*begun, resetting])
        await end_in_flight(group, begun)
        await resetting
        assert not alive(first)


async def test_old_sessions_that_do_not_end(stores: list[Store]) -> None:
    """Old sessions that hang are not waited for without end; their requests are made by the new ones."""
    async with make_group(stores[:1], PATIENT) as group:
        (member,) = group.members
        first = member.pid
        with hung(first):
            begun = await begin(group, 2, member)
            await member.reset(drain_s=0.2)
            assert not alive(first)
        await end_in_flight(group, begun)


async def test_other_settings(stores: list[Store]) -> None:
    """A member takes over another number of sessions without an interruption."""
    async with make_group(stores[:1]) as group:
        (member,) = group.members
        async with Load(group) as load:
            await load.more(20)
            await member.reset(structs.replace(member.settings, sessions=5))
            await load.more(20)
        assert load.errors == []
        assert (member.sessions, member.settings.sessions) == (5, 5)


async def test_a_doubted_member_gets_new_sessions(stores: list[Store]) -> None:
    """A member that hangs and is reset by an operator is in service with its new process, and stays so."""
    failover = Failover(attempt_timeout_s=0.7, budget_s=5, keep_alive_s=3600)
    async with make_group(stores[:1], failover) as group:
        (member,) = group.members
        first = member.pid
        with hung(first):
            begun = await begin(group, 1, member)
            await until(lambda: member.state is State.SUSPECT, "the member is doubted")
            resetting = asyncio.create_task(member.reset())
            await until(lambda: member.pid != first, "requests move")
            assert member.state is State.UP
            await until(resetting.done, "the old sessions are gone")
            assert (member.state, member.starts) == (State.UP, 2)
        await end_in_flight(group, begun)
        assert "up -> down" not in transitions(group, "m1")


async def test_the_old_sessions_say_nothing_about_the_new(stores: list[Store]) -> None:
    """A test signature that fails on the old sessions, while requests move, does not cost the member the new ones."""
    async with make_group(stores[:1], PATIENT) as group:
        (member,) = group.members
        assert member._life is not None
        channel, first, moved = member._life.process.channel, member.pid, asyncio.Event()
        call = channel.call

        async def lose_the_key(body: Request, deadline: float, *_: object) -> Reply:
            if not isinstance(body, Sign):
                return await call(body, deadline)
            await moved.wait()
            raise KeyLostError("no private key pkcs11:object=untrust;type=private")

        channel.call = lose_the_key  # type: ignore[method-assign]
        begun = await begin(group, 1, member)
        member._standing.doubt("so that the old sessions are examined")
        await until(lambda: member.in_flight == 2, "the test signature is asked for")
        resetting = asyncio.create_task(member.reset())
        await until(lambda: member.pid != first, "requests move")
        moved.set()
        await resetting
        await end_in_flight(group, begun)
        assert (member.state, member.starts) == (State.UP, 2)
        assert "up -> down" not in transitions(group, "m1")


async def test_keys_that_come_while_it_starts(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that is given another key while it starts serves that key as soon as it serves any."""
    keys = keys_of(stores[0])
    async with make_group(stores[:1], PATIENT, keys={"untrust": keys["untrust"]}) as group:
        (member,) = group.members
        start, late = Starter.start, [keys]

        async def meanwhile(*arguments: object, **more: object) -> Life:
            life = await start(*arguments, **more)  # type: ignore[arg-type]
            if late:
                group.assign(late.pop())
            return life

        monkeypatch.setattr(Starter, "start", meanwhile)
        kill(member)
        await until(lambda: member.serves("trust"), "it serves the new key")
        assert (member.starts, group.proved_by("untrust"), member.ignorant) == (3, ["m1"], False)


async def test_a_member_learns_keys_and_forgets_them(stores: list[Store]) -> None:
    """A member that learns a key starts a new life beside the old one; to forget one, and to know all, takes none."""
    keys = keys_of(stores[0])
    async with make_group(stores[:1], PATIENT, keys={"untrust": keys["untrust"]}) as group:
        (member,) = group.members
        group.assign(keys)
        assert (member.ignorant, member.serves("trust")) == (True, False)
        assert "has not looked for this key yet" in group.problems("trust")["m1"]
        assert await group.learn() == {}
        assert (member.starts, member.serves("trust"), member.serves("untrust")) == (2, True, True)
        assert await group.learn() == {}
        group.assign({"trust": keys["trust"]})
        assert await group.learn() == {}
        assert (member.starts, member.found.keys(), member.serves("untrust")) == (2, {"trust"}, False)
        assert "up -> down" not in transitions(group, "m1")


async def test_an_end_that_is_noticed_late(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose end takes long to be told does not take with it the one that has replaced it."""
    how, told = MemberProcess.how_it_ended, asyncio.Event()

    async def late(process: MemberProcess) -> str:
        await told.wait()
        return await how(process)

    monkeypatch.setattr(MemberProcess, "how_it_ended", late)
    async with make_group(stores[:1], PATIENT) as group:
        (member,) = group.members
        resetting = asyncio.create_task(member.reset())
        await until(lambda: member._starter.pid > 0, "a new process starts")
        first = kill(member)
        await until(lambda: member.pid != first or resetting.done(), "requests move")
        told.set()
        await resetting
        assert verifies(group, await sign(group))
        assert (member.state, member.starts) == (State.UP, 2)


# --- a reset that fails -----------------------------------------------------------------------------------------------


async def test_a_reset_that_fails_changes_nothing(stores: list[Store], tmp_path: Path) -> None:
    """New sessions that cannot be had, as without the PIN's file, leave the old ones in service with their settings."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own]) as group:
        (member,) = group.members
        before, first = member.settings, member.pid
        own.pin_file.unlink()
        async with Load(group) as load:
            await load.more(20)
            with pytest.raises(MisconfiguredError, match=f"cannot read the PIN file {own.pin_file}"):
                await member.reset(structs.replace(before, sessions=5))
            await load.more(20)
        assert load.errors == []
        assert (member.state, member.pid, member.sessions, member.settings) == (State.UP, first, 2, before)


async def test_a_wrong_pin_at_a_reset_is_tried_once(
    stores: list[Store], tmp_path: Path, spawned: list[dict[str, str]]
) -> None:
    """A PIN that was changed under a running member is tried once by a reset; the old sessions go on."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own]) as group:
        (member,) = group.members
        first = member.pid
        own.pin_file.write_text("wrong-pin")
        with pytest.raises(PinRefusedError, match="CKR_PIN_INCORRECT"):
            await member.reset()
        with pytest.raises(PinRefusedError, match="refused this PIN before"):
            await member.reset()
        assert (member.pid, member.state, len(spawned)) == (first, State.UP, 2)
        assert verifies(group, await sign(group))
        own.pin_file.write_text(PIN)
        await member.reset()
        assert verifies(group, await sign(group))


async def test_the_old_process_dies_meanwhile(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose old process dies while the new one starts is up again with one process, whichever it is."""
    async with make_group(stores[:1]) as group:
        (member,) = group.members
        spawn, killed = MemberProcess.spawn, []

        async def kill_the_old(environment: dict[str, str], on_lost: Callable[[], None] | None = None) -> MemberProcess:
            if not killed:
                killed.append(kill(member))
            return await spawn(environment, on_lost)

        monkeypatch.setattr(MemberProcess, "spawn", kill_the_old)
        async with Load(group) as load:
            await member.reset()
            await until(lambda: member.state is State.UP, "the member is up")
            await load.more(20)
        assert load.errors == []
        assert member.pid in children()
        assert not alive(killed[0])


async def test_a_reset_that_nobody_waits_for_any_more(stores: list[Store]) -> None:
    """A reset whose operator left leaves no old process behind, and none that was being started."""
    async with make_group(stores[:1], PATIENT) as group:
        (member,) = group.members
        others = children()
        first = member.pid
        with hung(first):
            begun = await begin(group, 1, member)
            resetting = asyncio.create_task(member.reset())
            await until(lambda: member.pid != first, "requests move, and the old sessions drain")
            resetting.cancel()
            await asyncio.gather(resetting, return_exceptions=True)
            assert not alive(first)
        await end_in_flight(group, begun)
        second = member.pid
        resetting = asyncio.create_task(member.reset())
        await until(lambda: member._starter.pid > 0, "a process starts")
        resetting.cancel()
        await asyncio.gather(resetting, return_exceptions=True)
        assert children() == others - {first} | {second}
        assert verifies(group, await sign(group))
        assert member.pid == second


# --- a member that is out of service ----------------------------------------------------------------------------------


async def test_a_member_that_is_down_is_started_at_once(stores: list[Store], tmp_path: Path) -> None:
    """A member that is down and waits for its next start is started at once when the operator asks for it."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own, stores[1]]) as group:
        member = group.members[0]
        away = own.pin_file.rename(tmp_path / "away")
        kill(member)
        await until(lambda: member.next_attempt - time.time() > 0.25, "the next start is far away")
        with pytest.raises(TryLaterError, match="member m1 is down: cannot read the PIN file"):
            await member.reset()
        away.rename(own.pin_file)
        await until(lambda: member.next_attempt - time.time() > 0.25, "the next start is far away")
        starts = member.starts
        assert await member.reset() == "it was down and is up again"
        assert (member.state, member.starts) == (State.UP, starts + 1)


async def test_settings_that_come_while_it_starts(stores: list[Store]) -> None:
    """Settings that arrive while a member is starting with the old ones are taken over all the same."""
    async with make_group(stores[:1]) as group:
        (member,) = group.members
        kill(member)
        await until(lambda: member.state is State.STARTING and member._starter.pid > 0, "the member starts")
        await member.reset(structs.replace(member.settings, sessions=5))
        assert (member.state, member.sessions) == (State.UP, 5)
        assert verifies(group, await sign(group))


async def test_settings_that_mend_a_member(stores: list[Store], tmp_path: Path) -> None:
    """A member that waits for an operator is up once it is given settings that are right."""
    wrong = stores[0].settings(pin_file=tmp_path / "missing")
    async with running(wrong, keys=keys_of(stores[0])) as member:
        assert member.state is State.QUARANTINED
        with pytest.raises(MisconfiguredError, match=r"member m1 is quarantined: cannot read the PIN file"):
            await member.reset()
        right = structs.replace(wrong, pin=PinSource(file=str(stores[0].pin_file)))
        assert await member.reset(right) == "it was quarantined and is up again"


# --- a group ----------------------------------------------------------------------------------------------------------


async def test_all_members_in_turn(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """All members are reset one after another under load, and no request fails."""
    at_once = [0]
    reset = Member.reset

    async def alone(member: Member, *, asked: bool) -> str:
        at_once.append(at_once[-1] + 1)
        try:
            return await reset(member, asked=asked)
        finally:
            at_once.append(at_once[-1] - 1)

    monkeypatch.setattr(Member, "reset", alone)
    async with make_group(stores) as group:
        before = [member.pid for member in group.members]
        async with Load(group, rate=300) as load:
            lines, _ = await asyncio.gather(group.reset(None), group.reset("m2"))
            await load.more(20)
        assert (load.errors, load.unverified) == ([], 0)
        assert [line.partition(": new sessions")[0] for line in lines] == ["m1", "m2", "m3"]
        assert not set(before) & {member.pid for member in group.members}
    assert max(at_once) == 1


async def test_one_member_by_its_name(stores: list[Store], tmp_path: Path) -> None:
    """One member is reset by its name; a name that no member has is told with those that are."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own, stores[1]]) as group:
        first, second = group.members
        before = first.pid
        assert len(await group.reset("m2")) == 1
        assert (first.pid, first.starts, second.starts) == (before, 1, 2)
        with pytest.raises(MisconfiguredError, match="there is no member 'm3'; known are m1, m2"):
            await group.reset("m3")
        own.pin_file.unlink()
        with pytest.raises(MisconfiguredError, match="cannot read the PIN file"):
            await group.reset("m1")
        lines = await group.reset(None)
        assert lines[0].startswith("m1: not reset: cannot read the PIN file")
        assert lines[1].startswith("m2: new sessions in process")


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2], ids=["the only member", "one of two"])
async def test_a_drained_member_answers_what_it_has(
    stores: list[Store], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A member that is taken out lets its requests in flight end, and gets no new ones; then it is gone."""
    caplog.set_level("INFO", "hsmitm.member")
    failover = Failover(attempt_timeout_s=5, budget_s=5, keep_alive_s=0.1)
    async with make_group(stores[:number], failover) as group:
        member = group.members[0]
        key = group.keys["untrust"]
        request = key.challenge()
        with hung(member.pid):
            begun = asyncio.create_task(member.sign(request, time.monotonic() + 5, "mint"))
            await until(lambda: member.in_flight == 1, "a request is in flight")
            stopping = asyncio.create_task(member.stop(drain=True))
            await until(lambda: member.state is State.DRAINING, "the member drains")
            assert (member.serving, member.away_for(0)) == (False, True)
            drained_for = time.monotonic() + 0.3
            await until(lambda: time.monotonic() > drained_for, "its next test signature would be due")
            assert not begun.done()
        assert key.verifies(request, await begun)
        await stopping
        assert (member.state, member.pid) == (State.STOPPED, 0)
        assert group.proved_by("untrust") == [f"m{place}" for place in range(2, number + 1)]
    assert steps(caplog.messages, "member m1") == [
        "down -> starting",
        "starting -> up",
        "up -> draining",
        "draining -> stopped",
    ]


async def test_a_drained_member_that_hangs(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that hangs is not waited for without end when it is taken out."""
    monkeypatch.setattr(succession, "DRAIN_S", 0.2)
    async with make_group(stores[:1], PATIENT) as group:
        (member,) = group.members
        with hung(member.pid):
            begun = asyncio.create_task(member.sign(group.keys["untrust"].challenge(), time.monotonic() + 5, "mint"))
            await until(lambda: member.in_flight == 1, "a request is in flight")
            await member.stop(drain=True)
            with pytest.raises(MemberLostError):
                await begun
        assert member.state is State.STOPPED
