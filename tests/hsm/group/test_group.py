"""Members that hold the same keys: which of them count, who is asked, and what a request waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from hsm.errors import HsmitmError, OverloadedError, RefusedError, UnavailableError
from hsm.group.group import Group
from hsm.group.states import GroupState
from hsm.group.waiting_line import MAX_WAITING
from hsm.member import examination, states
from hsm.member.health import Health
from hsm.member.key import Key
from hsm.member.process import MemberProcess
from hsm.member.settings import Failover
from hsm.member.states import State
from hsm.uri import KeyURI
from hsm.wire.member import Generate
from tests.hsm.members import (
    MESSAGE,
    Load,
    copy_of,
    counted,
    hung,
    key_of,
    keys_of,
    kill,
    make_group,
    note_change,
    objects_of,
    sign,
    steps,
    transitions,
    verifies,
)
from tests.softhsm import Store, in_s
from tests.waiting import until

PATIENT = Failover(attempt_timeout_s=5, budget_s=5, keep_alive_s=3600)


async def with_another(store: Store, label: str) -> Store:
    """`store` with another key in place of the one of this label."""
    for path in objects_of(store, label):
        path.unlink()
    process = await MemberProcess.spawn(store.environment)
    await process.channel.call(store.opening(1, writable=True), in_s(10))
    await process.channel.call(Generate(label, "p256"), in_s(10))
    await process.end()
    return store


def made_by(group: Group, member: str) -> float:
    """Signatures for requests that `member` made."""
    return counted(group, "hsmitm_signatures_total", member=member, purpose="mint")


# --- which members count for a key ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "problem"),
    [("missing", "no private key pkcs11:object=untrust;type=private on"), ("another", "their public keys differ")],
)
async def test_a_member_without_the_key(stores: list[Store], tmp_path: Path, what: str, problem: str) -> None:
    """A member whose key is missing, or is another one, is shown and not asked for it, and serves its other key."""
    own = copy_of(stores[0], tmp_path / "own")
    if what == "another":
        await with_another(own, "untrust")
    else:
        for path in objects_of(own, "untrust"):
            path.unlink()
    async with make_group([own, stores[1]]) as group:
        assert group.proved_by("untrust") == ["m2"]
        assert list(group.problems("untrust")) == ["m1"]
        assert problem in group.problems("untrust")["m1"]
        for signature in await asyncio.gather(*[sign(group, "untrust") for _ in range(10)]):
            assert verifies(group, signature, "untrust")
        assert (made_by(group, "m1"), made_by(group, "m2")) == (0, 10)
        assert group.proved_by("trust") == ["m1", "m2"]
        assert group.problems("trust") == {}
        await asyncio.gather(*[sign(group, "trust") for _ in range(20)])
        assert made_by(group, "m1") > 0
        assert counted(group, "hsmitm_signature_errors_total") == 0


async def test_a_key_under_other_labels(stores: list[Store]) -> None:
    """Members of a group may each call a key as they like: its public key finds it."""
    keys = {label: key_of(stores[0], label, uri=KeyURI(object="called otherwise")) for label in stores[0].keys}
    async with make_group(stores[:2], keys=keys) as group:
        for name in keys:
            assert group.proved_by(name) == ["m1", "m2"]
            assert verifies(group, await sign(group, name), name)


async def test_a_key_that_was_replaced_under_its_label(stores: list[Store], tmp_path: Path) -> None:
    """A member that comes back with another key of the same label is not used for it: every start proves the keys."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own]) as group:
        (member,) = group.members
        await with_another(own, "untrust")
        kill(member)
        await until(lambda: member.starts == 2 and member.serving, "the member is up again")
        assert group.proved_by("untrust") == []
        assert "public keys differ" in group.problems("untrust")["m1"]
        assert verifies(group, await sign(group, "trust"), "trust")


