"""HTTP/2 with a server: where mitmproxy has its `Http2Client`."""

from __future__ import annotations

import time
from logging import DEBUG

from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import SendHttp
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._http2 import format_h2_request_headers, parse_h2_response_headers
from mitmproxy.utils import human

from addons.edge.answers import Sentence
from addons.edge.exchange import Enough, NotBegunError
from addons.edge.http1 import hops
from addons.edge.http2 import nghttp2
from addons.edge.http2.connection import Http2Connection
from addons.edge.http2.events import Fields, GoAway, Head, Oversized, Reset
from addons.edge.http2.paced import EVENTS_A_TURN

_PROVISIONAL = 10
"""Streams that are opened before the server has said how many it takes."""


class Http2Client(Http2Connection):
    """Makes requests of a server, many at once."""

    client_side = True
    ReceiveProtocolError = ResponseProtocolError
    ReceiveData = ResponseData
    ReceiveTrailers = ResponseTrailers
    ReceiveEndOfMessage = ResponseEndOfMessage
    _malformed = "malformed-response"
    _gone = ErrorCode.GENERIC_SERVER_ERROR

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.server)
        # A stream's number at this end is chosen when it opens: requests may overtake each other behind hooks, and
        # numbers must rise (RFC 9113 section 5.1.1).
        self._our_ids: dict[int, int] = {}
        self._their_ids: dict[int, int] = {}
        self._queued: dict[int, list[HttpEvent]] = {}
        self._provisional: int | None = _PROVISIONAL
        self._last_activity = time.time()
        self._keepalive: commands.RequestWakeup | None = None
        self._others = False
        """The server goes away, and has taken some requests."""
        self._answered: set[int] = set()
        """Streams whose response is whole; the request may still be on its way."""

    def _theirs(self, stream_id: int) -> int:
        return self._their_ids.get(stream_id, -1)

    def _ours(self, stream_id: int) -> int | None:
        return self._our_ids.get(stream_id)

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived):
            self._last_activity = time.time()
        elif isinstance(event, events.Start) and self.context.options.http2_ping_keepalive > 0:
            self._keepalive = commands.RequestWakeup(self.context.options.http2_ping_keepalive)
            yield self._keepalive
        yield from super()._handle_event(event)
        if self._queued:
            yield from self._open_queued()

    def _wake(self, command: commands.Command) -> layer.CommandGenerator[None]:
        if command is self._keepalive:
            yield from self._keep_alive()
        else:
            yield from super()._wake(command)

    def _keep_alive(self) -> layer.CommandGenerator[None]:
        every_s = self.context.options.http2_ping_keepalive
        # One second more, as mitmproxy has it: a wakeup a moment too early would cost another round.
        if time.time() - self._last_activity + 1 > every_s:
            self._last_activity = time.time()
            self.session.ping(b"0" * 8)
            yield commands.Log(f"Send HTTP/2 keep-alive PING to {human.format_address(self.conn.peername)}", DEBUG)
            yield from self._flush()
        self._keepalive = commands.RequestWakeup(every_s - (time.time() - self._last_activity))
        yield self._keepalive

    # What goes.

    def _send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        self._last_activity = time.time()
        if event.stream_id in self._queued:
            if isinstance(event, RequestProtocolError):
                del self._queued[event.stream_id]
            else:
                self._queued[event.stream_id].append(event)
        elif isinstance(event, RequestHeaders):
            if self._provisional is not None and len(self.session.streams) >= self._provisional:
                self._queued[event.stream_id] = [event]
            else:
                yield from self._open(event)
        else:
            yield from super()._send(event)

    def _open(self, event: RequestHeaders) -> layer.CommandGenerator[None]:
        formatted = yield from format_h2_request_headers(self.context, event)
        fields = _with_own_te([(name, _bytes(value)) for name, value in formatted])
        ours = self.session.request(fields, ended=event.end_stream)
        if ours < 0:
            yield self._not_begun(event.stream_id)
            return
        if len(self._our_ids) > len(self.session.streams) + EVENTS_A_TURN:
            self._sweep()
        self._our_ids[event.stream_id] = ours
        self._their_ids[ours] = event.stream_id
        self._told.add(ours)
        yield from self._settle()

    def _sweep(self) -> None:
        """Forget the numbers of streams that are over."""
        for theirs, ours in list(self._our_ids.items()):
            if ours not in self.session.streams and ours not in self._told and ours not in self._owed:
                del self._our_ids[theirs], self._their_ids[ours]
        self._answered &= self.session.streams

    def _open_queued(self) -> layer.CommandGenerator[None]:
        while self._queued and (self._provisional is None or len(self.session.streams) < self._provisional):
            stream_id = next(iter(self._queued))
            for event in self._queued.pop(stream_id):
                yield from self._send(event)

    # What comes.

    def _settings(self) -> layer.CommandGenerator[None]:
        self._provisional = None  # nghttp2 keeps to what they say
        yield from ()

    def _head(self, head: Head) -> layer.CommandGenerator[None]:
        stream_id = head.stream_id
        if stream_id not in self._told:
            return
        if head.trailers:
            yield from self._trailers(head)
            return
        try:
            status, headers = parse_h2_response_headers(head.fields)
        except ValueError as error:
            if head.fields[:1] and head.fields[0][0] == b":status" and head.fields[0][1][:1] == b"1":
                yield commands.Log("Swallowing HTTP/2 informational response: <unknown status> ")
                return
            yield self._refused("malformed-response", f"invalid HTTP/2 response headers: {error}")
            yield from self._broken(stream_id, f"Invalid HTTP/2 response headers: {error}")
            self.session.reset(stream_id, nghttp2.PROTOCOL_ERROR)
            return
        response = http.Response(
            http_version=b"HTTP/2.0",
            status_code=status,
            reason=b"",
            headers=headers,
            content=None,
            trailers=None,
            timestamp_start=time.time(),
            timestamp_end=None,
        )
        if status < 200:  # not the answer (RFC 9110 section 15.2): the client's connection passes it on if it can
            yield SendHttp(ResponseHeaders(self._theirs(stream_id), response), self.context.client)
        else:
            yield ReceiveHttp(ResponseHeaders(self._theirs(stream_id), response, head.ended))

    def _whole(self, stream_id: int) -> bool:
        self._answered.add(stream_id)
        return super()._whole(stream_id)

    def _reset(self, stream_id: int, code: int, *, by_peer: bool) -> layer.CommandGenerator[None]:
        if code == nghttp2.NO_ERROR and stream_id in self._answered:
            self._told.discard(stream_id)  # the server needs no more of the request (RFC 9113 section 8.1)
            yield SendHttp(Enough(self._theirs(stream_id)), self.context.client)
            return
        if code == nghttp2.REFUSED_STREAM and stream_id in self._told:
            self._told.discard(stream_id)
            theirs = self._their_ids.pop(stream_id)
            del self._our_ids[theirs]
            yield self._not_begun(theirs)
            return
        yield from super()._reset(stream_id, code, by_peer=by_peer)

    def _oversized(self, head: Oversized) -> layer.CommandGenerator[None]:
        yield from self._broken(head.stream_id, f"The response's {head.what} is too large.")
        self.session.reset(head.stream_id, nghttp2.CANCEL)

    def _go_away(self, away: GoAway) -> layer.CommandGenerator[None]:
        """Requests that the server has go on; further ones get a connection of their own."""
        # mitmproxy takes a connection for further requests as long as it is open in both directions.
        self.conn.state &= ~ConnectionState.CAN_READ
        self._others = away.last_stream_id > 0
        said = f" ({away.detail.decode(errors='replace')})" if away.detail else ""
        yield commands.Log(f"HTTP/2 server goes away: {nghttp2.reason(away.code)}{said}", DEBUG)
        for stream_id in self._refused_with_it():
            yield from self._reset(stream_id, nghttp2.REFUSED_STREAM, by_peer=False)
        queued, self._queued = self._queued, {}
        for stream_id in queued:
            yield self._not_begun(stream_id)

    def _refused_with_it(self) -> list[int]:
        """The streams that nghttp2 has closed for it, as they were opened: it has them in any order, and a request that
        is among the last with each connection would be asked again and again."""
        refused = [one for one in self._came if isinstance(one, Reset) and one.code == nghttp2.REFUSED_STREAM]
        for one in refused:
            self._came.remove(one)
        return sorted(one.stream_id for one in refused)

    def _not_begun(self, stream_id: int) -> ReceiveHttp:
        why = Sentence("not-begun", "the server has refused this request before it began with it")
        code, away = ErrorCode.GENERIC_SERVER_ERROR, self.session.away
        return ReceiveHttp(NotBegunError(stream_id, why, code, leaving=away, others=away and self._others))

    def _close(self, message: str) -> layer.CommandGenerator[None]:
        queued, self._queued = self._queued, {}
        yield from super()._close(message)
        for stream_id in queued:
            yield ReceiveHttp(ResponseProtocolError(stream_id, message, ErrorCode.GENERIC_SERVER_ERROR))


def _with_own_te(fields: Fields) -> Fields:
    """TE says of HTTP/2 that trailers are taken, or nothing (RFC 9113 section 8.2.2)."""
    said = [value for name, value in fields if name == b"te"]
    if not said or said == [b"trailers"]:
        return fields
    kept = [field for field in fields if field[0] != b"te"]
    return [*kept, (b"te", b"trailers")] if b"trailers" in hops.tokens(said) else kept


def _bytes(value: bytes | str) -> bytes:
    """mitmproxy gives the :authority that it takes from a Host field as text."""
    return value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
