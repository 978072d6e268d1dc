"""A connection that carries frames both ways: calls with an answer each, in any order. asyncio, one event loop.

Both ends use it: a caller with `call`, a server by giving `serve`. A call ends exactly once: with its answer, with its
deadline, or with the connection; its slot in `_pending` is removed by whoever ends it, in the event loop, so there is
nothing to lock. An answer that comes after the deadline finds no slot and is dropped. A caller that gives up, or whose
deadline passes, says so to the other end (`frames.Cancel`), which then stops serving that call. What a peer may cost
the end that serves is bounded (`hsm.wire.pressure`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import cast

from hsm.errors import DeadlineError, HsmitmError, MemberLostError, OverloadedError, RefusedError, from_wire
from hsm.wire import frames
from hsm.wire.frames import Answer, Call, Cancel, Codec, Fault, Frame
from hsm.wire.pressure import PER_TURN, PER_TURN_BYTES, Bound, Intake, Pressure

logger = logging.getLogger("hsmitm.channel")

type Serve[Q, A] = Callable[[Channel[Q, A], Call[Q]], Awaitable[A]]

MAX_SERVED = 1024
"""Calls of one peer that are served at a time. A worker has at most one mint in flight for each new name set; beyond
this it is told to try later instead of growing a queue."""
_PARTING_S = 1.0
_LONGEST_S = 86400.0
"""Until a deadline: whatever an operator asks for is done sooner."""


class Channel[Q, A](asyncio.Protocol):
    """One connection of one conversation. `lost` is called once, when it ends."""

    def __init__(
        self,
        codec: Codec[Q, A],
        serve: Serve[Q, A] | None = None,
        lost: Callable[[Channel[Q, A]], None] | None = None,
        *,
        cancels: bool = True,
        intake: Intake | None = None,
    ) -> None:
        """Without `serve` this end asks, and hears nothing but answers; with it, nothing but calls. `cancels` is
        whether the other end can stop serving a call; a member cannot interrupt a session."""
        self._serve = serve
        self._lost = lost
        self._cancels = cancels
        self._asked, self._answered = codec.asked(), codec.answered()
        self._transport: asyncio.Transport | None = None
        self._intake = intake or Intake()
        self._pressure: Pressure | None = None
        self._pending: dict[int, tuple[asyncio.Future[A], asyncio.TimerHandle, Callable[[], None] | None]] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._next_id = 0
        self._outgoing: list[bytes] = []
        self._silent_since: float | None = None
        self.spoilt = ""
        """What the peer sent that this conversation has no word for; the connection is ended for it."""
        self.exceeded: Bound | None = None
        """The bound that the peer went beyond; the connection is ended for it."""
        self.peer, self.gone = "a peer", _nothing
        """Who is at the other end, for the log, and what is called once it has gone. Written by who admitted it."""

    @property
    def connected(self) -> bool:
        """Whether a call can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def silent_s(self) -> float:
        """For how long the peer has owed an answer and sent nothing at all; late answers and faults count as signs."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    @property
    def in_flight(self) -> int:
        """Calls sent and not answered."""
        return len(self._pending)

    @property
    def serving(self) -> int:
        """Calls received and not answered."""
        return len(self._serving)

    async def call(self, body: Q, deadline: float, outlived: Callable[[], None] | None = None) -> A:
        """Send `body` and wait for its reply, at most until `deadline` (seconds on CLOCK_MONOTONIC).

        With `outlived` a call whose caller is cancelled stays in flight until its answer or its deadline, and
        `outlived` is called then, once. Raises DeadlineError, MemberLostError where the connection ends first, or the
        error that the peer named.
        """
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineError("the deadline passed before the request was sent")
        if not self.connected:
            raise MemberLostError("the connection is closed")
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._next_id += 1
        call_id = self._next_id
        frame = frames.encode(Call(call_id, deadline, body))
        answered: asyncio.Future[A] = loop.create_future()
        timer = loop.call_later(remaining, self._be_late, call_id)
        self._pending[call_id] = (answered, timer, outlived)
        self._send(frame)
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        try:
            return await answered
        except asyncio.CancelledError:
            if outlived is None:
                self._give_up(call_id)
            elif call_id not in self._pending:
                outlived()
            raise

    def close(self) -> None:
        """End the connection. Calls in flight fail with MemberLostError."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _be_late(self, call_id: int) -> None:
        self._give_up(call_id, DeadlineError("no answer before the deadline"))

    def _give_up(self, call_id: int, why: DeadlineError | None = None) -> None:
        if call_id in self._pending:
            self._end(call_id, why)
            if self._cancels:
                self._write(Cancel(call_id))

    def _end(self, call_id: int, result: A | HsmitmError | None) -> None:
        slot = self._pending.pop(call_id, None)
        if slot is None:
            return
        answered, timer, outlived = slot
        timer.cancel()
        if answered.done() and outlived is not None:
            outlived()
        if answered.done() or result is None:
            return
        if isinstance(result, HsmitmError):
            answered.set_exception(result)
        else:
            answered.set_result(result)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio hands over the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from asyncio's
        if self._serve is not None:
            self._pressure = Pressure(self._transport, self._intake, self._exceed)

    def data_received(self, data: bytes) -> None:
        """Whole frames are acted on at once; bytes that are no frame end the connection."""
        if self._pressure is not None:
            self._hear_some(data)
            return
        try:
            for answer in self._answered.feed(data):
                match answer:
                    case Answer():
                        self._end(answer.id, answer.body)
                    case Fault():
                        self._end(answer.id, from_wire(answer.kind, answer.message, answer.code, answer.calls_for))
        except ValueError as error:
            self._spoil(error)
        self._silent_since = time.monotonic() if self._pending else None

    def pause_writing(self) -> None:
        """asyncio: answers wait for the peer to take them."""
        if self._pressure is not None:
            self._pressure.fill()

    def resume_writing(self) -> None:
        """asyncio: the peer took them."""
        if self._pressure is not None:
            self._pressure.drain()

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call in flight fails now; calls being served are cancelled, their caller is gone."""
        for call_id in list(self._pending):
            self._end(call_id, MemberLostError("the connection was closed under the request"))
        for task in self._serving.values():
            task.cancel()
        if self._pressure is not None:
            self._pressure.close()
        self.gone()
        if self._lost is not None:
            self._lost(self)

    def _hear_some(self, data: bytes = b"") -> None:
        """Hear the requests of `data` and of what was left, so many in a turn of the event loop."""
        assert self._serve is not None
        assert self._pressure is not None
        if not self.connected:
            return
        heard, enough, before = 0, False, self._asked.held + len(data)
        try:
            for asked in self._asked.feed(data):
                self._hear(self._serve, asked)
                heard += 1
                if enough := heard == PER_TURN or before - self._asked.held >= PER_TURN_BYTES:
                    break
        except ValueError as error:
            self._spoil(error)
            return
        if enough:
            self._pressure.hold("turn")
            asyncio.get_running_loop().call_soon(self._hear_some)
        else:
            self._pressure.release("turn")
            self._pressure.note_half(self._asked.held, self._asked.frames)

    def _spoil(self, error: ValueError) -> None:
        self.spoilt = str(error)
        logger.warning("closing a connection that sent what is not ours: %s", error)
        self.close()
        # What was said before may still arrive; but nobody who does not read it keeps the connection open.
        if self._transport is not None:
            asyncio.get_running_loop().call_later(_PARTING_S, self._transport.abort)

    def _exceed(self, bound: Bound, what: str) -> None:
        self.exceeded = bound
        logger.warning("closing the connection of %s: %s", self.peer, what)
        if self._transport is not None:
            self._transport.abort()

    def _hear(self, serve: Serve[Q, A], call: Call[Q] | Cancel) -> None:
        if isinstance(call, Cancel):
            if call.id in self._serving:  # otherwise its answer is on the way
                self._serving[call.id].cancel()
            return
        if not call.deadline < time.monotonic() + _LONGEST_S:  # not a number, too: no timer could be set by it
            raise ValueError("a deadline that is none")
        if call.id in self._serving:
            raise ValueError(f"a second call {call.id} while the first is being served")
        if len(self._serving) >= MAX_SERVED:
            self._write(frames.fault(call.id, OverloadedError(f"{MAX_SERVED} calls of this peer are served already")))
        else:
            task = asyncio.get_running_loop().create_task(self._answer(serve, call))
            self._serving[call.id] = task
            task.add_done_callback(lambda _: self._serving.pop(call.id))

    async def _answer(self, serve: Serve[Q, A], call: Call[Q]) -> None:
        try:
            frame: Frame = Answer(call.id, await serve(self, call))
        except HsmitmError as error:
            frame = frames.fault(call.id, error)
        except Exception:  # a bug of ours must not end the connection of everybody else's calls
            logger.exception("serving %s failed", type(call.body).__name__)
            frame = Fault(call.id, RefusedError.__name__, "internal error; see the signer's log")
        try:
            self._write(frame)
        except ValueError as error:
            self._write(Fault(call.id, RefusedError.__name__, f"the answer cannot be sent: {error}"))

    def _write(self, frame: Frame) -> None:
        if self.connected:
            self._send(frames.encode(frame))

    def _send(self, frame: bytes) -> None:
        """Send `frame` with all others of this turn of the event loop: under load a system call that wakes the peer is
        what a signature costs most."""
        self._outgoing.append(frame)
        if len(self._outgoing) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._outgoing and self.connected:
            assert self._transport is not None
            self._transport.write(b"".join(self._outgoing))
            if self._pressure is not None:
                self._pressure.note_write()
        self._outgoing.clear()


def _nothing() -> None:
    """Nobody is to be told."""
