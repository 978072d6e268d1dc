"""Members that fail under load: what a request does then, whom it blames, and that no bad signature ever leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsm.errors import RefusedError, UnavailableError
from hsm.group.failover import TRIES
from hsm.group.group import Group
from hsm.group.states import GroupState
from hsm.member.health import Health
from hsm.member.member import Member
from hsm.member.process import MemberProcess
from hsm.member.settings import Failover
from hsm.member.states import State
from hsm.schemes import SCHEMES
from hsm.wire.member import Reply, Request, Sign
from tests.hsm.members import (
    Load,
    alive,
    copy_of,
    counted,
    hung,
    key_spoilt,
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

QUIET = Failover(keep_alive_s=3600)


def errors(group: Group, member: str, error: str = "") -> float:
    """Requests that `member` did not answer well."""
    labels = {"error": error} if error else {}
    return counted(group, "hsmitm_signature_errors_total", member=member, purpose="mint", **labels)


def retries(group: Group, step: str) -> float:
    """Attempts after a failed one, at the "same member" or the "next member"."""
    return counted(group, "hsmitm_signature_retries_total", step=step)


def take_your_time(group: Group) -> None:
    """Have all members be known as slow: an attempt may take the whole of its time then, also where peers are."""
    for member in group.members:
        assert member._life is not None
        member._life.health = Health(latency_s=1.0)


# --- a member that is lost --------------------------------------------------------------------------------------------


async def test_a_killed_member_costs_no_request(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member that is killed under load costs no request; it is back within seconds, after one start."""
    caplog.set_level("INFO")
    async with make_group(stores[:2]) as group:
        first = group.members[0]
        async with Load(group, rate=300) as load:
            await load.more(50)
            caplog.clear()
            process = kill(first)
            await until(lambda: first.starts == 2 and first.state is State.UP, "the member is up again", 5)
            await load.more(50)
        assert (load.errors, load.unverified) == ([], 0)
        assert load.slowest_s < 0.5
        assert [member.starts for member in group.members] == [2, 1]
        assert transitions(group, "m1") == {"down -> starting": 2, "starting -> up": 2, "up -> down": 1}
        assert transitions(group, "m2") == {"down -> starting": 1, "starting -> up": 1}
        assert transitions(group)["healthy -> last"] == 1
        assert (
            f"member m1: up -> down: member process {process}: it was killed by signal 9 (SIGKILL)" in caplog.messages
        )
        assert steps(caplog.messages, "member m1") == ["up -> down", "down -> starting", "starting -> up"]
        assert steps(caplog.messages, "group") == ["healthy -> last", "last -> healthy"]


