"""HTTP/2 with a client: where mitmproxy has its `Http2Server`."""

from __future__ import annotations

import time

from mitmproxy import http
from mitmproxy.net.http import url
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http2 import format_h2_response_headers, parse_h2_request_headers

from addons.edge import answers
from addons.edge.exchange import Enough, NotBegunError
from addons.edge.http2 import nghttp2
from addons.edge.http2.connection import Http2Connection
from addons.edge.http2.events import Fields, Head, Oversized
from addons.engine.leaving import WhenLeaving
from addons.pages.sentences import Kind
from addons.tls.lingering import LastWords

_WORK_BEHIND = 2
"""How many times the allowed number of streams may be at work behind them: a stream that was reset makes room for the
next, and its request is still under way for a moment."""


class Http2Server(Http2Connection):
    """Takes the requests of a client, many at once."""

    client_side = False
    ReceiveProtocolError = RequestProtocolError
    ReceiveData = RequestData
    ReceiveTrailers = RequestTrailers
    ReceiveEndOfMessage = RequestEndOfMessage
    _malformed = "malformed-request"
    _gone = ErrorCode.CLIENT_DISCONNECTED
    _closing = LastWords  # a client may be sending when it is told GOAWAY

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.client)
        self._busy = time.monotonic()
        """When a request was begun or ended last."""
        self._idle: commands.RequestWakeup | None = None
        self._leaving: commands.RequestWakeup | None = None
        self._came_with: dict[int, Fields] = {}
        """The heads of requests that have no answer yet, as they came."""
        self._enough: set[int] = set()
        """Streams whose server reads no more; their answers may still be on their way to here."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            self._idle = commands.RequestWakeup(self.bounds.idle_s)
            yield self._idle
            self._leaving = WhenLeaving()
            yield self._leaving
        yield from super()._handle_event(event)

    def _wake(self, command: commands.Command) -> layer.CommandGenerator[None]:
        if command is self._leaving:
            yield from self._leave()
            return
        if command is not self._idle:
            yield from super()._wake(command)
            return
        if self.session.streams:
            self._busy = time.monotonic()
        left_s = self._busy + self.bounds.idle_s - time.monotonic()
        if left_s > 0:
            self._idle = commands.RequestWakeup(left_s)
            yield self._idle
        else:
            yield from self._leave()

    def _leave(self) -> layer.CommandGenerator[None]:
        """Take no further streams, and end with the last one. A request that is on its way is told that it has not been
        seen (RFC 9113 section 6.8)."""
        self.session.leave()
        yield from self._flush()

    def _broken(self, stream_id: int, message: str, code: ErrorCode | None = None) -> layer.CommandGenerator[None]:
        self._came_with.pop(stream_id, None)
        yield from super()._broken(stream_id, message, code)

    def _whole(self, stream_id: int) -> bool:
        self._busy = time.monotonic()
        return super()._whole(stream_id)

    def _head(self, head: Head) -> layer.CommandGenerator[None]:
        if head.trailers:
            yield from self._trailers(head)
            return
        stream_id = head.stream_id
        if stream_id not in self.session.streams:
            return  # it was reset by what came behind it in the same read
        if self._around is not None and len(self._around.streams) >= _WORK_BEHIND * self.bounds.http2_streams:
            self.session.reset(stream_id, nghttp2.REFUSED_STREAM)
            self.session.control += 1
            return
        try:
            host, port, method, scheme, authority, path, headers = parse_h2_request_headers(head.fields)
            if self.context.options.validate_inbound_headers:
                _check_host(headers, authority, scheme)
        except ValueError as error:
            yield self._refused("malformed-request", f"invalid HTTP/2 request headers: {error}")
            self.session.control += 1
            connect = (b":method", b"CONNECT") in head.fields
            kind: Kind = "not-supported" if connect else "malformed-request"
            page = answers.of_kind(self.context.client, (b"", head.fields, ""), kind, str(error))
            self._answer(stream_id, page, ended=head.ended)
            return
        request = http.Request(
            host=host,
            port=port,
            method=method,
            scheme=scheme,
            authority=authority,
            path=path,
            http_version=b"HTTP/2.0",
            headers=headers,
            content=None,
            trailers=None,
            timestamp_start=time.time(),
            timestamp_end=None,
        )
        self._told.add(stream_id)
        self._came_with[stream_id] = head.fields
        yield ReceiveHttp(RequestHeaders(stream_id, request, end_stream=head.ended))

    def _oversized(self, head: Oversized) -> layer.CommandGenerator[None]:
        if head.what == "trailers":
            yield from self._broken(head.stream_id, "trailers beyond their bounds")
            self.session.reset(head.stream_id, nghttp2.ENHANCE_YOUR_CALM)
        else:
            page = answers.of_kind(self.context.client, (b"", head.fields, ""), "oversized-head")
            self._answer(head.stream_id, page, ended=head.ended)

    def _answer(self, stream_id: int, page: http.Response, *, ended: bool) -> None:
        """An answer of our own; what of the request has not come need not come."""
        self._came_with.pop(stream_id, None)
        fields: Fields = [(b":status", b"%d" % page.status_code)]
        fields += [(name.lower(), value) for name, value in page.headers.fields]
        self.session.respond(stream_id, fields, ended=not page.raw_content)
        if page.raw_content:
            self.session.send(stream_id, page.raw_content)
            self.session.end(stream_id)
        if not ended:
            self.session.reset_behind(stream_id, nghttp2.NO_ERROR)

    def _send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, ResponseHeaders):
            fields = yield from format_h2_response_headers(self.context, event)
            if 100 <= event.response.status_code < 200:  # RFC 9110 section 15.2
                self.session.inform(event.stream_id, fields)
            else:
                self._came_with.pop(event.stream_id, None)
                self.session.respond(event.stream_id, fields, ended=event.end_stream)
            yield from self._settle()
        elif isinstance(event, Enough):
            self._enough = (self._enough & self.session.streams) | {event.stream_id}
            yield from self._stop_request(event.stream_id)
        else:
            yield from super()._send(event)
            if event.stream_id in self._enough:
                yield from self._stop_request(event.stream_id)

    def _stop_request(self, stream_id: int) -> layer.CommandGenerator[None]:
        """The answer is whole, and nobody reads the rest of its request: say so behind it (RFC 9113 section 8.1)."""
        if stream_id in self.session.streams and stream_id in self._told and self.session.whole(stream_id):
            self._enough.discard(stream_id)
            self.session.reset_behind(stream_id, nghttp2.NO_ERROR)
            yield from self._settle()
            yield from self._broken(stream_id, "the server has answered, and reads no more of the request")

    def _send_error(
        self, ours: int, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        page = None
        if isinstance(event, ResponseProtocolError) and ours not in self.session.outgoing:
            fields = self._came_with.pop(ours, None)
            page = answers.of_error(self.context.client, (b"", fields, "") if fields else None, event)
        if isinstance(event, NotBegunError) and ours not in self.session.outgoing:
            self.session.reset(ours, nghttp2.REFUSED_STREAM)
        elif page is not None:
            self._answer(ours, page, ended=False)
        elif self.session.whole(ours):  # the answer still arrives
            self.session.reset_behind(ours, self._code(event))
        else:
            yield from super()._send_error(ours, event)


def _check_host(headers: http.Headers, authority: bytes, scheme: bytes) -> None:
    """A Host field that names something else than :authority makes a request malformed (RFC 9113 section 8.3.1)."""
    host = headers.fields and [value for name, value in headers.fields if name == b"host"]
    if not host or not authority:
        return
    if len(host) > 1 or _place(host[0], scheme) != _place(authority, scheme):
        raise ValueError(f"mismatched :authority and Host: {authority!r} and {host[0]!r}")


def _place(authority: bytes, scheme: bytes) -> tuple[str, int]:
    host, port = url.parse_authority(authority, check=True)
    return host.lower(), port or (80 if scheme == b"http" else 443)
