"""What both ends of HTTP/2 have in common, between mitmproxy's HttpEvents and `http2_session`.

One connection's layer. `HttpLayer` has it where mitmproxy has its own class, with the same events on one side and bytes
on the other. What is sent goes out once a turn, and what came in is given back when the other side has taken it
(`backpressure`). A read that holds many frames is dealt with in steps, between which others have their turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from logging import DEBUG
from typing import ClassVar

from mitmproxy import connection, http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestData,
    RequestEndOfMessage,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.utils import human

from addons.edge import trailers
from addons.edge.answers import Sentence
from addons.edge.http2 import nghttp2
from addons.edge.http2.events import Body, Ended, Event, GoAway, Head, Ignored, Invalid, Oversized, Reset, Settings
from addons.edge.http2.paced import Paced
from addons.edge.refusal import Class, EdgeRefusal, EdgeRefusedHook
from addons.engine import backpressure

ONE_READ = 65535
"""Bytes that mitmproxy reads at a time."""


class Http2Connection(Paced):
    """One end of HTTP/2."""

    ReceiveProtocolError: type[RequestProtocolError | ResponseProtocolError]
    ReceiveData: type[RequestData | ResponseData]
    ReceiveTrailers: type[RequestTrailers | ResponseTrailers]
    ReceiveEndOfMessage: type[RequestEndOfMessage | ResponseEndOfMessage]

    # What comes.

    def _handle(self, event: Event) -> layer.CommandGenerator[None]:
        match event:
            case Head():
                yield from self._head(event)
            case Body(stream_id, chunks):
                data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                if data:
                    self._owed[stream_id] = self._owed.get(stream_id, 0) + len(data)
                if stream_id in self._told:
                    yield ReceiveHttp(self.ReceiveData(self._theirs(stream_id), data))
            case Ended(stream_id):
                yield from self._ended(stream_id)
            case Reset(stream_id, code, by_peer):
                yield from self._reset(stream_id, code, by_peer=by_peer)
            case Invalid() | Oversized():
                yield from self._handle_excess(event)
            case GoAway():
                yield from self._go_away(event)
            case Settings():
                yield from self._settings()
            case Ignored(what):
                yield commands.Log(f"Received HTTP/2 {what} frame, which will not be forwarded.", DEBUG)

    def _ended(self, stream_id: int) -> layer.CommandGenerator[None]:
        if stream_id in self._told:
            if self._whole(stream_id):
                self._told.discard(stream_id)
            yield ReceiveHttp(self.ReceiveEndOfMessage(self._theirs(stream_id)))

    def _handle_excess(self, event: Invalid | Oversized) -> layer.CommandGenerator[None]:
        if isinstance(event, Oversized):
            kind: Class = "oversized-trailers" if event.what == "trailers" else "oversized-head"
            yield self._refused(kind, self._beyond(event))
            yield from self._oversized(event)
            return
        if event.code != nghttp2.REFUSED_STREAM:
            yield self._refused(self._malformed, event.why)
        why = Sentence("malformed-response", f"HTTP/2 protocol error: {event.why}")  # a client's error is not told
        yield from self._broken(event.stream_id, why)

    _malformed: ClassVar[Class]
    _gone: ClassVar[ErrorCode]

    def _head(self, head: Head) -> layer.CommandGenerator[None]:
        raise NotImplementedError

    def _oversized(self, head: Oversized) -> layer.CommandGenerator[None]:
        raise NotImplementedError

    def _settings(self) -> layer.CommandGenerator[None]:
        yield from ()

    def _go_away(self, away: GoAway) -> layer.CommandGenerator[None]:
        """The peer takes no more streams; those that it has go on, and nghttp2 closes the others."""
        del away
        yield from ()

    def _whole(self, stream_id: int) -> bool:
        """The peer's message is whole: whether nothing of ours is on its way either."""
        return stream_id not in self.session.streams

    def _trailers(self, head: Head) -> layer.CommandGenerator[None]:
        if head.stream_id in self._told:
            fields = http.Headers(trailers.passing(head.fields))
            yield ReceiveHttp(self.ReceiveTrailers(self._theirs(head.stream_id), fields))

    def _reset(self, stream_id: int, code: int, *, by_peer: bool) -> layer.CommandGenerator[None]:
        who = "" if by_peer else "ourselves, for what was sent by "
        match code:
            case nghttp2.CANCEL:
                error = ErrorCode.CANCEL
            case nghttp2.HTTP_1_1_REQUIRED:
                error = ErrorCode.HTTP_1_1_REQUIRED
            case _:
                error = self.ReceiveProtocolError.code
        if not by_peer and code not in (nghttp2.REFUSED_STREAM, nghttp2.CANCEL):
            yield self._refused(self._malformed, f"a message that is not what its head says ({nghttp2.reason(code)})")
        yield from self._broken(stream_id, f"stream reset by {who}client ({nghttp2.reason(code)})", error)

    def _broken(self, stream_id: int, message: str, code: ErrorCode | None = None) -> layer.CommandGenerator[None]:
        """Nothing more comes of a stream."""
        if stream_id in self._told:
            self._told.discard(stream_id)
            error = self.ReceiveProtocolError(
                self._theirs(stream_id), message, code=code or self.ReceiveProtocolError.code
            )
            yield ReceiveHttp(error)

    def _refused(self, kind: Class, detail: str) -> EdgeRefusedHook:
        whose = "" if self.conn is self.context.client else f"of {human.format_address(self.conn.peername)}: "
        return EdgeRefusedHook(EdgeRefusal(self.context.client, kind, whose + detail))

    def _beyond(self, head: Oversized) -> str:
        bounds = self.bounds
        bound = bounds.trailer_bytes if head.what == "trailers" else bounds.head_bytes
        return (
            f"HTTP/2 {head.what} with {len(head.fields)} fields or more, beyond {bound} bytes, {bounds.fields} fields, "
            f"or {bounds.field_bytes} bytes of one"
        )

    # What goes.

    def _send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        ours = self._ours(event.stream_id)
        if ours is None:
            return
        session = self.session
        if isinstance(event, RequestData | ResponseData):
            session.send(ours, event.data)
            if self._full(ours):
                yield from self._stop(ours, event.stream_id)
        elif isinstance(event, RequestTrailers | ResponseTrailers):
            session.end(ours, _as_trailers(event.trailers.fields))
        elif isinstance(event, RequestEndOfMessage | ResponseEndOfMessage):
            session.end(ours)
        elif isinstance(event, RequestProtocolError | ResponseProtocolError):
            if ours in session.streams:
                yield from self._send_error(ours, event)
        else:
            raise TypeError(f"unexpected event: {event!r}")
        yield from self._settle()

    def _full(self, ours: int) -> bool:
        """Whether another read would be more than may be kept for the peer."""
        session, bounds = self.session, self.bounds
        return (
            session.waits(ours) > bounds.stream_window_bytes - ONE_READ
            or session.backlog > bounds.connection_window_bytes - ONE_READ
        )

    def _stop(self, ours: int, stream_id: int) -> layer.CommandGenerator[None]:
        """Have the other side not read where it would go on in spite of a full buffer."""
        origin = backpressure.source(self._around, stream_id, towards_client=not self.client_side)
        if origin is not None:
            outgoing = self.session.outgoing
            body = outgoing[ours]
            yield backpressure.Stop(
                origin, lambda: body.ended or outgoing.get(ours) is not body or not self._full(ours)
            )

    def _send_error(
        self, ours: int, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        self.session.reset(ours, self._code(event))
        yield from ()

    @staticmethod
    def _code(event: RequestProtocolError | ResponseProtocolError) -> int:
        match event.code:
            case ErrorCode.CANCEL | ErrorCode.CLIENT_DISCONNECTED | ErrorCode.PASSTHROUGH_CLOSE:
                return nghttp2.CANCEL
            case ErrorCode.HTTP_1_1_REQUIRED:
                return nghttp2.HTTP_1_1_REQUIRED
            case _:
                return nghttp2.INTERNAL_ERROR

    # How it ends.

    def _fail(self) -> layer.CommandGenerator[None]:
        """The peer broke the protocol, asked too much, or has gone: say so and end the connection."""
        session = self.session
        why = session.failed or ""
        last = session.pull(1 << 30)
        if last:
            yield commands.SendData(self.conn, last)
        code, told = session.said
        why = told or session.why or why
        if session.flooded:
            why = session.failed or why
            yield self._refused("http2-flood", why)
        elif code or session.broken:
            yield self._refused("http2-error", why)
            yield commands.Log(f"{human.format_address(self.conn.peername)}: HTTP/2 protocol error: {why}")
        yield from self._close(f"HTTP/2 protocol error: {why}" if code or session.broken else why)

    _closing: ClassVar[type[commands.CloseConnection]] = commands.CloseConnection

    def _close(self, message: str) -> layer.CommandGenerator[None]:
        here = self.conn.state is connection.ConnectionState.OPEN
        yield self._closing(self.conn) if here else commands.CloseConnection(self.conn)
        self._handle_event = self.done  # type: ignore[assignment,method-assign]  # as mitmproxy's layers change their state
        told, self._told = self._told, set()
        for stream_id in sorted(told):
            yield ReceiveHttp(self.ReceiveProtocolError(self._theirs(stream_id), message, self._gone))
        self._came.clear()
        self._owed.clear()
        self.session.close()

    def done(self, _event: events.Event) -> layer.CommandGenerator[None]:
        """The connection has ended."""
        yield from ()


def _as_trailers(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those that may go on, as HTTP/2 has them: in lower case (RFC 9113 section 8.2.1)."""
    return [(name.lower(), value) for name, value in trailers.passing(fields)]
