"""Towards the server: requests out, answers in, one at a time."""

from __future__ import annotations

from mitmproxy import connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import SendHttp
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
from mitmproxy.utils import human

from addons.edge.answers import Sentence
from addons.edge.exchange import Enough
from addons.edge.http1 import framing, heads, hops, sending
from addons.edge.http1.bodies import body
from addons.edge.http1.connection import Http1Connection, Phase, is_pipe
from addons.edge.http1.faults import FaultError, MalformedError
from addons.edge.http1.sections import Section

_TIMED_OUT = (b"HTTP/1.1 408 ", b"HTTP/1.0 408 ")
"""What some servers say when they close an idle connection (RFC 9110 section 15.5.9); nothing is wrong with it."""
_INTERIM = 100
"""Interim responses to one request."""


class Http1Client(Http1Connection):
    """The connection to a server."""

    malformed = "malformed-response"

    ReceiveProtocolError = ResponseProtocolError
    ReceiveData = ResponseData
    ReceiveTrailers = ResponseTrailers
    ReceiveEndOfMessage = ResponseEndOfMessage

    def __init__(self, context: Context) -> None:
        """As mitmproxy makes it."""
        super().__init__(context, context.server)
        self._interim = 0
        self._offered: list[bytes] = []
        self._switching = False

    # to the server

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        """Part of a request."""
        if self.phase is Phase.OVER and self.stream_id is not None:
            return  # the server has gone, and maybe answered
        if isinstance(event, RequestProtocolError):
            yield from self.close()
            return
        if self.stream_id is None:
            assert isinstance(event, RequestHeaders)
            self.stream_id = event.stream_id
            self.request = event.request
        assert self.stream_id == event.stream_id
        if isinstance(event, RequestHeaders):
            yield from self._send_head(event)
        elif isinstance(event, RequestData):
            raw = event.data if self._switching else self._outgoing.data(event.data)
            if raw:
                yield commands.SendData(self.conn, raw)
        elif isinstance(event, RequestTrailers):
            self._outgoing.trailers(list(event.trailers.fields))
        elif isinstance(event, RequestEndOfMessage):
            raw = self._outgoing.end()
            if raw:
                yield commands.SendData(self.conn, raw)
            yield from self.mark_done(request=True)
        else:
            raise AssertionError(f"Unexpected event: {event}")  # noqa: TRY004  # as mitmproxy's layers do

    def _send_head(self, event: RequestHeaders) -> layer.CommandGenerator[None]:
        request = event.request
        try:
            raw, self._outgoing, self._offered = sending.request(request, end_stream=event.end_stream)
        except FaultError as fault:
            yield from self.over()
            yield self.refused("malformed-request", str(fault))
            yield ReceiveHttp(ResponseProtocolError(event.stream_id, str(fault), ErrorCode.REQUEST_VALIDATION_FAILED))
            return
        # With HTTP/2 in front, connections to HTTP/1 servers serve one request each, as mitmproxy has it.
        self._ends = framing.ends_connection(request) or request.is_http2 or request.is_http3
        self._interim = 0
        yield commands.SendData(self.conn, raw)

    # from the server

    def read_head(self) -> layer.CommandGenerator[None]:
        """Read a response's head. Raises FaultError."""
        if self.request is None:
            yield from self._refuse_unasked()
            return
        assert self.stream_id is not None
        if self._section is None:
            bounds = self.bounds
            self._section = Section(bounds.head_bytes, bounds.fields, bounds.field_bytes)
        self._at = self._section.take(self._data, self._at)
        lines = self._section.lines
        if lines is None:
            return
        self._section = None
        head = heads.read_response(lines)
        length = framing.response_length(self.request.data.method, head)
        response = head.response
        if b"connection" in head.named:
            response.headers.fields = tuple(hops.received(list(response.headers.fields), head.named))
        status = response.data.status_code
        if status <= 199 and status != 101:
            yield from self._pass_interim(ResponseHeaders(self.stream_id, response))
            return
        if status == 101 and not self._may_switch(head.named.get(b"upgrade", [])):
            raise MalformedError("The server switches to a protocol that nobody offered.")
        self.response, self.phase = response, Phase.BODY
        self._ends = self._ends or framing.ends_connection(response) or length == framing.UNTIL_CLOSE
        self._switching = is_pipe(self.request, response)
        yield ReceiveHttp(ResponseHeaders(self.stream_id, response, end_stream=length == 0))
        if self.phase is Phase.BODY:
            yield from self.begin_body(body(length, self.bounds, strict=False))

    def _refuse_unasked(self) -> layer.CommandGenerator[None]:
        if not self._data.startswith(_TIMED_OUT, self._at):
            raise MalformedError("The server sent something that was not asked for.")
        yield commands.Log("The server closes a connection that has been idle.")
        yield from self.over()

    def _may_switch(self, upgrade: list[bytes]) -> bool:
        """RFC 9110 section 7.8: to what was offered alone. Some servers do not say to what."""
        return bool(self._offered) and set(hops.tokens(upgrade)) <= set(self._offered)

    def _pass_interim(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        """A 1xx is not the answer (RFC 9110 section 15.2): the client's connection passes it on if it can."""
        self._interim += 1
        if self._interim > _INTERIM:
            raise MalformedError(f"The server sent more than {_INTERIM} interim responses.")
        yield SendHttp(event, self.context.client)

    def end_message(self) -> layer.CommandGenerator[None]:
        """The response is complete."""
        assert self.request is not None
        assert self.stream_id is not None
        if self.request.data.method.upper() != b"CONNECT":
            yield ReceiveHttp(ResponseEndOfMessage(self.stream_id))
        yield from self.mark_done(response=True)

    def keep_rest(self, rest: bytes) -> layer.CommandGenerator[None]:
        """More than an answer: nothing that comes on this connection can be believed any more."""
        raise MalformedError("The server sent more than its answer.")

    def closed(self, event: events.ConnectionClosed) -> layer.CommandGenerator[None]:
        """The server has ended its direction: the end of some answers, and the loss of others."""
        match self.phase:
            case Phase.HEAD if self.stream_id is None:
                if self.conn.state & connection.ConnectionState.CAN_WRITE:
                    yield from self.over()
            case Phase.HEAD:
                begun = self._section is not None and self._section.kept
                yield from self._lost(
                    "The server closed the connection within its answer's head." if begun else self._gone
                )
            case Phase.BODY:
                assert self._body is not None
                try:
                    self._body.end()
                except FaultError as fault:
                    yield from self._lost(str(fault))
                else:
                    yield from self._end_message()
            case Phase.WAITING:  # the answer came before the request's end, which will not be read now
                assert self.stream_id is not None
                if self.conn.state & connection.ConnectionState.CAN_WRITE:
                    yield commands.CloseConnection(self.conn)
                self.phase = Phase.OVER
                yield SendHttp(Enough(self.stream_id), self.context.client)
            case Phase.PIPE:
                assert self.stream_id is not None
                yield ReceiveHttp(ResponseEndOfMessage(self.stream_id))

    @property
    def _gone(self) -> str:
        """Why there is no answer: what the layers beneath know of it."""
        return self.conn.error or "server closed connection"

    def _lost(self, message: str) -> layer.CommandGenerator[None]:
        if self.conn.state & connection.ConnectionState.CAN_WRITE:
            yield commands.CloseConnection(self.conn)
        self.phase = Phase.OVER
        assert self.stream_id is not None
        yield ReceiveHttp(ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR))

    def refuse(self, fault: FaultError) -> layer.CommandGenerator[None]:
        """End the connection; the client gets a 502 that says why, if it got nothing yet."""
        yield commands.CloseConnection(self.conn)
        yield self.refused(self.kind(fault), f"{human.format_address(self.conn.peername)}: {fault}")
        if self.stream_id is not None:
            message = Sentence("malformed-response", f"The server's answer is refused. {fault}")
            yield ReceiveHttp(ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR))

    def mark_done(self, *, request: bool = False, response: bool = False) -> layer.CommandGenerator[None]:
        """What is complete; when both are, the connection is there for the next request."""
        self.request_done = self.request_done or request
        self.response_done = self.response_done or response
        if self.phase is Phase.OVER:
            return
        if not (self.request_done and self.response_done):
            if self.response_done:
                self.phase = Phase.WAITING
            return
        assert self.request is not None
        assert self.response is not None
        if is_pipe(self.request, self.response):
            self.phase = Phase.PIPE
            yield from self._read()
        elif self._ends or not self._outgoing.exact:
            yield from self.over()
        else:
            self.request = self.response = self.stream_id = None
            self.request_done = self.response_done = self._switching = False
            self.phase = Phase.HEAD
