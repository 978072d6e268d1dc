"""Two channels over a socket pair: every call ends once, and one call's trouble is no other's."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from hsm.errors import (
    BadSignatureError,
    DeadlineError,
    HsmitmError,
    KeyLostError,
    MemberLostError,
    OverloadedError,
    PinRefusedError,
    RefusedError,
    SessionLostError,
    TryLaterError,
    UnavailableError,
)
from hsm.wire import channel
from hsm.wire.channel import Channel, Serve
from hsm.wire.frames import MAX_FRAME, Answer, Call, Cancel, Done, Frame
from hsm.wire.member import CODEC, Generate, KeyFound, Ping, Reply, Request
from tests.softhsm import in_s
from tests.waiting import until

MemberChannel = Channel[Request, Reply]


class Desk:
    """The serving end: answers a call once its label was released, with that label."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.received: list[str] = []
        self.cancelled: list[str] = []

    async def serve(self, _channel: MemberChannel, call: Call[Request]) -> Reply:
        """Wait for the gate of the call's label."""
        assert isinstance(call.body, Generate)
        label = call.body.label
        self.received.append(label)
        try:
            await self.gates[label].wait()
        except asyncio.CancelledError:
            self.cancelled.append(label)
            raise
        return KeyFound(label)


class _Spy:
    """A transport whose writes are seen."""

    def __init__(self, transport: asyncio.Transport, write: Callable[[bytes], object]) -> None:
        self._transport, self.write = transport, write

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def ask(label: str) -> Generate:
    """A call with a name."""
    return Generate(label, "p256")


async def attach(channel: MemberChannel, connection: socket.socket) -> None:
    """Give `channel` one end of a socket pair."""
    await asyncio.get_running_loop().create_connection(lambda: channel, sock=connection)


@asynccontextmanager
async def pair(
    serve: Serve[Request, Reply], *, cancels: bool = True
) -> AsyncIterator[tuple[MemberChannel, MemberChannel]]:
    """A calling channel and a serving one, connected."""
    lost: list[MemberChannel] = []
    caller = MemberChannel(CODEC, lost=lost.append, cancels=cancels)
    server = MemberChannel(CODEC, serve, lost.append)
    ours, theirs = socket.socketpair()
    await attach(caller, ours)
    await attach(server, theirs)
    try:
        yield caller, server
    finally:
        caller.close()
        server.close()
        await until(lambda: len(lost) == 2, "both ends of the connection are lost")
    assert caller.in_flight == server.in_flight == 0
    await until(lambda: caller.serving == server.serving == 0, "nothing is served for a caller that is gone")


@pytest.fixture
def desk() -> Desk:
    """A serving end with all gates shut."""
    return Desk()


async def test_answers_come_in_any_order(desk: Desk) -> None:
    """A slow call does not hold up those behind it: each gets its own answer as soon as that is there."""
    done: list[str] = []

    async def one(caller: MemberChannel, label: str) -> None:
        answer = await caller.call(ask(label), in_s(10))
        assert answer == KeyFound(label)
        done.append(label)

    async with pair(desk.serve) as (caller, server), asyncio.TaskGroup() as calls:
        for label in ("a", "b", "c"):
            calls.create_task(one(caller, label))
        await until(lambda: desk.received == ["a", "b", "c"], "all calls are received")
        assert (caller.in_flight, server.serving) == (3, 3)
        for number, label in enumerate(("c", "a", "b"), 1):
            desk.gates[label].set()
            await until(lambda: len(done) == number, f"{label} is answered")  # noqa: B023
    assert done == ["c", "a", "b"]


async def test_an_end_hears_only_what_is_for_it(desk: Desk) -> None:
    """An end that serves is sent no answers, and an end that asks no calls: a peer that does so is cut off."""
    async with pair(desk.serve) as (caller, server):
        caller._write(Answer(1, KeyFound("made up")))
        await until(lambda: not server.connected, "the one that serves ends it")
        assert "Invalid value 'answer'" in server.spoilt
    async with pair(desk.serve) as (caller, server):
        server._write(Call(1, in_s(10), ask("a")))
        await until(lambda: not caller.connected, "the one that asks ends it")
        assert "Invalid value 'call'" in caller.spoilt
    assert desk.received == []


