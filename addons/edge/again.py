"""A request that its server says it has not begun (RFC 9113 section 8.7) is asked again.

A server that closes its connections after so many requests, as nginx does after a thousand, tells by GOAWAY which it
has taken: the others go to a new connection. One that is busy refuses a stream: it is asked once more on the same one,
and then on new ones. Both are safe, whatever the method, as long as the request is still here: one that is passed on as
it comes is kept up to a bound. Beyond that the client is told what we were told, over HTTP/2 in the same words: its
request was not begun.
"""

from __future__ import annotations

from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import SendHttp
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseProtocolError,
)

from addons.edge.exchange import Exchange, NotBegunError

_TRIES, _CONNECTIONS, _TURNS = 3, 16, 256
"""Times that a request is asked again of a server that refuses it, of one that goes away, and of one that takes a few
others with each connection, so that its turn comes."""
_KEPT = 65_536
"""Bytes of a body that is passed on as it comes."""


class Again(Exchange):
    """Stands in for HttpStream."""

    def __init__(self, context: Context, stream_id: int) -> None:
        super().__init__(context, stream_id)
        self._tries = 0
        self._passes = False
        """Whether the request is passed on as it comes."""
        self._body: bytearray | None = bytearray()
        """What has gone of a body that is passed on, however it was cut; None: more than is kept."""
        self._ends: list[HttpEvent] = []
        """What has gone behind it."""

    def start_request_stream(self) -> layer.CommandGenerator[None]:
        """As Exchange; a request without a body is not passed on like this, whatever a script has marked."""
        self._passes = True
        yield from super().start_request_stream()

    def state_stream_request_body(
        self, event: RequestData | RequestTrailers | RequestEndOfMessage
    ) -> layer.CommandGenerator[None]:
        """As Exchange, with what goes kept for a while."""
        for command in super().state_stream_request_body(event):
            if self._body is not None and isinstance(command, SendHttp):
                self._keep(command.event)
            yield command

    def _keep(self, event: HttpEvent) -> None:
        assert self._body is not None
        data = event.data if isinstance(event, RequestData) else b""
        if len(self._body) + len(data) > _KEPT or self.server_state != self.state_wait_for_response_headers:
            self._body = None
        elif isinstance(event, RequestTrailers | RequestEndOfMessage):
            self._ends.append(event)
        else:
            self._body += data

    def handle_protocol_error(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        """As Exchange, unless the request can be asked again."""
        if isinstance(event, NotBegunError) and self._can_be_asked_again(_times(event)):
            self._tries += 1
            if not event.leaving and self._tries > 1:  # once it may have been one of too many at a time
                self.context.server.state &= ~ConnectionState.CAN_READ
            yield from self._ask_again()
        else:
            yield from super().handle_protocol_error(event)

    def _can_be_asked_again(self, tries: int) -> bool:
        unanswered = self.server_state == self.state_wait_for_response_headers and self.flow.response is None
        known = self.client_state in (self.state_stream_request_body, self.state_done) and self._body is not None
        return unanswered and known and self._tries < tries

    def _ask_again(self) -> layer.CommandGenerator[None]:
        if not (yield from self.make_server_connection()):
            self.client_state = self.state_errored
            return
        request = self.flow.request
        content = bytes(self._body or b"") if self._passes else request.raw_content or b""
        ends = not (self._passes or content or request.trailers)
        yield SendHttp(RequestHeaders(self.stream_id, request, end_stream=ends), self.context.server)
        if content:
            yield SendHttp(RequestData(self.stream_id, content), self.context.server)
        if self._passes:
            for event in self._ends:
                yield SendHttp(event, self.context.server)
            return
        if request.trailers:
            yield SendHttp(RequestTrailers(self.stream_id, request.trailers), self.context.server)
        yield SendHttp(RequestEndOfMessage(self.stream_id), self.context.server)


def _times(event: NotBegunError) -> int:
    if not event.leaving:
        return _TRIES
    return _TURNS if event.others else _CONNECTIONS