async def test_requests_that_a_member_takes_with_it(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """Requests in flight at a member that is killed are made by the other at once, and each is told in the log."""
    caplog.set_level("INFO", "hsmitm.group")
    async with make_group(stores[:2], Failover(attempt_timeout_s=5, budget_s=5, keep_alive_s=3600)) as group:
        first = group.members[0]
        take_your_time(group)
        with hung(first.pid):
            calls = [asyncio.create_task(sign(group, message=b"%d" % number)) for number in range(10)]
            await until(lambda: first.in_flight and sum(call.done() for call in calls) > 2, "both were asked")
            lost = first.in_flight
            kill(first)
            for number, signature in enumerate(await asyncio.gather(*calls)):
                assert verifies(group, signature, message=b"%d" % number)
        assert errors(group, "m1", "MemberLost") == errors(group, "m1") == lost
        assert errors(group, "m2") == 0
        assert (retries(group, "next member"), retries(group, "same member")) == (lost, 0)
    told = [line for line in caplog.messages if line.startswith("a request failed at member m1")]
    assert told == [
        "a request failed at member m1 and is tried again: the connection was closed under the request"
    ] * int(lost)


@pytest.mark.alone
async def test_a_hung_member_costs_no_request(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member that hangs under load costs a few requests a fraction of a second, is doubted, killed and replaced."""
    caplog.set_level("INFO", "hsmitm.member")
    async with make_group(stores[:2], Failover(keep_alive_s=0.3)) as group:
        first = group.members[0]
        async with Load(group, rate=300) as load:
            await load.more(50)
            before = first.pid
            caplog.clear()
            with hung(before):
                await until(lambda: first.state is State.SUSPECT, "the member is doubted", 2)
                await until(lambda: first.starts == 2 and first.state is State.UP, "the member is up again", 5)
                assert not alive(before)
            await load.more(50)
        assert (load.errors, load.unverified) == ([], 0)
        assert load.slowest_s < group.failover.attempt_timeout_s + 0.1
        assert steps(caplog.messages, "member m1") == [
            "up -> suspect",
            "suspect -> down",
            "down -> starting",
            "starting -> up",
        ]
        assert steps(caplog.messages, "member m2") == []
        assert sum(latency > 0.09 for latency in load.latencies) <= load.tasks


async def test_all_members_are_killed_at_once(stores: list[Store]) -> None:
    """Requests that come while every member is being replaced wait for the first that is back, and succeed."""
    async with make_group(stores[:2]) as group:
        async with Load(group, rate=300) as load:
            await load.more(50)
            for member in group.members:
                kill(member)
            await until(lambda: group.state is GroupState.OUTAGE, "no member is in service")
            await until(lambda: group.state is GroupState.HEALTHY, "all members are back", 5)
            await load.more(50)
        assert (load.errors, load.unverified) == ([], 0)
        assert load.slowest_s < group.failover.budget_s
        assert [member.starts for member in group.members] == [2, 2]


async def test_members_that_all_hang_for_a_moment(stores: list[Store]) -> None:
    """A moment in which no member answers is waited out: nobody is restarted, and no request fails."""
    async with make_group(stores[:2]) as group:
        async with Load(group, rate=200) as load:
            await load.more(50)
            with ExitStack() as stack:
                for member in group.members:
                    stack.enter_context(hung(member.pid))
                over = time.monotonic() + 0.3
                await until(lambda: time.monotonic() > over, "nobody answers")
            await load.more(50)
        assert (load.errors, load.unverified) == ([], 0)
        assert [member.starts for member in group.members] == [1, 1]
        await until(lambda: group.state is GroupState.HEALTHY, "all members are trusted again")


async def test_a_key_that_is_deleted_on_one_member(stores: list[Store], tmp_path: Path) -> None:
    """A key that vanishes from one HSM costs no request and no restart; that member goes on with its other key."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own, stores[1]], Failover(keep_alive_s=0.2)) as group:
        async with Load(group, rate=300) as load:
            await load.more(50)
            for path in objects_of(own, "untrust"):
                path.unlink()
            note_change(own)
            await until(lambda: group.proved_by("untrust") == ["m2"], "the key is missed", 5)
            made = counted(group, "hsmitm_signatures_total", member="m1", purpose="mint")
            await load.more(100)
        assert (load.errors, load.unverified) == ([], 0)
        await asyncio.gather(*[sign(group, "trust") for _ in range(20)])
        assert "no private key pkcs11:object=untrust" in group.problems("untrust")["m1"]
        assert counted(group, "hsmitm_signatures_total", member="m1", purpose="mint") > made
        assert [member.starts for member in group.members] == [1, 1]


# --- tries ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 500])
async def test_tries_at_the_same_member(stores: list[Store], tmp_path: Path, count: int) -> None:
    """A failed member is tried again as often as configured, within the time of one attempt; then its peer is asked."""
    own = copy_of(stores[0], tmp_path / "own")
    failover = Failover(auto_recovery_retry=count, attempt_timeout_s=0.4, budget_s=5, keep_alive_s=3600)
    async with make_group([own, stores[1]], failover) as group:
        first, second = group.members
        assert first._life is not None
        assert second._life is not None
        first._life.health = Health(latency_s=0.02)  # so that an attempt there may take its time
        second._life.health = Health(latency_s=1.0)  # so that the other is asked first
        own.pin_file.unlink()
        with hung(first.pid):
            begun = asyncio.create_task(sign(group))
            await until(lambda: first.in_flight == 1, "the request is in flight")
            before = time.monotonic()
            kill(first)
        assert verifies(group, await begun)
        assert time.monotonic() - before < failover.attempt_timeout_s + 0.2
        again = retries(group, "same member")
        assert again == count if count < 4 else 3 < again < 20
        assert retries(group, "next member") == 1


async def test_a_member_that_hangs_is_not_tried_again(stores: list[Store]) -> None:
    """However many tries are configured, a member that hangs costs a request one attempt."""
    failover = Failover(auto_recovery_retry=500, attempt_timeout_s=0.5, budget_s=5, keep_alive_s=3600)
    async with make_group(stores[:2], failover) as group:
        with hung(group.members[0].pid):
            before = time.monotonic()
            for signature in await asyncio.gather(*[sign(group) for _ in range(8)]):
                assert verifies(group, signature)
            assert time.monotonic() - before < failover.attempt_timeout_s + 0.1
        assert errors(group, "m1", "Deadline") > 0
        assert retries(group, "same member") == 0


async def test_a_restart_within_an_attempt(stores: list[Store]) -> None:
    """With tries configured, the only member's restart is waited for at that member, and the request succeeds."""
    failover = Failover(auto_recovery_retry=500, attempt_timeout_s=3, budget_s=5, keep_alive_s=3600)
    async with make_group(stores[:1], failover) as group:
        (member,) = group.members
        with hung(member.pid):
            begun = asyncio.create_task(sign(group))
            await until(lambda: member.in_flight == 1, "the request is in flight")
            kill(member)
        assert verifies(group, await begun)
        assert retries(group, "same member") >= 1
        assert retries(group, "next member") == 0


async def test_a_request_is_not_tried_without_end(stores: list[Store]) -> None:
    """A request that fails wherever it is tried is given up after a few attempts, with what each member said."""
    failover = Failover(attempt_timeout_s=0.1, budget_s=5, keep_alive_s=3600)
    async with make_group(stores[:2], failover) as group:
        with ExitStack() as stack:
            for member in group.members:
                stack.enter_context(hung(member.pid))
            before = time.monotonic()
            with pytest.raises(UnavailableError, match=r"no member of the HSM signed \(m\d: .*; m\d: .*\)"):
                await sign(group)
            assert time.monotonic() - before < TRIES * failover.attempt_timeout_s + 1
        attempts = counted(group, "hsmitm_signature_errors_total", purpose="mint")
        assert attempts <= TRIES
        assert retries(group, "next member") == attempts - 1


async def test_the_newest_failure_is_what_counts(stores: list[Store], tmp_path: Path) -> None:
    """A request that two members take with them, and that is then refused, is refused and not called unavailable."""
    own = [copy_of(stores[0], tmp_path / name) for name in ("one", "two")]
    failover = Failover(attempt_timeout_s=5, budget_s=10, keep_alive_s=3600)
    async with make_group(own, failover) as group:
        take_your_time(group)
        for member in group.members:
            os.kill(member.pid, signal.SIGSTOP)
        begun = asyncio.create_task(group.sign("untrust", b"", b"abc", in_s(10), "mint"))
        await until(lambda: any(member.in_flight for member in group.members), "one is asked")
        asked, other = sorted(group.members, key=lambda member: -member.in_flight)
        kill(asked)
        await until(lambda: other.in_flight == 1, "the other is asked")
        own[group.members.index(other)].pin_file.unlink()
        kill(other)
        with pytest.raises(RefusedError, match="a digest of 3 bytes"):
            await begun
        assert errors(group, asked.name) == 2


# --- blame ------------------------------------------------------------------------------------------------------------


async def test_a_failure_of_one_member_is_its_own(stores: list[Store], tmp_path: Path) -> None:
    """An error that may be the request's fault is the member's once a peer signs the same: it is examined for that."""
    own = copy_of(stores[0], tmp_path / "own")
    async with make_group([own, stores[1]], QUIET) as group:
        first = group.members[0]
        with key_spoilt(own, "untrust"):
            while "up -> suspect" not in transitions(group, "m1"):
                for signature in await asyncio.gather(*[sign(group) for _ in range(10)]):
                    assert verifies(group, signature)
            assert first.last_error == "CKR_GENERAL_ERROR (0x5) while signing"
            assert errors(group, "m1", "MemberLost") == errors(group, "m1") > 0
        await until(lambda: group.state is GroupState.HEALTHY, "the member is trusted again")
        assert transitions(group, "m2") == {"down -> starting": 1, "starting -> up": 1}
        assert errors(group, "m2") == 0


async def test_a_request_that_fails_everywhere_is_nobodys_fault(stores: list[Store], tmp_path: Path) -> None:
    """A request that two members fail at alike is refused: nobody can take members down with bad input."""
    own = [copy_of(stores[0], tmp_path / name) for name in ("one", "two")]
    async with make_group(own, QUIET) as group:
        with key_spoilt(own[0], "untrust"), key_spoilt(own[1], "untrust"):
            for _ in range(10):
                with pytest.raises(RefusedError, match="failed alike wherever it was tried: CKR_GENERAL_ERROR"):
                    await sign(group, "untrust")
            for _ in range(10):
                assert verifies(group, await sign(group, "trust"), "trust")
        assert (errors(group, "m1"), errors(group, "m2")) == (10, 10)
        await until(lambda: group.state is GroupState.HEALTHY, "all members are trusted")
        assert [member.starts for member in group.members] == [1, 1]


async def test_a_key_that_is_broken_everywhere(stores: list[Store], tmp_path: Path) -> None:
    """A key whose object is broken on every HSM takes no member, and no other key, with it: also not at a start."""
    own = [copy_of(stores[0], tmp_path / name) for name in ("one", "two")]
    async with make_group(own, Failover(keep_alive_s=0.05)) as group:
        with key_spoilt(own[0], "untrust"), key_spoilt(own[1], "untrust"):
            before = time.monotonic()
            while time.monotonic() - before < 0.5:
                with pytest.raises((RefusedError, UnavailableError)):
                    await sign(group, "untrust")
                assert verifies(group, await sign(group, "trust"), "trust")
            assert [member.starts for member in group.members] == [1, 1]
            for member in group.members:
                await member.reset()
            assert group.proved_by("trust") == ["m1", "m2"]
            assert "CKR_GENERAL_ERROR" in group.problems("untrust")["m1"]
            assert verifies(group, await sign(group, "trust"), "trust")


# --- bad signatures ---------------------------------------------------------------------------------------------------


def use_signature_of_another_message(process: MemberProcess, times: int) -> None:
    """Have the next answers of a process be real signatures by the right key, but of another message."""
    channel = process.channel
    call = channel.call

    async def wrong(body: Request, deadline: float, *outlived: Callable[[], None]) -> Reply:
        nonlocal times
        if not isinstance(body, Sign) or times < 1:
            return await call(body, deadline, *outlived)
        times -= 1
        digest = SCHEMES[body.scheme].digest(b"another")
        return await call(Sign(body.key, body.scheme, digest, b"another"), deadline, *outlived)

    channel.call = wrong  # type: ignore[method-assign]


def process_of(member: Member) -> MemberProcess:
    """The process of a member that has one."""
    assert member._life is not None
    return member._life.process


async def test_a_bad_signature_never_leaves(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member that gives a wrong signature is replaced and proves itself at length; the caller gets a right one."""
    async with make_group(stores[:2], QUIET) as group:
        first, second = group.members
        tests = counted(group, "hsmitm_signatures_total", member="m1", purpose="test")
        use_signature_of_another_message(process_of(first), times=1)
        for signature in await asyncio.gather(*[sign(group) for _ in range(10)]):
            assert verifies(group, signature)
        assert errors(group, "m1", "BadSignature") == 1
        assert errors(group, "m2") == 0
        await until(lambda: first.starts == 2 and first.state is State.UP, "the member is back", 5)
        assert second.starts == 1
        assert counted(group, "hsmitm_signatures_total", member="m1", purpose="test") - tests == 20 - len(group.keys)
    assert [line for line in caplog.messages if line.startswith("member m1: up")] == [
        "member m1: up -> down: member m1 returned a signature that does not verify"
    ]


async def test_a_second_bad_signature_needs_an_operator(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member that gives a second wrong signature within the hour serves nothing more until an operator resets it."""
    async with make_group(stores[:2], QUIET) as group:
        first = group.members[0]
        for starts in (1, 2):
            await until(lambda now=starts: first.starts == now and first.state is State.UP, "the member is back", 5)
            use_signature_of_another_message(process_of(first), times=1)
            for signature in await asyncio.gather(*[sign(group) for _ in range(10)]):
                assert verifies(group, signature)
        assert first.state is State.QUARANTINED
        assert "within an hour" in first.reason
        assert "2th" not in first.reason
        assert first.reason.endswith("have the HSM examined")
        assert group.proved_by("untrust") == ["m2"]
        assert await first.reset() == "it was quarantined and is up again"
    assert steps(caplog.messages, "member m1") == ["up -> down", "up -> quarantined"]


async def test_a_member_that_only_gives_bad_signatures_is_left_out(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that goes on giving wrong signatures does not pass its proof, and serves nothing."""
    async with make_group(stores[:2], QUIET) as group:
        first = group.members[0]
        spawn = MemberProcess.spawn

        async def spoilt(environment: dict[str, str], on_lost: Callable[[], None] | None = None) -> MemberProcess:
            process = await spawn(environment, on_lost)
            use_signature_of_another_message(process, times=1000)
            return process

        monkeypatch.setattr(MemberProcess, "spawn", spoilt)
        use_signature_of_another_message(process_of(first), times=1000)
        for signature in await asyncio.gather(*[sign(group) for _ in range(10)]):
            assert verifies(group, signature)
        await until(lambda: first.starts > 2 and first.state is State.DOWN, "the member was started again")
        assert "a signature that does not verify" in first.reason
        assert group.proved_by("untrust") == ["m2"]
        assert verifies(group, await sign(group))


async def test_a_bad_signature_of_the_only_member(stores: list[Store]) -> None:
    """With one member, the request that met a wrong signature is made again by its next process."""
    async with make_group(stores[:1], QUIET) as group:
        (member,) = group.members
        use_signature_of_another_message(process_of(member), times=1)
        assert verifies(group, await sign(group))
        assert member.starts == 2
