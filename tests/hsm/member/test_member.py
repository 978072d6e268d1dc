"""A member over the lives of its process: what takes it down, what brings it back, and what it is doubted for."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from hsm.errors import DeadlineError, MemberLostError
from hsm.member import states
from hsm.member.life import Life
from hsm.member.member import Member
from hsm.member.process import MemberProcess
from hsm.member.settings import Failover
from hsm.member.starter import START_FLOOR_S
from hsm.member.states import CRASH_LOOP, State
from hsm.wire.member import Initialise, Vital
from tests.hsm.members import (
    MESSAGE,
    alive,
    children,
    copy_of,
    counted,
    hung,
    key_of,
    keys_of,
    kill,
    note_change,
    objects_of,
    running,
    steps,
    transitions,
)
from tests.softhsm import MODULE, PIN, SO_PIN, Store, in_s
from tests.waiting import until

QUIET = Failover(attempt_timeout_s=0.4, budget_s=5, keep_alive_s=3600)
"""No test signatures but those that something asks for."""
WATCHFUL = Failover(attempt_timeout_s=0.4, budget_s=5, keep_alive_s=0.1)


async def ask(member: Member, timeout_s: float = 10) -> bytes:
    """A signature by the key untrust, which the member has verified."""
    key = member._starter.keys["untrust"]
    return await member.sign(key.request(MESSAGE, key.scheme.digest(MESSAGE)), in_s(timeout_s), "mint")


def self_tests(member: Member) -> float:
    """Test signatures that the member made."""
    return counted(member._peers, "hsmitm_signatures_total", purpose="test")


# --- up, down and up again --------------------------------------------------------------------------------------------


async def test_comes_up(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member that is configured rightly logs in, proves its keys and signs; the log has a line for each step."""
    caplog.set_level("INFO", "hsmitm.member")
    async with running(stores[0]) as member:
        assert (member.state, member.starts, member.attempts, member.next_attempt) == (State.UP, 1, 0, 0)
        assert (member.sessions, member.in_flight, member.serving, member.last_error) == (2, 0, True, "")
        assert member.found == stores[0].keys
        assert [member.problem(key) for key in stores[0].keys] == ["", ""]
        assert member.opened is not None
        assert await ask(member)
        process = member.pid
        assert f"process {process}, partition {member.opened.partition}, 2 sessions" in member.reason
    assert (member.state, member.serving, member.sessions, member.pid) == (State.STOPPED, False, 0, 0)
    assert not alive(process)
    assert steps(caplog.messages, "member m1") == ["down -> starting", "starting -> up", "up -> stopped"]
    assert PIN not in caplog.text


