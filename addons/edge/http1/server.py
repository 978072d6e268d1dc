"""Towards the client: requests in, answers out, one at a time."""

from __future__ import annotations

from mitmproxy import connection, http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)

from addons.edge import answers
from addons.edge.answers import Came
from addons.edge.exchange import Enough
from addons.edge.http1 import framing, heads, hops, sending
from addons.edge.http1.bodies import body
from addons.edge.http1.connection import Phase, is_pipe
from addons.edge.http1.faults import FaultError
from addons.edge.http1.lingering import Lingering
from addons.edge.http1.sections import EMPTY_LINES, Section
from addons.engine import backpressure
from addons.engine.leaving import Leaving
from addons.pages.sentences import Kind
from addons.tls.lingering import LastWords

_IN_TURN = 16
"""Requests that are answered at once, before others have their turn."""
_READ_BYTES = 65536
"""At most in one read."""
_ANSWERED = "the server has answered, and reads no more of the request"


class Http1Server(Lingering):
    """The client's connection."""

    malformed = "malformed-request"

    ReceiveProtocolError = RequestProtocolError
    ReceiveData = RequestData
    ReceiveTrailers = RequestTrailers
    ReceiveEndOfMessage = RequestEndOfMessage
    stream_id: int

    def __init__(self, context: Context) -> None:
        """As mitmproxy makes it."""
        super().__init__(context, context.client)
        self.stream_id = 1
        self._came: Came | None = None
        self._ahead = bytearray()
        self._too_far_ahead = False
        self._answering = self._enough = False
        self._in_turn = 0
        # A client that ends its direction may read on (RFC 9112 section 9.6), and looks like one that has gone.
        self._patient = bool(context.layers) and getattr(context.layers[0], "patient", False)
        self._ended: events.ConnectionClosed | None = None

    # from the client

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        return self._turn() if isinstance(event, events.Wakeup) else super()._handle_event(event)

    def _turn(self) -> layer.CommandGenerator[None]:
        if self.phase is Phase.WAITING and self.request is None:
            self._in_turn = 0
            yield from self._take_turn()

    def received(self, data: bytes) -> layer.CommandGenerator[None]:
        """As the base class."""
        self._in_turn = 0
        return super().received(data)

    def read_head(self) -> layer.CommandGenerator[None]:
        """Read a request's head. Raises FaultError."""
        if self._section is None:
            bounds = self.bounds
            self._section = Section(bounds.head_bytes, bounds.fields, bounds.field_bytes, empty_lines=EMPTY_LINES)
        self._at = self._section.take(self._data, self._at)
        lines = self._section.lines
        if lines is None:
            return
        self._section = None
        head = heads.read_request(lines)
        length = framing.request_length(head)
        request = head.request
        self._ends = framing.ends_connection(request)
        if b"connection" in head.named:
            request.headers.fields = tuple(hops.received(list(request.headers.fields), head.named))
        self.request = request
        self._came = request.data.method, request.headers.fields, request.data.host
        self.phase = Phase.BODY
        yield ReceiveHttp(RequestHeaders(self.stream_id, request, end_stream=length == 0))
        if self.phase is Phase.BODY:
            yield from self.begin_body(body(length, self.bounds, strict=True))

    def end_message(self) -> layer.CommandGenerator[None]:
        """The request is complete. A CONNECT has no end: what follows is the tunnel's."""
        assert self.request is not None
        if self.request.data.method != b"CONNECT":
            yield ReceiveHttp(RequestEndOfMessage(self.stream_id))
        yield from self.mark_done(request=True)

    def keep_rest(self, rest: bytes) -> layer.CommandGenerator[None]:
        """The client is ahead of us: a bounded part of that is read, and the rest when its turn has come."""
        most = self.bounds.head_bytes
        if len(self._ahead) + len(rest) > most + _READ_BYTES:
            self._too_far_ahead = True  # nobody holds it back: the rest is lost, and the connection with it
        if not self._too_far_ahead:
            self._ahead += rest
            if len(self._ahead) > most:
                yield backpressure.Stop(self.conn, lambda: len(self._ahead) <= most or self.phase is Phase.OVER)

    def closed(self, event: events.ConnectionClosed) -> layer.CommandGenerator[None]:
        """A client that ends its direction is one that has left, but for a patient site's."""
        match self.phase:
            case Phase.HEAD:
                if self._section is not None and self._section.kept:
                    yield commands.Log("Client closed connection before completing request headers.")
                yield from self.over()
            case Phase.BODY:
                assert self._body is not None
                try:
                    self._body.end()
                except FaultError as fault:
                    yield from self._left(str(fault), ErrorCode.GENERIC_CLIENT_ERROR)
            case Phase.WAITING:
                if self._patient and event.connection.state & connection.ConnectionState.CAN_WRITE:
                    self._ended = event
                else:
                    yield from self._left("Client disconnected.", ErrorCode.CLIENT_DISCONNECTED)
            case Phase.PIPE:
                yield ReceiveHttp(RequestEndOfMessage(self.stream_id))

    def _left(self, message: str, code: ErrorCode) -> layer.CommandGenerator[None]:
        if self.conn.state is not connection.ConnectionState.CLOSED:
            yield commands.CloseConnection(self.conn)
        self.phase = Phase.OVER
        yield ReceiveHttp(RequestProtocolError(self.stream_id, message, code=code))

    def refuse(self, fault: FaultError) -> layer.CommandGenerator[None]:
        """Say what was wrong, if nothing else was said yet, and end the connection."""
        kind = self.kind(fault)
        if not self._answering:
            page: Kind = "oversized-head" if kind == "oversized-head" else "malformed-request"
            yield answers.sent(self.conn, answers.of_kind(self.context.client, self._came, page, str(fault)))
        if fault.which != "malformed":
            yield from self.linger()
        else:
            yield LastWords(self.conn)
        if self.request is not None:
            yield ReceiveHttp(RequestProtocolError(self.stream_id, str(fault), code=ErrorCode.GENERIC_CLIENT_ERROR))
        yield self.refused(kind, str(fault))

    # to the client

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        """Part of the answer to the request that is being read, or was read last."""
        if isinstance(event, ResponseHeaders) and event.response.data.status_code <= 199 and not _switches(event):
            yield from self._send_interim(event)
            return
        if isinstance(event, ResponseProtocolError | Enough) and event.stream_id != self.stream_id:
            return  # its answer is complete
        if isinstance(event, Enough):
            self._enough = True
            yield from self.mark_done()
            return
        assert event.stream_id == self.stream_id
        if isinstance(event, ResponseHeaders):
            yield from self._send_head(event)
        elif isinstance(event, ResponseData):
            if raw := event.data if self.phase is Phase.PIPE else self._outgoing.data(event.data):
                yield commands.SendData(self.conn, raw)
        elif isinstance(event, ResponseTrailers):
            self._outgoing.trailers(list(event.trailers.fields))
        elif isinstance(event, ResponseEndOfMessage):
            if raw := self._outgoing.end():
                yield commands.SendData(self.conn, raw)
            yield from self.mark_done(response=True)
        elif isinstance(event, ResponseProtocolError):
            yield from self._send_error(event)
        else:
            raise AssertionError(f"Unexpected event: {event}")  # noqa: TRY004  # as mitmproxy's layers do

    def _send_interim(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        """A 1xx, to a client that waits for an answer and knows of them (RFC 9110 section 15.2)."""
        waits = self.request is not None and not self._answering and self.phase in (Phase.BODY, Phase.WAITING)
        if waits and event.stream_id == self.stream_id and self.request.data.http_version != b"HTTP/1.0":  # type: ignore[union-attr]
            yield commands.SendData(self.conn, sending.interim(event.response))

    def _send_head(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        assert self.request is not None
        self.response = event.response
        self._answering = True
        try:
            raw, self._outgoing = sending.response(
                self.request, event.response, end_stream=event.end_stream, last=Leaving.begun
            )
        except FaultError as fault:
            yield answers.sent(self.conn, answers.of_kind(self.context.client, self._came, "malformed-response"))
            yield from self.over()
            yield self.refused("malformed-response", str(fault))
            return
        self._ends = (
            self._ends or Leaving.begun or framing.ends_connection(event.response) or self._outgoing.length < -1
        )
        yield commands.SendData(self.conn, raw)

    def _send_error(self, event: ResponseProtocolError) -> layer.CommandGenerator[None]:
        if not self.conn.state & connection.ConnectionState.CAN_WRITE and self.phase is not Phase.PIPE:
            return  # within a pipe it may be that our direction alone was ended
        told = self.response_done
        if not self._answering and (page := answers.of_error(self.context.client, self._came, event)):
            told = True
            yield answers.sent(self.conn, page)
        if told and self.phase is Phase.BODY and self._body is not None:
            yield from self.linger()
        else:
            yield from self.close()

    def _stop_request(self) -> layer.CommandGenerator[None]:
        """Nobody reads the rest of an answered request: the connection ends, at once where its end is the answer's."""
        yield from self.over() if self._outgoing.length < -1 else self.linger()
        yield ReceiveHttp(RequestProtocolError(self.stream_id, _ANSWERED, code=ErrorCode.CLIENT_DISCONNECTED))

    def mark_done(self, *, request: bool = False, response: bool = False) -> layer.CommandGenerator[None]:
        """What is complete; when both are, the next request's turn has come."""
        self.request_done = self.request_done or request
        self.response_done = self.response_done or response
        if self.phase is Phase.OVER:
            return
        if not (self.request_done and self.response_done):
            if self.request_done:
                self.phase = Phase.WAITING
            elif self.response_done and (self._enough or self._outgoing.length < -1):
                yield from self._stop_request()
            return
        assert self.request
        assert self.response
        if self._too_far_ahead:
            yield from self.over()
        elif is_pipe(self.request, self.response):
            yield from self._begin_pipe()
        elif self._ends or not self._outgoing.exact:
            yield from self.over()
        else:
            yield from self._next()

    def _next(self) -> layer.CommandGenerator[None]:
        """The next request's turn; others' first, when this client has had a few that needed no server."""
        self.request = self.response = self._came = None
        self.request_done = self.response_done = self._answering = self._enough = False
        self.stream_id += 2
        self._in_turn += 1
        if self._in_turn > _IN_TURN and (self._ahead or self._at < len(self._data)):
            self.phase = Phase.WAITING
            yield commands.RequestWakeup(0)
        else:
            yield from self._take_turn()

    def _take_turn(self) -> layer.CommandGenerator[None]:
        self.phase = Phase.HEAD
        self._come_back()
        yield from self._read()
        if self._ended is not None and self.phase is Phase.HEAD and self._at >= len(self._data):
            yield from self.over()

    def _come_back(self) -> None:
        """Read what was kept, in front of what somebody reads already."""
        if self._ahead:
            self._data, self._at = bytes(self._ahead) + self._data[self._at :], 0
            self._ahead.clear()

    def _begin_pipe(self) -> layer.CommandGenerator[None]:
        self.phase = Phase.PIPE
        self._come_back()
        if _is_connect(self.request):  # some clients send empty lines behind a CONNECT
            while self._data[self._at : self._at + 1] in (b"\r", b"\n"):
                self._at += 1
        yield from self._read()


def _switches(event: ResponseHeaders) -> bool:
    return event.response.data.status_code == 101


def _is_connect(request: http.Request | None) -> bool:
    return request is not None and request.data.method.upper() == b"CONNECT"
