"""What both ends of HTTP/1 have in common: bytes to events, one message at a time.

All that is undecided is in the object, never in a generator: while an event is on its way up, what answers it comes
back down through `send`, and may end the connection.
"""

from __future__ import annotations

import abc
import enum
from typing import ClassVar

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import HttpConnection, HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestEndOfMessage,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseProtocolError,
    ResponseTrailers,
)

from addons.edge.http1.bodies import Body
from addons.edge.http1.faults import FaultError
from addons.edge.http1.sections import Section
from addons.edge.http1.sending import Outgoing
from addons.edge.refusal import Class, EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.engine import backpressure


class Phase(enum.Enum):
    """What the next bytes are."""

    HEAD = enum.auto()
    BODY = enum.auto()
    WAITING = enum.auto()
    """Of the next message, which nobody reads before this one is answered."""
    PIPE = enum.auto()
    OVER = enum.auto()


class Http1Connection(HttpConnection, metaclass=abc.ABCMeta):
    """One connection, and one message of each direction at a time."""

    bounds: ClassVar[Bounds] = Bounds()
    """The worker's; `seam` sets them."""
    malformed: ClassVar[Class]

    ReceiveProtocolError: type[RequestProtocolError | ResponseProtocolError]
    ReceiveData: type[RequestData | ResponseData]
    ReceiveTrailers: type[RequestTrailers | ResponseTrailers]
    ReceiveEndOfMessage: type[RequestEndOfMessage | ResponseEndOfMessage]

    def __init__(self, context: Context, conn: Connection) -> None:
        """As mitmproxy makes its own."""
        super().__init__(context, conn)
        self.stream_id: int | None = None
        self.request: http.Request | None = None
        self.response: http.Response | None = None
        self.request_done = self.response_done = False
        self.phase = Phase.HEAD
        self._data = b""
        self._at = 0
        self._reading = False
        self._section: Section | None = None
        self._body: Body | None = None
        self._outgoing = Outgoing(0)
        self._ends = False
        self._around = backpressure.around(context)

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        # No generator of its own: each event of a connection would go through one more.
        if isinstance(event, HttpEvent):
            return self.send(event)
        if isinstance(event, events.DataReceived):
            return self.received(event.data)
        if isinstance(event, events.ConnectionClosed):
            return self.closed(event)
        if isinstance(event, events.Start):
            return _nothing()
        raise AssertionError(f"Unexpected event: {event}")

    def received(self, data: bytes) -> layer.CommandGenerator[None]:
        """Bytes from the peer."""
        if self.phase is not Phase.OVER:
            self._data, self._at = data, 0
            yield from self._read()

    @abc.abstractmethod
    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        """Part of the message that goes out."""

    @abc.abstractmethod
    def closed(self, event: events.ConnectionClosed) -> layer.CommandGenerator[None]:
        """The peer has ended its direction."""

    @abc.abstractmethod
    def read_head(self) -> layer.CommandGenerator[None]:
        """Read on in a head."""

    @abc.abstractmethod
    def refuse(self, fault: FaultError) -> layer.CommandGenerator[None]:
        """End what cannot be read on."""

    @abc.abstractmethod
    def keep_rest(self, rest: bytes) -> layer.CommandGenerator[None]:
        """Bytes that are not of this message."""

    def _read(self) -> layer.CommandGenerator[None]:
        """Read what there is. Nothing of it is held in here while commands are on their way: what they bring about may
        be that there is more to read, which whoever reads already does, however many messages have come at once."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._at < len(self._data):
                yield from self._read_some()
            self._data, self._at = b"", 0
        finally:
            self._reading = False

    def _read_some(self) -> layer.CommandGenerator[None]:
        try:
            if self.phase is Phase.HEAD:
                yield from self.read_head()
            elif self.phase is Phase.BODY:
                yield from self._read_body()
            else:
                rest, self._data, self._at = self._data[self._at :], b"", 0
                if self.phase is Phase.PIPE:
                    assert self.stream_id is not None
                    yield ReceiveHttp(self.ReceiveData(self.stream_id, rest))
                elif self.phase is Phase.WAITING:
                    yield from self.keep_rest(rest)
        except FaultError as fault:
            self.phase, self._data, self._at = Phase.OVER, b"", 0
            yield from self.refuse(fault)

    def begin_body(self, body: Body) -> layer.CommandGenerator[None]:
        """The head was passed on; what it announces follows."""
        self._body, self.phase = body, Phase.BODY
        if body.done:
            yield from self._end_message()

    def _read_body(self) -> layer.CommandGenerator[None]:
        assert self._body is not None
        assert self.stream_id is not None
        body = self._body
        self._at = body.take(self._data, self._at)
        done = body.done
        if body.content:
            yield ReceiveHttp(self.ReceiveData(self.stream_id, body.content))
            yield from backpressure.thought_about(
                self._around, self.conn, self.stream_id, self.bounds.stream_window_bytes
            )
        if done and self.phase is Phase.BODY:
            yield from self._end_message()

    def _end_message(self) -> layer.CommandGenerator[None]:
        assert self._body is not None
        assert self.stream_id is not None
        body, self._body = self._body, None
        if body.trailers:
            yield ReceiveHttp(self.ReceiveTrailers(self.stream_id, http.Headers(body.trailers)))
        yield from self.end_message()

    @abc.abstractmethod
    def end_message(self) -> layer.CommandGenerator[None]:
        """The peer's message is complete."""

    def refused(self, kind: Class, detail: str) -> EdgeRefusedHook:
        """Have it counted and told."""
        return EdgeRefusedHook(EdgeRefusal(self.context.client, kind, detail))

    def kind(self, fault: FaultError) -> Class:
        """The class of what is refused."""
        return self.malformed if fault.which == "malformed" else fault.which

    def close(self) -> layer.CommandGenerator[None]:
        """End the connection on behalf of the stream. A pipe's end is told to it when it has come."""
        if self.phase is Phase.PIPE:
            yield commands.CloseConnection(self.conn)
        else:
            yield from self.over()

    def over(self) -> layer.CommandGenerator[None]:
        """End the connection; whatever still comes is nothing."""
        self.phase, self._body = Phase.OVER, None
        yield commands.CloseConnection(self.conn)


def _nothing() -> layer.CommandGenerator[None]:
    """A connection begins with nothing to say."""
    yield from ()


# mitmproxy asks for its own class where a message is injected.
_http1.Http1Connection.register(Http1Connection)  # type: ignore[type-abstract]


def is_pipe(request: http.Request, response: http.Response) -> bool:
    """Whether what follows is another protocol (RFC 9110 sections 7.8 and 9.3.6)."""
    status = response.data.status_code
    return status == 101 or (200 <= status <= 299 and request.data.method.upper() == b"CONNECT")