async def test_a_killed_process_is_replaced(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member whose process is killed says that it is down and why, and signs again within seconds."""
    async with running(stores[0]) as member:
        first = kill(member)
        await until(lambda: member.state is State.DOWN, "the member is down")
        assert member.last_error == f"member process {first}: it was killed by signal 9 (SIGKILL)"
        assert abs(member.last_error_at - time.time()) < 5
        assert member.problem("trust") == f"member is down: {member.last_error}"
        await until(lambda: member.state is State.UP, "the member is up again", 5)
        assert member.pid != first
        assert member.starts == 2
        assert await ask(member)
        assert transitions(member._peers, "m1") == {
            "down -> starting": 2,
            "starting -> up": 2,
            "up -> down": 1,
        }
    assert [line for line in caplog.messages if line.startswith("member")] == [
        f"member m1: up -> down: member process {first}: it was killed by signal 9 (SIGKILL)"
    ]


async def test_requests_of_a_killed_process_fail_at_once(stores: list[Store]) -> None:
    """A request that the member's process takes with it fails at once, not with its deadline."""
    async with running(stores[0], QUIET) as member:
        with hung(member.pid):
            call = asyncio.create_task(ask(member, 60))
            await until(lambda: member.in_flight == 1, "the request is sent")
            kill(member)
            with pytest.raises(MemberLostError, match="closed under the request"):
                await call
        assert member.in_flight == 0


async def test_a_member_without_a_process_signs_nothing(stores: list[Store], tmp_path: Path) -> None:
    """A request to a member that is not in service fails at once, and names its state."""
    async with running(stores[0].settings(pin_file=tmp_path / "missing"), keys=keys_of(stores[0])) as member:
        with pytest.raises(MemberLostError, match="member m1 is quarantined"):
            await ask(member)


async def test_a_process_that_is_gone_serves_nothing(stores: list[Store]) -> None:
    """From the moment its process is known to be gone a member serves no key, and says so of each."""
    async with running(stores[0], QUIET) as member:
        assert member._life is not None
        await member._life.process.end()
        assert (member.state, member.serving, member.serves("trust")) == (State.UP, False, False)
        assert member.problem("trust") == "its process is gone"


async def test_a_member_that_cannot_come_up_waits_longer_and_longer(stores: list[Store], tmp_path: Path) -> None:
    """A member that was up and cannot start tells how often that was tried and when it is next; then it is up again."""
    own = copy_of(stores[0], tmp_path / "own")
    async with running(own) as member:
        away = own.pin_file.rename(tmp_path / "away")
        kill(member)
        await until(lambda: member.attempts >= 4 and member.state is State.DOWN, "the member was tried four times")
        assert 0 < member.next_attempt - time.time() < 2
        assert member.reason == f"cannot read the PIN file {own.pin_file}: No such file or directory"
        away.rename(own.pin_file)
        await until(lambda: member.state is State.UP, "the member is up again", 5)
        assert (member.attempts, member.next_attempt) == (0, 0)


async def test_a_crash_loop_is_told(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose process ends again and again is started again and again, and an error asks to look at it."""
    monkeypatch.setattr(states, "BACKOFF_FIRST_S", 0.001)
    async with running(stores[0]) as member:
        for starts in range(1, CRASH_LOOP + 1):
            process = kill(member)
            await until(lambda now=starts: member.starts > now and member.state is State.UP, "the member is up again")
        last = f"member process {process}: it was killed by signal 9 (SIGKILL)"
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    (told,) = (line for line in errors if line.startswith("member"))
    assert told.startswith(f"member m1 was started {CRASH_LOOP + 1} times within a minute")
    assert told.endswith(last)


async def test_a_start_that_hangs(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that hangs while it starts is killed after the time that a start may take, and the next one serves."""
    before = children()
    spawn, stopped = MemberProcess.spawn, []

    async def hang_once(environment: dict[str, str], on_lost: Callable[[], None] | None = None) -> MemberProcess:
        process = await spawn(environment, on_lost)
        if not stopped:
            os.kill(process.pid, signal.SIGSTOP)
            stopped.append(process.pid)
        return process

    monkeypatch.setattr(MemberProcess, "spawn", hang_once)
    settings = structs.replace(stores[0].settings(), start_timeout_s=0.4)
    async with running(settings, keys=keys_of(stores[0])) as member:
        assert (member.state, member.last_error) == (State.DOWN, "it did not start within 0.4 s")
        assert not alive(stopped[0])
        await until(lambda: len(children()) <= len(before) + 1, "the process that hung is reaped")
    assert steps(caplog.messages, "member m1") == ["starting -> down"]


async def test_a_start_is_not_waited_for_longer_than_starts_take(stores: list[Store]) -> None:
    """Once it is known how long a start takes, one that hangs costs seconds, not the whole time that it may take."""
    settings = structs.replace(stores[0].settings(), start_timeout_s=600.0)
    async with running(settings, keys=keys_of(stores[0])) as member:
        assert START_FLOOR_S <= member._starter._timeout_s(60.0) < 60
        member._starter._overdue = 30  # as after so many starts that were given up
        assert member._starter._timeout_s(60.0) == 60, "it may take longer now"


async def test_a_process_that_ends_under_its_proof(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose process ends while it proves its keys is not up; it is started afresh and proves them again."""
    prove, lives = Life.prove, []

    async def die_first(life: Life) -> None:
        lives.append(life)
        if len(lives) == 1:
            life.process._process.kill()
        await prove(life)

    monkeypatch.setattr(Life, "prove", die_first)
    async with running(stores[0]) as member:
        await until(lambda: member.state is State.UP, "the member is up", 5)
        assert (member.starts, len(lives)) == (2, 2)
        assert transitions(member._peers, "m1") == {
            "down -> starting": 2,
            "starting -> down": 1,
            "starting -> up": 1,
        }
    assert steps(caplog.messages, "member m1") == ["starting -> down"]


async def test_keys_that_are_away_for_a_moment(
    stores: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that the HSM could not sign with while its member started are served soon after, without an operator."""
    own = copy_of(stores[0], tmp_path / "own")
    (token,) = (own.directory / "tokens").iterdir()
    prove, lives = Life.prove, []

    async def prove_in_a_bad_moment(life: Life) -> None:
        lives.append(life)
        if len(lives) > 1:
            await prove(life)
            return
        token.rename(own.directory / "away")
        try:
            await prove(life)
        finally:
            (own.directory / "away").rename(token)

    monkeypatch.setattr(Life, "prove", prove_in_a_bad_moment)
    async with running(own) as member:
        await until(lambda: member.serves("trust") and member.serves("untrust"), "the keys are served", 5)


async def test_keys_that_are_put_there_later(stores: list[Store], tmp_path: Path) -> None:
    """A member that has none of its keys looks for them with each of its tests, and serves them once they are there."""
    own = copy_of(stores[0], tmp_path / "own")
    paths = [path for label in own.keys for path in objects_of(own, label)]
    away = [(path, path.rename(tmp_path / path.name)) for path in paths]
    async with running(own, WATCHFUL) as member:
        assert (member.state, member.serves("trust")) == (State.UP, False)
        for path, there in away:
            there.rename(path)
        note_change(own)
        await until(lambda: member.serves("trust") and member.serves("untrust"), "the keys are served", 5)
        assert member.starts == 1


# --- a member that hangs ----------------------------------------------------------------------------------------------


async def test_a_hung_process_is_replaced(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A member that hangs costs a request its time; it is doubted, then killed, and another process signs."""
    async with running(stores[0], QUIET) as member:
        first = member.pid
        with hung(first):
            before = time.monotonic()
            with pytest.raises(DeadlineError):
                await ask(member, QUIET.attempt_timeout_s)
            assert member.state is State.SUSPECT
            assert member.serving
            await until(lambda: member.state is State.DOWN, "the member is down")
            assert time.monotonic() - before < 2 * QUIET.attempt_timeout_s + 0.5
            await until(lambda: member.state is State.UP, "the member is up again", 5)
            assert not alive(first)
            assert await ask(member)
            assert member.starts == 2
    assert [line for line in caplog.messages if "hangs" in line] == [
        "member m1: suspect -> down: it hangs: no answer before the deadline to its test signature"
    ]
    assert steps(caplog.messages, "member m1") == ["up -> suspect", "suspect -> down"]


async def test_a_hang_is_found_before_a_client_meets_it(stores: list[Store]) -> None:
    """A member that hangs while nobody asks it anything is replaced all the same."""
    async with running(stores[0], WATCHFUL) as member:
        with hung(member.pid):
            await until(lambda: member.starts == 2 and member.state is State.UP, "the member is up again", 5)
        steps_taken = transitions(member._peers, "m1")
        assert (steps_taken["up -> suspect"], steps_taken["suspect -> down"]) == (1, 1)


async def test_a_slow_answer_is_no_hang(stores: list[Store]) -> None:
    """A member that answers late once, and soon again, is doubted for a moment and keeps its process."""
    async with running(stores[0], QUIET) as member:
        first = member.pid
        with hung(first), pytest.raises(DeadlineError):
            await ask(member, QUIET.attempt_timeout_s)
        await until(lambda: member.state is State.UP, "the member is trusted again")
        assert await ask(member)
        assert (member.pid, member.starts) == (first, 1)
        assert transitions(member._peers, "m1")["suspect -> up"] == 1


async def test_a_request_with_little_time_left_says_nothing(stores: list[Store]) -> None:
    """A request that comes with hardly any time left, or with none, does not have the member doubted."""
    async with running(stores[0], QUIET) as member:
        with hung(member.pid), pytest.raises(DeadlineError, match="no answer before the deadline"):
            await ask(member, 0.05)
        with pytest.raises(DeadlineError, match="before the request was sent"):
            await ask(member, 0)
        assert await ask(member)
        assert "up -> suspect" not in transitions(member._peers, "m1")


async def test_sessions_that_hang_beside_others(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A member one of whose sessions hangs gets a new process beside the old one, and is not out of service."""
    ask_process, told = Life.vital, []

    async def vital(life: Life, deadline: float) -> Vital:
        answer = await ask_process(life, deadline)
        if told:
            return answer
        told.append(answer)
        return structs.replace(answer, oldest_s=WATCHFUL.hang_s + 1, silent_s=WATCHFUL.hang_s + 1)

    monkeypatch.setattr(Life, "vital", vital)
    async with running(stores[0], WATCHFUL) as member:
        first = member.pid
        await until(lambda: member.pid not in (first, 0), "the process is replaced")
        await until(lambda: not alive(first), "the old process is gone")
        assert await ask(member)
        assert transitions(member._peers, "m1") == {"down -> starting": 1, "starting -> up": 1}
    assert caplog.messages == ["member m1: a session has not answered for 2.0 s; replacing its process"]


# --- doubts and tests -------------------------------------------------------------------------------------------------


async def test_a_member_that_fails_requests_is_examined(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """Five failed requests in a row have a member doubted; its own signature clears it, without a restart."""
    caplog.set_level("INFO", "hsmitm.member")
    error = MemberLostError("CKR_DEVICE_ERROR (0x30) while signing", 0x30)
    async with running(stores[0], QUIET) as member:
        for _ in range(4):
            member.blame(error)
        assert member.state is State.UP
        member.blame(error)
        assert member.state is State.SUSPECT
        await until(lambda: member.state is State.UP, "the member is trusted again")
        for _ in range(4):
            member.blame(error)
        assert member.state is State.UP
        assert member.starts == 1
    assert [line for line in caplog.messages if "suspect" in line] == [
        f"member m1: up -> suspect: too many requests failed, the last with {error}",
        "member m1: suspect -> up: its test signature is good",
    ]


async def test_failed_requests_ask_for_few_tests(stores: list[Store]) -> None:
    """A failed request has the member tested soon; many of them, as of bad input, do not drive one test each."""
    async with running(stores[0], QUIET) as member:
        before, begun = self_tests(member), time.monotonic()

        def asked_for_long() -> bool:
            member.ask_for_test()
            return time.monotonic() - begun > 0.5

        await until(asked_for_long, "half a second of failures")
        await until(lambda: self_tests(member) > before, "the member is tested")
        assert self_tests(member) - before <= 4


async def test_an_idle_member_is_tested(stores: list[Store]) -> None:
    """A member that nobody asks anything proves by signatures of its own that it would answer."""
    async with running(stores[0], WATCHFUL) as member:
        before = self_tests(member)
        await until(lambda: self_tests(member) >= before + 3, "three test signatures")
        assert member.latency_s > 0
        assert (member.state, member.starts) == (State.UP, 1)


# --- partitions that go and come --------------------------------------------------------------------------------------


async def test_an_hsm_that_is_reached_later(stores: list[Store], tmp_path: Path) -> None:
    """A member whose HSM shows nothing at start is tried again, and is up once the HSM is there."""
    own = copy_of(stores[0], tmp_path / "own")
    tokens = own.directory / "tokens"
    away = tokens.rename(own.directory / "away")
    tokens.mkdir()
    async with running(own) as member:
        assert member.state is State.DOWN
        assert "shows no initialised partition" in member.reason
        tokens.rmdir()
        away.rename(tokens)
        await until(lambda: member.state is State.UP, "the member is up")
        assert "starting -> quarantined" not in transitions(member._peers, "m1")


async def test_a_partition_that_was_up_may_come_back(stores: list[Store], tmp_path: Path) -> None:
    """A member that was up and whose partition vanishes is not given up: it is up once the partition is back."""
    own = copy_of(stores[0], tmp_path / "own")
    async with running(own, QUIET) as member:
        (token,) = (own.directory / "tokens").iterdir()
        away = token.rename(own.directory / "away")
        another = await MemberProcess.spawn(own.environment)
        await another.channel.call(Initialise(MODULE, "another", SO_PIN, PIN), in_s(20))
        await another.end()
        kill(member)
        await until(lambda: "no partition has label 'tests'" in member.reason, "the member misses its partition")
        await until(lambda: member.state is State.DOWN, "the member is down")
        away.rename(token)
        await until(lambda: member.state is State.UP, "the member is up again")
        assert await ask(member)


async def test_a_store_that_vanishes_under_a_member(
    stores: list[Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A partition whose store is gone is found out by test signatures, and serves again once the store is back."""
    own = copy_of(stores[0], tmp_path / "own")
    async with running(own, WATCHFUL) as member:
        tokens = own.directory / "tokens"
        away = tokens.rename(own.directory / "away")
        tokens.mkdir()
        await until(lambda: member.state is State.DOWN, "the member is down")
        assert member.state is State.DOWN
        tokens.rmdir()
        away.rename(tokens)
        await until(lambda: member.state is State.UP and member.starts > 1, "the member is up again")
        assert await ask(member)
    assert any("up -> down: none of its keys can be used any more" in line for line in caplog.messages)


async def test_a_request_that_meets_a_vanished_store(stores: list[Store], tmp_path: Path) -> None:
    """A request that finds its key gone has the other keys tried at once: a lost login looks the same."""
    own = copy_of(stores[0], tmp_path / "own")
    async with running(own, QUIET) as member:
        tokens = own.directory / "tokens"
        away = tokens.rename(own.directory / "away")
        tokens.mkdir()
        with pytest.raises(MemberLostError):
            await ask(member)
        await until(lambda: member.state is State.DOWN, "the member is down", 5)
        tokens.rmdir()
        away.rename(tokens)
        await until(lambda: member.state is State.UP, "the member is up again")
        assert await ask(member)


async def test_a_member_of_one_key(stores: list[Store], tmp_path: Path) -> None:
    """A member that loses the only key that it has is out of service with the request that finds out."""
    own = copy_of(stores[0], tmp_path / "own")
    async with running(own, QUIET, keys={"untrust": key_of(own, "untrust")}) as member:
        tokens = own.directory / "tokens"
        away = tokens.rename(own.directory / "away")
        tokens.mkdir()
        with pytest.raises(MemberLostError):
            await ask(member)
        assert member.state is State.DOWN
        assert member.reason.startswith("none of its keys is there any more: ")
        tokens.rmdir()
        away.rename(tokens)
        await until(lambda: member.state is State.UP, "the member is up again")
        assert await ask(member)