async def test_a_key_that_comes_back(stores: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was put on a partition again is served without a restart, and a request that waits gets it."""
    monkeypatch.setattr(examination, "LOOK_FOR_KEYS_EVERY_S", 0.1)
    own = copy_of(stores[0], tmp_path / "own")
    away = [(path, path.rename(tmp_path / path.name)) for path in objects_of(own, "untrust")]
    async with make_group([own], Failover(budget_s=5, keep_alive_s=0.1)) as group:
        begun = asyncio.create_task(sign(group, "untrust"))
        await until(lambda: group.waiting == 1, "the request waits")
        for path, there in away:
            there.rename(path)
        note_change(own)
        assert verifies(group, await begun, "untrust")
        assert group.members[0].starts == 1


# --- members with a key each ------------------------------------------------------------------------------------------


def keys_of_each(store: Store) -> dict[str, Key]:
    """Without high availability: the key trust is m1's, untrust is m2's."""
    holders = {"trust": "m1", "untrust": "m2"}
    return {name: key_of(store, name, members=frozenset({member})) for name, member in holders.items()}


async def test_members_with_a_key_each(stores: list[Store]) -> None:
    """Without high availability each key is its own member's: the other is not asked for it, nor said to lack it."""
    async with make_group(stores[:2], keys=keys_of_each(stores[0])) as group:
        assert (group.proved_by("trust"), group.proved_by("untrust")) == (["m1"], ["m2"])
        assert [list(member.found) for member in group.members] == [["trust"], ["untrust"]]
        await asyncio.gather(*[sign(group, "trust") for _ in range(10)])
        assert (made_by(group, "m1"), made_by(group, "m2")) == (10, 0)
        kill(group.members[0])
        await until(lambda: not group.proved_by("trust"), "the member is gone")
        assert list(group.problems("trust")) == ["m1"]
        assert group.problems("untrust") == {}
        assert verifies(group, await sign(group, "trust"), "trust")


async def test_the_only_member_of_a_key_is_given_its_time(stores: list[Store]) -> None:
    """A member that alone holds a key may take a whole attempt: no other could answer in its place."""
    failover = Failover(attempt_timeout_s=2, budget_s=4, keep_alive_s=3600)
    async with make_group(stores[:2], failover, keys=keys_of_each(stores[0])) as group:
        with hung(group.members[0].pid):
            begun = asyncio.create_task(sign(group, "trust"))
            for_long = time.monotonic() + 0.6
            await until(lambda: time.monotonic() > for_long, "the HSM stalls")
        assert verifies(group, await begun, "trust")
        assert counted(group, "hsmitm_signature_retries_total") == 0
        assert transitions(group, "m1") == {"down -> starting": 1, "starting -> up": 1}


async def test_a_key_whose_only_member_is_quarantined(stores: list[Store], tmp_path: Path) -> None:
    """A request for a key whose only member waits for an operator fails at once, whatever other members do."""
    broken = stores[0].settings("m1", pin_file=tmp_path / "missing")
    async with make_group([broken, stores[1]], PATIENT, keys=keys_of_each(stores[0]), all_up=False) as group:
        before = time.monotonic()
        with pytest.raises(UnavailableError, match=r"m1: member is quarantined: cannot read the PIN file"):
            await sign(group, "trust")
        assert time.monotonic() - before < 1
        assert verifies(group, await sign(group, "untrust"), "untrust")


# --- who is asked -----------------------------------------------------------------------------------------------------


async def test_members_share_the_requests(stores: list[Store]) -> None:
    """Three members that hold a key all serve it."""
    async with make_group(stores) as group:
        messages = [b"%d" % number for number in range(90)]
        for message, signature in zip(
            messages, await asyncio.gather(*[sign(group, "trust", message) for message in messages]), strict=True
        ):
            assert verifies(group, signature, "trust", message)
        shares = [made_by(group, member.name) for member in group.members]
        assert sum(shares) == 90
        assert all(share >= member.slots for share, member in zip(shares, group.members, strict=True))


async def test_what_is_refused_is_not_asked_twice(stores: list[Store]) -> None:
    """A request that is wrong in itself is refused once, and costs no member anything."""
    async with make_group(stores[:2]) as group:
        with pytest.raises(RefusedError, match="a digest of 3 bytes"):
            await group.sign("untrust", b"", b"abc", in_s(10), "mint")
        assert counted(group, "hsmitm_signature_errors_total") == 1
        assert counted(group, "hsmitm_signature_errors_total", error="Refused") == 1
        assert [(member.state, member.starts) for member in group.members] == [(State.UP, 1)] * 2
        assert verifies(group, await sign(group))


# --- waiting for a member ---------------------------------------------------------------------------------------------


async def test_a_request_waits_for_its_only_member(stores: list[Store]) -> None:
    """With one member, a request that comes while its process is replaced waits for that and succeeds."""
    async with make_group(stores[:1]) as group:
        (member,) = group.members
        kill(member)
        await until(lambda: not member.serving, "the member is gone")
        assert group.proved_by("untrust") == []
        assert verifies(group, await sign(group))
        assert member.starts == 2


async def test_nobody_can_be_waited_for(stores: list[Store], tmp_path: Path) -> None:
    """Where all members wait for an operator a request fails at once, and says of each member why."""
    members = [
        stores[0].settings("m1", pin_file=tmp_path / "missing"),
        stores[1].settings("m2", pin_file=tmp_path / "gone"),
    ]
    async with make_group(members, PATIENT, keys=keys_of(stores[0]), all_up=False) as group:
        before = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            await sign(group)
        assert time.monotonic() - before < 1
    assert str(caught.value) == (
        "no member of the HSM is in service ("
        f"m1: member is quarantined: cannot read the PIN file {tmp_path / 'missing'}: No such file or directory; "
        f"m2: member is quarantined: cannot read the PIN file {tmp_path / 'gone'}: No such file or directory)"
    )


async def test_the_budget_is_the_longest_that_a_request_waits(stores: list[Store], tmp_path: Path) -> None:
    """Without a member a request fails at the latest when its budget is spent, and says why each member is away."""
    own = [copy_of(stores[0], tmp_path / name) for name in ("one", "two")]
    failover = Failover(attempt_timeout_s=0.3, budget_s=0.5)
    async with make_group(own, failover) as group:
        for store in own:
            store.pin_file.unlink()
        for member in group.members:
            kill(member)
        before = time.monotonic()
        ends = await asyncio.gather(*[sign(group) for _ in range(20)], return_exceptions=True)
        assert time.monotonic() - before < failover.budget_s + 0.4
        for end in ends:
            assert isinstance(end, UnavailableError)
        with pytest.raises(UnavailableError) as caught:
            await sign(group)
        for name, store in zip(("m1", "m2"), own, strict=True):
            assert f"{name}: member is " in str(caught.value)
            assert f"cannot read the PIN file {store.pin_file}" in str(caught.value)


async def test_a_request_may_be_made_to_wait_longer_without_a_member(stores: list[Store], tmp_path: Path) -> None:
    """Where the operator lets requests wait for a member, they do so beyond their budget, and then succeed."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own], Failover(attempt_timeout_s=0.2, budget_s=0.2)) as group:
        group.outage_grace_s = 10
        away = own.pin_file.rename(tmp_path / "away")
        kill(group.members[0])
        await until(lambda: group.state is GroupState.OUTAGE, "no member is in service")
        begun = asyncio.create_task(sign(group))
        beyond = time.monotonic() + 2 * group.failover.budget_s
        await until(lambda: time.monotonic() > beyond, "the budget is spent")
        assert not begun.done()
        away.rename(own.pin_file)
        assert verifies(group, await begun)


async def test_does_not_wait_beyond_the_callers_deadline(stores: list[Store]) -> None:
    """A request with little time ends then, whatever its budget, and asks nobody after that."""
    async with make_group(stores[:2], PATIENT) as group:
        with hung(group.members[0].pid), hung(group.members[1].pid):
            before = time.monotonic()
            with pytest.raises(UnavailableError):
                await sign(group, timeout_s=0.3)
            assert 0.3 <= time.monotonic() - before < 0.8
        failures = counted(group, "hsmitm_signature_errors_total")
        assert failures == counted(group, "hsmitm_signature_errors_total", error="Deadline")
        assert failures <= 3  # two attempts of a tenth of a second each, and the rest of the time
        assert counted(group, "hsmitm_signature_retries_total") == failures - 1
        assert verifies(group, await sign(group))


async def test_whoever_waits_for_a_member_alone(stores: list[Store], tmp_path: Path) -> None:
    """Whoever asks whether a key can be served learns it as soon as it can, or why it cannot."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own], Failover(budget_s=5)) as group:
        away = own.pin_file.rename(tmp_path / "away")
        kill(group.members[0])
        await until(lambda: not group.proved_by("trust"), "the member is gone")
        with pytest.raises(UnavailableError, match="m1: "):
            await group.wait_for_member("trust", in_s(0.1))
        waiting = asyncio.create_task(group.wait_for_member("trust", in_s(5)))
        away.rename(own.pin_file)
        await waiting
        assert group.proved_by("trust") == ["m1"]


async def test_everybody_who_waits_in_vain_is_told(stores: list[Store], tmp_path: Path) -> None:
    """When the last member turns out to need an operator, all requests that wait for it fail at once, not one."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own], Failover(attempt_timeout_s=8, budget_s=8)) as group:
        (member,) = group.members
        own.pin_file.write_text("wrong-pin")
        kill(member)
        await until(lambda: member.state is State.STARTING, "the member starts")
        before = time.monotonic()
        ends = await asyncio.gather(*[sign(group) for _ in range(10)], return_exceptions=True)
        assert time.monotonic() - before < 4
        assert member.state is State.QUARANTINED
        for end in ends:
            assert isinstance(end, UnavailableError)
            assert "m1: member is quarantined: CKR_PIN_INCORRECT" in str(end)


# --- the line ---------------------------------------------------------------------------------------------------------


async def test_requests_are_served_in_order(stores: list[Store]) -> None:
    """Requests that wait for a free session are served in the order in which they came, but for neighbours."""
    async with make_group(stores[:1], PATIENT, sessions=1) as group:
        (member,) = group.members
        served: list[int] = []
        with hung(member.pid):
            begun = [asyncio.create_task(sign(group)) for _ in range(30)]
            for number, task in enumerate(begun):
                task.add_done_callback(lambda _, number=number: served.append(number))
            await until(lambda: group.waiting + member.in_flight == 30, "all have asked")
            assert member.in_flight == 2
        await asyncio.gather(*begun)
        assert sorted(served) == list(range(30))
        assert max(abs(place - number) for place, number in enumerate(served)) <= 2
        assert group.waiting == 0


async def test_a_request_that_is_given_up_holds_up_nobody(stores: list[Store]) -> None:
    """A caller that leaves just when its turn comes passes the turn on."""
    async with make_group(stores[:1], PATIENT, sessions=1) as group:
        (member,) = group.members
        wake = group.freed
        with hung(member.pid):
            begun = [asyncio.create_task(sign(group)) for _ in range(5)]
            await until(lambda: (member.in_flight, group.waiting) == (2, 3), "three requests wait")

            def wake_whoever_leaves() -> None:
                wake()
                begun[2].cancel()

            assert member._life is not None
            member._life.freed = wake_whoever_leaves
        for end in (0, 1, 3, 4):
            assert verifies(group, await begun[end])
        assert begun[2].cancelled()
        assert (member.in_flight, group.waiting, group._dispatch._lines) == (0, 0, {})


async def test_a_request_that_is_given_up_while_it_waits(stores: list[Store]) -> None:
    """A caller that leaves the line costs those behind it nothing, and leaves no line behind."""
    async with make_group(stores[:1], PATIENT, sessions=1) as group:
        (member,) = group.members
        with hung(member.pid):
            begun = [asyncio.create_task(sign(group)) for _ in range(5)]
            await until(lambda: (member.in_flight, group.waiting) == (2, 3), "three requests wait")
            for place in (3, 2):
                begun[place].cancel()
            await until(lambda: group.waiting == 1, "both have left the line")
        for end in (0, 1, 4):
            assert verifies(group, await begun[end])
        assert (member.in_flight, group.waiting, group._dispatch._lines) == (0, 0, {})


async def test_a_key_that_is_removed_while_requests_wait(stores: list[Store]) -> None:
    """Requests that wait for a key that is taken away are refused at once; those for other keys are served."""
    async with make_group(stores[:1], PATIENT, sessions=1) as group:
        (member,) = group.members
        with hung(member.pid):
            begun = [asyncio.create_task(sign(group)) for _ in range(2)]
            await until(lambda: member.in_flight == 2, "every slot is taken")
            waiting = [asyncio.create_task(sign(group)) for _ in range(3)]
            other = asyncio.create_task(sign(group, "trust"))
            await until(lambda: group.waiting == 4, "they wait")
            untrust = group.keys["untrust"]
            group.assign({"trust": group.keys["trust"]})
            for end in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(end, RefusedError)
        for one in begun:
            assert untrust.scheme.verifies(untrust.public, untrust.scheme.digest(MESSAGE), await one)
        assert verifies(group, await other, "trust")
        assert (group.waiting, group._dispatch._lines, group.proved_by("untrust")) == (0, {}, [])


async def test_a_key_that_is_removed_while_its_member_is_away(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waits for a member to come back is refused as soon as its key is taken away."""
    spawn, gate = MemberProcess.spawn, asyncio.Event()

    async def late(*arguments: object, **more: object) -> MemberProcess:
        await gate.wait()
        return await spawn(*arguments, **more)  # type: ignore[arg-type]

    async with make_group(stores[:1], PATIENT) as group:
        monkeypatch.setattr(MemberProcess, "spawn", late)
        kill(group.members[0])
        await until(lambda: group.members[0].state is State.STARTING, "the member starts again")
        begun = asyncio.create_task(sign(group))
        await until(lambda: group.waiting == 1, "the request waits")
        group.assign({"trust": group.keys["trust"]})
        with pytest.raises(RefusedError, match="the key was removed"):
            await begun
        assert group.members[0].state is State.STARTING
        gate.set()
        await until(lambda: group.proved_by("trust"), "the member is back")


async def test_requests_that_are_given_up_do_not_overload_a_member(stores: list[Store]) -> None:
    """However many callers give up, no member is sent more than it has slots for; those that wait get them next."""
    async with make_group(stores[:1], PATIENT, sessions=1) as group:
        (member,) = group.members
        with hung(member.pid):
            given_up = [asyncio.create_task(sign(group)) for _ in range(2)]
            await until(lambda: member.in_flight == 2, "every slot is taken")
            begun = [asyncio.create_task(sign(group)) for _ in range(2)]
            await until(lambda: group.waiting == 2, "two requests wait")
            for one in given_up:
                one.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            assert (member.in_flight, group.waiting) == (2, 2)
            assert member._life is not None
            assert member._life.process.channel.in_flight == 2
        for one in begun:
            assert verifies(group, await one)


async def test_whose_turn_has_come_is_not_refused(stores: list[Store]) -> None:
    """A request that is the next in line is not refused for how many wait behind it."""
    async with make_group(stores[:1], PATIENT) as group:
        (member,) = group.members
        assert member._life is not None
        with hung(member.pid):
            begun = [asyncio.create_task(sign(group)) for _ in range(40)]
            await until(lambda: group.waiting + member.in_flight == 40, "all have asked")
            member._life.health = Health(latency_s=0.5)  # so that the last in the line would wait for long
            waiting = group.waiting
            for _ in range(5):
                group.freed()
                await until(lambda: group.waiting == waiting, "who was woken waits again")
        for signature in await asyncio.gather(*begun):
            assert verifies(group, signature)


async def test_a_stall_costs_no_request(stores: list[Store]) -> None:
    """A third of a second in which the only HSM does nothing makes requests wait; none is refused for that."""
    async with make_group(stores[:1]) as group:
        async with Load(group, rate=400, tasks=200) as load:
            await load.more(100)
            with hung(group.members[0].pid):
                over = time.monotonic() + 0.3
                await until(lambda: time.monotonic() > over, "the HSM stalls")
            await load.more(100)
        assert (load.errors, load.unverified) == ([], 0)
        assert load.slowest_s < group.failover.budget_s
        assert group.members[0].starts == 1


async def test_a_line_that_is_full(stores: list[Store]) -> None:
    """When too many requests wait already, any more are told at once to try later; the others are served."""
    failover = Failover(attempt_timeout_s=20, budget_s=20, keep_alive_s=3600)
    async with make_group(stores[:1], failover) as group:
        (member,) = group.members
        with hung(member.pid):
            begun = [asyncio.create_task(sign(group, timeout_s=30)) for _ in range(MAX_WAITING + member.slots)]
            await until(lambda: group.waiting == MAX_WAITING, "the line is full")
            more = [asyncio.create_task(sign(group)) for _ in range(20)]
            await until(lambda: all(one.done() for one in more), "all others are refused", 1)
            for end in await asyncio.gather(*more, return_exceptions=True):
                assert isinstance(end, OverloadedError)
                assert str(end) == f"{MAX_WAITING} requests wait for the HSM already"
        ends = await asyncio.gather(*begun, return_exceptions=True)
        assert [end for end in ends if isinstance(end, BaseException)] == []
        assert group.waiting == 0


async def test_more_than_can_be_signed_in_time(stores: list[Store]) -> None:
    """A request that would wait longer than it may is told so at once, and those before it are served."""
    async with make_group(stores[:1]) as group:
        (member,) = group.members
        assert member._life is not None
        member._life.health = Health(latency_s=0.05)  # forty a second, so that sixty can be signed in time
        before = time.monotonic()
        begun = [asyncio.create_task(sign(group, "trust")) for _ in range(200)]
        await until(lambda: any(one.done() and one.exception() for one in begun), "one is refused")
        assert time.monotonic() - before < group.failover.budget_s / 2
        ends = await asyncio.gather(*begun, return_exceptions=True)
        refused = [end for end in ends if isinstance(end, OverloadedError)]
        assert 100 < len(refused) < 160
        assert "requests wait for the HSM and would take" in str(refused[0])
        assert all(isinstance(end, bytes | OverloadedError) for end in ends)
        assert [index for index, end in enumerate(ends) if isinstance(end, bytes)] == list(range(200 - len(refused)))
        assert member.starts == 1


# --- what it tells ----------------------------------------------------------------------------------------------------


async def test_the_groups_states(stores: list[Store], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log and the counters tell each change of the group: how many members are left, and how urgent that is."""
    caplog.set_level("INFO", "hsmitm.group")
    own = [copy_of(stores[0], tmp_path / name) for name in ("one", "two")]
    async with make_group(own) as group:
        assert group.state is GroupState.HEALTHY
        caplog.clear()
        first, second = group.members
        for store in own:
            store.pin_file.rename(store.directory / "away")
        kill(first)
        await until(lambda: group.state is GroupState.LAST, "one member is left")
        kill(second)
        await until(lambda: group.state is GroupState.OUTAGE, "no member is left")
        assert abs(group.since - time.time()) < 5
        for store in own:
            (store.directory / "away").rename(store.pin_file)
        await until(lambda: group.state is GroupState.HEALTHY, "all members are back")
        first._standing.doubt("for this test")
        await until(lambda: group.state is GroupState.HEALTHY and first.state is State.UP, "it is trusted again")
        told = [
            (record.levelname, *record.message.split(": ")[1:]) for record in caplog.records if "group" in record.name
        ]
        assert told[:2] == [
            ("WARNING", "healthy -> last", "member m1 is down"),
            ("ERROR", "last -> outage", "member m2 is down"),
        ]
        assert [line[:2] for line in told[2:]] == [
            ("INFO", "outage -> last"),
            ("INFO", "last -> healthy"),
            ("INFO", "healthy -> degraded"),
            ("INFO", "degraded -> healthy"),
        ]
        assert steps(caplog.messages, "group") == [line[1] for line in told]
        assert transitions(group) == {
            "outage -> last": 2,
            "last -> healthy": 2,
            "healthy -> last": 1,
            "last -> outage": 1,
            "healthy -> degraded": 1,
            "degraded -> healthy": 1,
        }


async def test_an_outage_hurries_every_member(
    stores: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that was to stay away for long, while others served, is tried soon once none does."""
    monkeypatch.setattr(states, "BACKOFF_FIRST_S", 4.0)
    own = [copy_of(stores[0], tmp_path / name) for name in ("one", "two")]
    async with make_group(own) as group:
        first, second = group.members
        for store in own:
            store.pin_file.unlink()
        kill(first)
        await until(lambda: first.next_attempt - time.time() > 3, "it is to stay away for seconds")
        kill(second)
        await until(lambda: group.state is GroupState.OUTAGE, "no member is in service")
        await until(lambda: 0 < first.next_attempt - time.time() < 2, "it is tried soon", 0.8)


async def test_in_service_is_told_with_patience(stores: list[Store], tmp_path: Path) -> None:
    """An outage that requests can wait out is none to the workers; a longer one is, until it ends."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own], Failover(attempt_timeout_s=0.2, budget_s=0.4)) as group:
        assert group.in_service()
        asked = time.monotonic()
        await until(lambda: time.monotonic() > asked + 0.5, "nobody asks for longer than that")
        away = own.pin_file.rename(tmp_path / "away")
        kill(group.members[0])
        await until(lambda: not group.proved_by("trust"), "the member is gone")
        began = time.monotonic()
        assert group.in_service()
        await until(lambda: not group.in_service(), "the outage is told")
        assert time.monotonic() - began >= 0.3
        group.outage_grace_s = 60
        assert group.in_service()
        group.outage_grace_s = 0
        away.rename(own.pin_file)
        await until(group.in_service, "the end of the outage is told")


async def test_a_group_leaves_nothing_behind(stores: list[Store]) -> None:
    """A group that ends while a member hangs and another was just killed leaves no process and no descriptor."""
    async with make_group(stores) as group:
        os.kill(group.members[0].pid, signal.SIGSTOP)
        kill(group.members[1])
        begun = [asyncio.create_task(sign(group)) for _ in range(10)]
        await until(lambda: any(one.done() for one in begun), "requests are under way")
    for end in await asyncio.gather(*begun, return_exceptions=True):
        assert isinstance(end, bytes | HsmitmError)
