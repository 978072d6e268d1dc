"""What one connection may cost the end that serves it: answers that nobody takes, frames that do not come to their end,
and more requests at once than others can wait for. asyncio, one event loop.

Reading stops while a peer does not take its answers, so what it asks for piles up at itself. What cannot be stopped is
bounded, and ends the connection: a peer of ours never comes near it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

Bound = Literal["unread answers", "half frame", "half frames of all"]

PER_TURN, PER_TURN_BYTES = 16, 1 << 16
"""Requests of one connection that are heard in a turn of the event loop, and about how many bytes of them: others want
to be heard, too."""
UNREAD_HIGH = 1 << 18
"""Bytes of answers that wait, above which nothing more is read. The kernel's buffer of a socket has about as much."""
UNREAD_MOST = 1 << 22
"""Answers to what was read before may still come: this is what they may be in all, four times the longest."""
UNREAD_S = 30.0
HALF_FRAME_S = 10.0
"""From a frame's first byte to its last. On one machine the longest takes milliseconds."""
HALF_FRAMES_MOST = 1 << 24
"""Bytes of frames that are not whole, of all connections of an end that serves: 16 of the longest."""


class Intake:
    """The half frames of all connections of an end that serves."""

    def __init__(self) -> None:
        self._held: OrderedDict[Pressure, int] = OrderedDict()
        self._sum = 0

    def note(self, one: Pressure, held: int) -> None:
        """A connection holds so many bytes of a frame that is not whole. Where that is too much in all, those that have
        waited longest are ended: a frame of ours is whole a moment later."""
        self._sum += held - self._held.get(one, 0)
        if held:
            self._held[one] = held  # in the place that it has, if it has one
        else:
            self._held.pop(one, None)
        while self._sum > HALF_FRAMES_MOST:
            oldest, bytes_ = self._held.popitem(last=False)
            self._sum -= bytes_
            oldest.exceed("half frames of all", f"{bytes_} bytes of a frame that is not whole, where memory is short")


class Pressure:
    """What one connection costs, and its end where that is too much."""

    def __init__(self, transport: asyncio.Transport, intake: Intake, end: Callable[[Bound, str], None]) -> None:
        """`end` ends the connection, with the bound that it exceeded and what it did in words."""
        self._transport = transport
        self._intake = intake
        self._end = end
        self._holds: set[str] = set()
        self._unread: asyncio.TimerHandle | None = None
        self._half: asyncio.TimerHandle | None = None
        self._frame = -1
        self._ended = False
        transport.set_write_buffer_limits(UNREAD_HIGH)

    # reading

    def hold(self, why: str) -> None:
        """Read nothing more, until each reason is gone."""
        if not self._holds and not self._ended:
            self._transport.pause_reading()
        self._holds.add(why)

    def release(self, why: str) -> None:
        """The reason is gone."""
        if why in self._holds:
            self._holds.discard(why)
            if not self._holds and not self._ended:
                self._transport.resume_reading()

    def note_half(self, held: int, frame: int) -> None:
        """What was read ends with so many bytes of the frame of this number; none where it ends with a whole one."""
        self._intake.note(self, held)
        if self._half is not None and (not held or frame != self._frame):
            self._half.cancel()
            self._half = None
        if held and self._half is None and not self._ended:
            self._frame = frame
            self._half = asyncio.get_running_loop().call_later(HALF_FRAME_S, self._be_late)

    def _be_late(self) -> None:
        loop = asyncio.get_running_loop()
        if self._holds:  # it is us who do not read
            self._half = loop.call_later(HALF_FRAME_S, self._be_late)
            return
        self.exceed("half frame", f"a frame that is not whole {HALF_FRAME_S:g} s after it began")

    # writing

    def fill(self) -> None:
        """More answers wait than UNREAD_HIGH."""
        self.hold("unread")
        if self._unread is None and not self._ended:
            self._unread = asyncio.get_running_loop().call_later(UNREAD_S, self._be_unread)

    def drain(self) -> None:
        """They were taken."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self.release("unread")

    def note_write(self) -> None:
        """Answers were handed to the transport."""
        if (waiting := self._transport.get_write_buffer_size()) > UNREAD_MOST:
            self.exceed("unread answers", f"{waiting} bytes of answers that it does not take")

    def _be_unread(self) -> None:
        waiting = self._transport.get_write_buffer_size()
        self.exceed("unread answers", f"{waiting} bytes of answers that it has not taken for {UNREAD_S:g} s")

    # the end

    def exceed(self, bound: Bound, what: str) -> None:
        """End the connection for that."""
        if not self._ended:
            self.close()
            self._end(bound, what)

    def close(self) -> None:
        """The connection is over."""
        self._ended = True
        self._intake.note(self, 0)
        for timer in (self._half, self._unread):
            if timer is not None:
                timer.cancel()
        self._half = self._unread = None