async def test_a_late_answer_is_dropped(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A call ends with its deadline; the answer that comes later harms nothing, and the connection serves on."""
    async with pair(desk.serve, cancels=False) as (caller, server):
        before = time.monotonic()
        with pytest.raises(DeadlineError, match="no answer before the deadline"):
            await caller.call(ask("slow"), in_s(0.05))
        assert 0.05 <= time.monotonic() - before < 5
        assert caller.in_flight == 0
        desk.gates["slow"].set()
        await until(lambda: server.serving == 0, "the late answer is sent")
        desk.gates["next"].set()
        assert await caller.call(ask("next"), in_s(10)) == KeyFound("next")
        assert caller.in_flight == 0
    assert caplog.records == []


async def test_a_deadline_that_passed_sends_nothing(desk: Desk) -> None:
    """A call whose deadline has passed already does not reach the other end."""
    desk.gates["next"].set()
    async with pair(desk.serve) as (caller, _):
        with pytest.raises(DeadlineError, match="before the request was sent"):
            await caller.call(ask("late"), time.monotonic())
        await caller.call(ask("next"), in_s(10))
    assert desk.received == ["next"]


async def test_a_caller_that_gives_up_leaves_nothing_behind(desk: Desk) -> None:
    """A call that is cancelled is forgotten at once, and an answer that comes all the same dropped."""
    async with pair(desk.serve, cancels=False) as (caller, _):
        call = asyncio.create_task(caller.call(ask("a"), in_s(10)))
        await until(lambda: desk.received == ["a"], "the call is received")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert caller.in_flight == 0
        for label in ("a", "b"):
            desk.gates[label].set()
        assert await caller.call(ask("b"), in_s(10)) == KeyFound("b")


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_what_nobody_waits_for_is_not_served(desk: Desk, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is given up, or late, is told to the other end once, which stops serving it and sends no answer; the
    calls beside it are served on."""
    async with pair(desk.serve) as (caller, server):
        sent: list[Frame] = []
        for end in (caller, server):
            monkeypatch.setattr(end, "_write", _noting(sent, end._write))
        beside = asyncio.create_task(caller.call(ask("beside"), in_s(10)))
        call = asyncio.create_task(caller.call(ask("a"), in_s(0.2 if how == "late" else 10)))
        await until(lambda: len(desk.received) == 2, "both calls are received")
        if how == "cancelled":
            call.cancel()
        await until(lambda: desk.cancelled == ["a"], "the other end stops")
        (end,) = await asyncio.gather(call, return_exceptions=True)
        assert type(end) is (asyncio.CancelledError if how == "cancelled" else DeadlineError)
        await until(lambda: server.serving == 1, "the call beside it is served on")
        desk.gates["beside"].set()
        assert await beside == KeyFound("beside")
        assert sent == [Cancel(2), Answer(1, KeyFound("beside"))]


def _noting(sent: list[Frame], write: Callable[[Frame], None]) -> Callable[[Frame], None]:
    def noted(frame: Frame) -> None:
        sent.append(frame)
        write(frame)

    return noted


@pytest.mark.parametrize("end", ["answer", "deadline", "connection"])
async def test_a_call_that_outlives_its_caller(desk: Desk, end: str) -> None:
    """A call that cannot be stopped is told to be over once its answer is there, or its time, or its connection."""
    over: list[int] = []
    async with pair(desk.serve, cancels=False) as (caller, _):
        deadline = in_s(0.2 if end == "deadline" else 10)
        call = asyncio.create_task(caller.call(ask("a"), deadline, lambda: over.append(caller.in_flight)))
        await until(lambda: desk.received == ["a"], "the call is received")
        call.cancel()
        await until(call.done, "its caller is gone at once")
        assert (caller.in_flight, over) == (1, [])
        if end == "answer":
            desk.gates["a"].set()
        elif end == "connection":
            caller.close()
        await until(lambda: over == [0], "it is over")
    assert over == [0]


async def test_a_call_that_is_answered_as_its_caller_leaves(desk: Desk) -> None:
    """A call whose answer and whose caller's end come in one moment is told to be over all the same."""
    over: list[int] = []
    async with pair(desk.serve) as (caller, _):
        call = asyncio.create_task(caller.call(ask("a"), in_s(10), lambda: over.append(caller.in_flight)))
        await until(lambda: desk.received == ["a"], "the call is received")
        caller._end(1, Done())
        call.cancel()
        await until(call.done, "its caller is gone")
        assert (call.cancelled(), over) == (True, [0])
        call = asyncio.create_task(caller.call(ask("b"), in_s(10), lambda: over.append(caller.in_flight)))
        desk.gates["b"].set()
        assert await call == KeyFound("b")
    assert over == [0]


async def test_an_answered_call_is_not_cancelled(desk: Desk) -> None:
    """To stop a call that was answered, or never made, changes nothing."""
    desk.gates["a"].set()
    desk.gates["b"].set()
    async with pair(desk.serve) as (caller, _):
        assert await caller.call(ask("a"), in_s(10)) == KeyFound("a")
        for number in (1, 2, 77):
            caller._write(Cancel(number))
        assert await caller.call(ask("b"), in_s(10)) == KeyFound("b")
    assert desk.cancelled == []


async def test_calls_of_one_moment_travel_together(desk: Desk) -> None:
    """Requests that come in one moment wake the peer once, and all are answered."""
    async with pair(desk.serve) as (caller, _):
        written: list[bytes] = []
        assert caller._transport is not None
        write = caller._transport.write
        caller._transport = _Spy(caller._transport, lambda data: (written.append(data), write(data)))
        for label in "abcde":
            desk.gates[label].set()
        answers = await asyncio.gather(*(caller.call(ask(label), in_s(10)) for label in "abcde"))
    assert answers == [KeyFound(label) for label in "abcde"]
    assert len(written) == 1


async def test_what_was_said_before_the_end_arrives(desk: Desk) -> None:
    """An end that speaks and closes in one moment is heard."""
    async with pair(desk.serve) as (caller, _):
        call = asyncio.create_task(caller.call(ask("a"), in_s(10)))
        await asyncio.sleep(0)  # the task's first step
        caller.close()
        with pytest.raises(MemberLostError):
            await call
        await until(lambda: desk.received == ["a"], "the call is received")


async def test_a_call_number_that_is_taken(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A peer that gives two calls one number at a time is cut off: it could have more calls served than are counted."""
    async with pair(desk.serve) as (caller, _server):
        for _ in range(2):
            caller._write(Call(7, in_s(10), ask("a")))
        await until(lambda: not caller.connected, "the connection is closed")
        await until(lambda: desk.cancelled == desk.received, "nothing is served any more")
    assert ["a second call 7 while the first is being served" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize("end", ["caller", "server"])
async def test_a_closed_connection_ends_its_calls(desk: Desk, end: str) -> None:
    """When either end goes away, calls in flight fail at once, and what was being served for them is given up."""
    async with pair(desk.serve) as (caller, server):
        calls = [asyncio.create_task(caller.call(ask(label), in_s(60))) for label in ("a", "b")]
        await until(lambda: len(desk.received) == 2, "both calls are received")
        (caller if end == "caller" else server).close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, MemberLostError)
            assert "closed under the request" in str(result)
        await until(lambda: sorted(desk.cancelled) == ["a", "b"], "nothing is served for a caller that is gone")
        with pytest.raises(MemberLostError, match="the connection is closed"):
            await caller.call(ask("c"), in_s(10))


@pytest.mark.parametrize("deadline", [float("nan"), float("inf"), 1e300])
async def test_a_deadline_that_is_none(desk: Desk, deadline: float) -> None:
    """A peer cannot set a timer that never comes, or one that is no number: it is cut off."""
    async with pair(desk.serve) as (caller, server):
        caller._write(Call(1, deadline, ask("a")))
        await until(lambda: server.spoilt, "it is cut off")
        assert server.spoilt == "a deadline that is none"
    assert desk.received == []


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\0\0\0\x05hello", id="no msgpack of ours"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param((MAX_FRAME + 1).to_bytes(4), id="longer than any frame"),
        pytest.param(b"\0\0\0\0", id="an empty frame"),
    ],
)
async def test_garbage_closes_the_connection(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A peer that sends what is not ours is cut off, with one line in the log; calls to it fail at once."""
    lost: list[MemberChannel] = []
    channel = MemberChannel(CODEC, lost=lost.append)
    ours, theirs = socket.socketpair()
    await attach(channel, ours)
    with theirs:
        theirs.setblocking(False)
        call = asyncio.create_task(channel.call(Ping(), in_s(60)))
        await until(lambda: channel.in_flight == 1, "the call is sent")
        theirs.send(garbage)
        with pytest.raises(MemberLostError):
            await call
        await until(lambda: lost == [channel], "the connection is lost")
        assert not channel.connected
    assert ["closing a connection that sent what is not ours" in line for line in caplog.messages] == [True]


async def test_a_peer_that_asks_too_much_is_told_to_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of calls at a time a peer is told to try later; the calls before are served on."""
    monkeypatch.setattr(channel, "MAX_SERVED", 2)
    async with pair(desk.serve) as (caller, server):
        calls = [asyncio.create_task(caller.call(ask(label), in_s(10))) for label in ("a", "b")]
        await until(lambda: server.serving == 2, "two calls are being served")
        with pytest.raises(OverloadedError, match="2 calls of this peer are served already"):
            await caller.call(ask("c"), in_s(10))
        for label in ("a", "b", "c"):
            desk.gates[label].set()
        assert await asyncio.gather(*calls) == [KeyFound("a"), KeyFound("b")]
        await until(lambda: server.serving == 0, "the calls are done")
        assert await caller.call(ask("c"), in_s(10)) == KeyFound("c")
    assert desk.received == ["a", "b", "c"]


def failing(error: Exception) -> Callable[[MemberChannel, Call[Request]], Awaitable[Reply]]:
    """A serving end with a fault: it answers pings alone."""

    async def serve(_channel: MemberChannel, call: Call[Request]) -> Reply:
        if isinstance(call.body, Ping):
            return Done()
        raise error

    return serve


async def test_a_bug_in_serving_ends_one_call(caplog: pytest.LogCaptureFixture) -> None:
    """A bug that one request meets is logged and answered without details; the connection lives on."""
    async with pair(failing(KeyError("secret"))) as (caller, _):
        with pytest.raises(RefusedError) as caught:
            await caller.call(ask("a"), in_s(10))
        assert str(caught.value) == "internal error; see the signer's log"
        assert await caller.call(Ping(), in_s(10)) == Done()
    (line,) = caplog.records
    assert (line.levelno, line.getMessage()) == (logging.ERROR, "serving Generate failed")
    assert line.exc_info


@pytest.mark.parametrize(
    "error",
    [
        TryLaterError("soon"),
        UnavailableError("no member", 0x05),
        OverloadedError("too much"),
        RefusedError("no", 0x63),
        DeadlineError("late"),
        MemberLostError("gone", 0x30),
        SessionLostError("stale", 0xB3),
        KeyLostError("no key"),
        BadSignatureError("does not verify"),
        PinRefusedError("wrong", 0x80000123),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_cross_as_what_they_are(error: HsmitmError, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the serving end arrives as the same class, with the same words and return code, to act on."""
    async with pair(failing(error)) as (caller, _):
        with pytest.raises(type(error)) as caught:
            await caller.call(ask("a"), in_s(10))
        assert type(caught.value) is type(error)
        assert (str(caught.value), caught.value.code) == (str(error), error.code)
        assert await caller.call(Ping(), in_s(10)) == Done()
    assert caplog.records == []


async def test_silence_is_measured_while_something_is_owed(desk: Desk) -> None:
    """A peer that owes an answer is silent from the question on; any frame of it, even another answer, is a sign."""
    async with pair(desk.serve) as (caller, _):
        assert caller.silent_s == 0
        before = time.monotonic()
        call = asyncio.create_task(caller.call(ask("a"), in_s(10)))
        await until(lambda: caller.silent_s > 0.02, "the silence is noticed")
        assert caller.silent_s <= time.monotonic() - before
        desk.gates["b"].set()
        asked = time.monotonic()
        await caller.call(ask("b"), in_s(10))
        assert caller.silent_s <= time.monotonic() - asked
        desk.gates["a"].set()
        await call
        assert caller.silent_s == 0


async def test_silence_goes_on_after_a_deadline(desk: Desk) -> None:
    """A peer that let a call run out of time is still silent when the next one is made, until it sends something."""
    async with pair(desk.serve, cancels=False) as (caller, _):
        with pytest.raises(DeadlineError):
            await caller.call(ask("slow"), in_s(0.05))
        assert caller.silent_s >= 0.05
        with pytest.raises(DeadlineError):
            await caller.call(ask("slow too"), in_s(0.05))
        assert caller.silent_s >= 0.1
        desk.gates["slow"].set()
        await until(lambda: caller.silent_s == 0, "the late answer counts as a sign")


async def test_silence_begins_anew_after_a_sign(desk: Desk) -> None:
    """A peer that answers one of two calls and is then silent owes the other since that answer."""
    desk.gates["b"].set()
    async with pair(desk.serve) as (caller, _):
        call = asyncio.create_task(caller.call(ask("a"), in_s(10)))
        await until(lambda: caller.in_flight == 1, "the first call is sent")
        await caller.call(ask("b"), in_s(10))
        await until(lambda: caller.silent_s > 0.02, "the silence after the answer is noticed", 1)
        desk.gates["a"].set()
        await call


async def test_a_request_that_is_too_large_leaves_nothing_behind(desk: Desk) -> None:
    """A request that no frame can hold fails where it is made, and is not counted as in flight."""
    desk.gates["next"].set()
    async with pair(desk.serve) as (caller, _):
        with pytest.raises(ValueError, match=f"at most {MAX_FRAME} are sent"):
            await caller.call(ask("x" * MAX_FRAME), in_s(2))
        assert caller.in_flight == 0
        assert await caller.call(ask("next"), in_s(10)) == KeyFound("next")


async def test_an_answer_that_is_too_large_is_a_fault() -> None:
    """An answer that no frame can hold reaches the caller as an error, not as silence until the deadline."""

    async def serve(_channel: MemberChannel, _call: Call[Request]) -> Reply:
        return KeyFound("x" * MAX_FRAME)

    async with pair(serve) as (caller, _):
        with pytest.raises(RefusedError):
            await caller.call(ask("a"), in_s(2))
