"""The turns of an HTTP/2 connection's layer: what it does at once, what at the end of a turn, and what it keeps.

What is sent goes out once a turn, and what came in is given back when the other side has taken it (`backpressure`). A
read that holds many frames is dealt with in steps, between which others have their turn.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, SendHttp
from mitmproxy.proxy.layers.http._base import HttpConnection, HttpEvent

from addons.edge.bucket import Bucket
from addons.edge.http2 import nghttp2
from addons.edge.http2.events import Event
from addons.edge.http2.session import Session
from addons.edge.settings import Bounds
from addons.engine import backpressure

EVENTS_A_TURN = 64
"""What is dealt with before others have their turn; each request is half a millisecond of CPU."""
_ONE_PULL = 131_072
"""Bytes that are written before the socket is asked whether it has taken them."""


@dataclass
class Flush(HttpEvent):
    """From one connection's layer to another's: all that I have for you came before this."""


class Meanwhile:
    """Which connections have something to send while one of an HTTP layer's deals with what it has read.

    They are told by that one, through the HTTP layer alone: the end of a turn comes through all layers, which takes as
    long as the bytes themselves.
    """

    def __init__(self) -> None:
        self.begun = False
        self.touched: set[Connection] = set()

    def begin(self) -> bool:
        """Whether nobody else has begun."""
        first, self.begun = not self.begun, True
        return first

    def end(self) -> None:
        """From here on connections look after themselves."""
        self.begun = False


_meanwhiles: weakref.WeakKeyDictionary[HttpLayer, Meanwhile] = weakref.WeakKeyDictionary()


class Paced(HttpConnection):
    """A connection's layer, without what messages and errors mean."""

    bounds: ClassVar[Bounds] = Bounds()
    client_side: ClassVar[bool]

    def __init__(self, context: Context, conn: Connection) -> None:
        super().__init__(context, conn)
        self._around = backpressure.around(context)
        self._meanwhile = Meanwhile() if self._around is None else _meanwhiles.setdefault(self._around, Meanwhile())
        self.session = Session(self.bounds, client=self.client_side, validate=context.options.validate_inbound_headers)
        self._told: set[int] = set()
        """Streams whose message HttpLayer knows of and which has not ended: they hear when the connection breaks."""
        self._came: deque[Event] = deque()
        self._owed: dict[int, int] = {}
        """Bytes of each stream that came and have not been given back."""
        self._bucket = Bucket(self.bounds.http2_control_per_s, self.bounds.http2_control_burst)
        self._end_of_turn: commands.RequestWakeup | None = None
        self._when_taken: commands.RequestWakeup | None = None
        self._when_drained: commands.RequestWakeup | None = None
        self._later: commands.RequestWakeup | None = None
        self._ended_by: str | None = None
        """Why the peer's end is closed, while there is still something that it has said before."""

    def _theirs(self, stream_id: int) -> int:
        """The number that HttpLayer has for a stream."""
        return stream_id

    def _ours(self, stream_id: int) -> int | None:
        """This connection's number; None: it has none yet, or none any more."""
        return stream_id

    def waiting(self, stream_id: int) -> int:
        """As `backpressure.Keeps` says."""
        if self.session.backlog >= self.bounds.connection_window_bytes:
            return backpressure.EVERYTHING
        ours = self._ours(stream_id)
        return 0 if ours is None else self.session.waits(ours)

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, Flush):
            yield from self._flush()
        elif isinstance(event, HttpEvent):
            yield from self._send(event)
        elif isinstance(event, events.DataReceived):
            yield from self._receive(event.data)
        elif isinstance(event, events.Wakeup):
            yield from self._wake(event.command)
        elif isinstance(event, events.Start):
            yield from self._settle()
        elif isinstance(event, events.ConnectionClosed):
            yield from self._closed(self.conn.error or "peer closed connection")
        else:
            raise TypeError(f"unexpected event: {event!r}")

    def _closed(self, why: str) -> layer.CommandGenerator[None]:
        """The peer has gone. Answers that came before are given first: a server that goes away says all it has to say
        and closes at once, and one read may hold it all. A client that has gone asks for nothing any more."""
        if self._came and self.client_side:
            self._ended_by = why
        else:
            yield from self._close(why)

    def _wake(self, command: commands.Command) -> layer.CommandGenerator[None]:
        if command is self._end_of_turn:
            self._end_of_turn = None
            yield from self._flush()
        elif command is self._when_taken:
            self._when_taken = None
            self._give_back()
            yield from self._hold()
            yield from self._flush()
        elif command is self._when_drained:
            self._when_drained = None
            yield from self._flush()
        elif command is self._later:
            self._later = None
            yield from self._work()

    def _handle(self, event: Event) -> layer.CommandGenerator[None]:
        """The peer did something."""
        raise NotImplementedError

    def _send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        """HttpLayer has something for the peer."""
        raise NotImplementedError

    def _fail(self) -> layer.CommandGenerator[None]:
        """The connection cannot go on."""
        raise NotImplementedError

    def _close(self, message: str) -> layer.CommandGenerator[None]:
        """It has ended."""
        raise NotImplementedError

    def _receive(self, data: bytes) -> layer.CommandGenerator[None]:
        session = self.session
        session.receive(data)
        if session.control:
            flood = not self._bucket.take(session.control, time.monotonic())
            session.control = 0
            if flood and not session.flooded:
                session.flooded = True
                session.terminate(nghttp2.ENHANCE_YOUR_CALM, "too many control frames")
        if session.flooded:
            self._came.clear()
        else:
            self._came += session.events
        session.events.clear()
        yield from self._work()

    def _work(self) -> layer.CommandGenerator[None]:
        """Deal with what has come, up to a turn's worth."""
        came, meanwhile = self._came, self._meanwhile
        first = meanwhile.begin()
        try:
            for _ in range(EVENTS_A_TURN):
                if not came:
                    break
                yield from self._handle(came.popleft())
        finally:
            if first:
                meanwhile.end()
        if came:
            if self._later is None:
                self._later = commands.RequestWakeup(0)
                yield self._later
                yield backpressure.Stop(self.conn, lambda: not came)
        elif self._ended_by is not None:
            yield from self._close(self._ended_by)
            return
        elif self.session.failed is not None:
            yield from self._fail()
            return
        elif len(self._told) > len(self.session.streams) + EVENTS_A_TURN:
            self._told &= self.session.streams
        if not first:
            yield from self._hold()
            yield from self._settle()
            return
        while meanwhile.touched:
            connection = meanwhile.touched.pop()
            if connection is not self.conn:
                yield SendHttp(Flush(0), connection)
        self._give_back()
        yield from self._hold()
        yield from self._flush()

    def _settle(self) -> layer.CommandGenerator[None]:
        """Have what is to be sent go out at the end of the turn."""
        if self._end_of_turn is not None or self._when_drained is not None:
            return
        if self._meanwhile.begun:
            self._meanwhile.touched.add(self.conn)
        else:
            self._end_of_turn = backpressure.EndOfTurn()
            yield self._end_of_turn

    def _flush(self) -> layer.CommandGenerator[None]:
        session = self.session
        if self._when_drained is not None or session.failed == "closed" or self._ended_by is not None:
            return
        data = session.pull(_ONE_PULL)
        if data:
            yield commands.SendData(self.conn, data)
        if session.failed is not None and not self._came:
            yield from self._fail()
            return
        if len(data) >= _ONE_PULL:
            self._when_drained = backpressure.WhenDrained(self.conn)
            yield self._when_drained
        if session.events:
            self._came += session.events
            session.events.clear()
            yield from self._work()

    def _hold(self) -> layer.CommandGenerator[None]:
        """Have what came given back when it has been taken."""
        if self._owed and self._when_taken is None:
            self._when_taken = backpressure.WhenTaken(self._something_taken)
            yield self._when_taken

    def _something_taken(self) -> bool:
        return any(self._held(one) < owed for one, owed in self._owed.items())

    def _held(self, stream_id: int) -> int:
        return backpressure.held(self._around, self._theirs(stream_id), towards_client=self.client_side)

    def _give_back(self) -> None:
        for stream_id, owed in list(self._owed.items()):
            held = min(self._held(stream_id), owed)
            if held < owed:
                self.session.give_back(stream_id, owed - held)
                if held:
                    self._owed[stream_id] = held
                else:
                    del self._owed[stream_id]
