"""One request and its answer, each as it comes: where mitmproxy has its HttpStream.

What goes on as it comes is marked before hooks are called: a script that wants the whole of a message says so there
(`flow.response.stream = False`). An answer may end before its request does (RFC 9113 section 8.1; gRPC does so), and a
client that asks whether it may send gets the server's word, not ours (RFC 9110 section 10.1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from mitmproxy import flow
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import DropStream, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._base import HttpEvent
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
)
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook, HttpResponseHeadersHook

from addons.edge.streaming import NOTHING, Streamed
from addons.records.connections import facts_of

_CONTINUE = 100
_SWITCHING = 101


class Enough(HttpEvent):
    """From a server's connection to the client's: the answer is whole, and no more of its request is read."""


@dataclass
class NotBegunError(ResponseProtocolError):
    """A server has not begun with a request, and says so (RFC 9113 section 8.7). `leaving`: it takes no more of them on
    that connection, which says nothing of the next; `others`: it has taken some."""

    leaving: bool = False
    others: bool = False


class Exchange(HttpStream):
    """Stands in for HttpStream."""

    streamed: ClassVar[Streamed] = NOTHING
    """The worker's; `seam` sets it."""
    _expecting: Any = None
    """The request's fields, with the expectation that mitmproxy takes out of them."""
    _answered = False
    """The client has been told that its answer is whole."""

    # The request.

    def state_wait_for_request_headers(self, event: RequestHeaders) -> layer.CommandGenerator[None]:
        """As HttpStream; whether a client may send is left to the server, where it is asked in time."""
        if not event.end_stream and self.streamed.takes(event.request):
            event.request.stream = True

        def asks_server(command: commands.Command) -> bool:
            if event.end_stream or not self._may_go_on or not _is_continue(command):
                return False
            self._expecting = self.flow.request.headers.fields
            return True

        begun = super().state_wait_for_request_headers(event)
        yield from _without(begun, asks_server) if "expect" in event.request.headers else begun

    @property
    def _may_go_on(self) -> bool:
        return bool(self.flow.request.stream) and self.flow.response is None

    def start_request_stream(self) -> layer.CommandGenerator[None]:
        """As HttpStream. Where a script has an answer already, the request is read to its end and goes nowhere."""
        if self.flow.response is not None:
            self.flow.request.stream = False
            self.client_state = self.state_consume_request_body
            return
        if self._expecting is not None:
            self.flow.request.headers.fields = self._expecting
        if not (yield from self.make_server_connection()):
            self.client_state = self.state_errored
            return
        yield SendHttp(RequestHeaders(self.stream_id, self.flow.request, end_stream=False), self.context.server)
        self.client_state = self.state_stream_request_body

    def state_stream_request_body(
        self, event: RequestData | RequestTrailers | RequestEndOfMessage
    ) -> layer.CommandGenerator[None]:
        """As HttpStream; what a script answers behind the whole request is the answer, while the server has none."""
        unanswered = self.flow.response is None
        for command in (made := super().state_stream_request_body(event)):
            yield command
            if unanswered and isinstance(command, HttpRequestHook) and (self.flow.response or self._killed):
                made.close()
                yield from self._answer_instead()
                return

    @property
    def _killed(self) -> bool:
        return self.flow.error is not None and self.flow.error.msg == flow.Error.KILLED_MESSAGE

    def _answer_instead(self) -> layer.CommandGenerator[None]:
        self.client_state = self.state_done
        ended = RequestProtocolError(self.stream_id, "a script answers", ErrorCode.CANCEL)
        yield SendHttp(ended, self.context.server)
        if (yield from self.check_killed(emit_error_hook=True)):
            return
        assert self.flow.response is not None
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(emit_error_hook=True)):
            yield from self.send_response()
        self.server_state = self.state_errored  # what the server has said meanwhile is for nobody

    # What is over: HttpStream keeps it for as long as the connection lasts, whose streams are counted.

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        """As HttpStream, without keeping what was killed."""
        return (yield from self._dropped_if(super().check_killed(emit_error_hook)))

    def check_invalid(self, request: bool) -> layer.CommandGenerator[bool]:
        """As HttpStream, without keeping what is invalid."""
        return (yield from self._dropped_if(super().check_invalid(request)))

    def check_body_size(self, request: bool) -> layer.CommandGenerator[bool]:
        """As HttpStream, without keeping what is too large."""
        return (yield from self._dropped_if(super().check_body_size(request)))

    def _dropped_if(self, check: layer.CommandGenerator[bool]) -> layer.CommandGenerator[bool]:
        over = yield from check
        if over:
            yield DropStream(self.stream_id)
        return over

    # The answer.

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        """As HttpStream, with what goes on as it comes marked for hooks to see."""
        if not event.end_stream and self.streamed.takes(event.response):
            event.response.stream = True
        yield from super().state_wait_for_response_headers(event)

    def start_response_stream(self) -> layer.CommandGenerator[None]:
        """As HttpStream, which has a line about it in the log."""
        assert self.flow.response is not None
        head = ResponseHeaders(self.stream_id, self.flow.response, end_stream=False)
        yield SendHttp(head, self.context.client)
        self.server_state = self.state_stream_response_body

    def send_response(self, already_streamed: bool = False) -> layer.CommandGenerator[None]:  # as HttpStream has it
        """As HttpStream; a client that is still sending hears of its answer's end."""
        yield from super().send_response(already_streamed)
        assert self.flow.response is not None
        sending = self.client_state == self.state_stream_request_body and self.server_state == self.state_done
        if sending and self.flow.response.status_code != _SWITCHING:
            self._answered = True
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    def flow_done(self) -> layer.CommandGenerator[None]:
        """As HttpStream; the client does not hear twice."""
        if self._answered:
            self.flow.live = False
            yield DropStream(self.stream_id)
        else:
            yield from super().flow_done()

    # A tunnel.

    def passthrough(self, event: events.Event) -> layer.CommandGenerator[None]:
        """As HttpStream, which closes all of what CONNECT has opened where one direction has ended: the other goes on,
        as it does for clients that have come by another way (RFC 9110 section 9.3.6)."""
        assert self.flow.response is not None
        if self.flow.response.status_code == _SWITCHING:
            yield from super().passthrough(event)
            return
        assert self.child_layer is not None
        for command in self.child_layer.handle_event(self._of_connection(event)):
            to_client = getattr(command, "connection", None) == self.context.client
            if to_client and isinstance(command, commands.SendData):
                yield SendHttp(ResponseData(self.stream_id, command.data), self.context.client)
            elif to_client and isinstance(command, commands.CloseConnection) and not _is_half(command):
                closed = ResponseProtocolError(self.stream_id, "EOF", ErrorCode.PASSTHROUGH_CLOSE)
                yield SendHttp(closed, self.context.client)
            else:
                yield command

    def _of_connection(self, event: events.Event) -> events.Event:
        if isinstance(event, RequestData):
            return events.DataReceived(self.context.client, event.data)
        if isinstance(event, RequestEndOfMessage):
            return events.ConnectionClosed(self.context.client)
        return event

    def handle_protocol_error(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        """As HttpStream; a server that has answered hears, too, that the rest of the request does not come."""
        if self._answered and isinstance(event, RequestProtocolError):
            yield SendHttp(event, self.context.server)
        if isinstance(event, ResponseProtocolError):
            facts_of(self.context.client).fail("connect-failed", "server", event.message)
        yield from super().handle_protocol_error(event)


def _is_half(command: commands.CloseConnection) -> bool:
    return isinstance(command, commands.CloseTcpConnection) and command.half_close


def _is_continue(command: commands.Command) -> bool:
    return (
        isinstance(command, SendHttp)
        and isinstance(command.event, ResponseHeaders)
        and command.event.response.status_code == _CONTINUE
    )


def _without(
    made: layer.CommandGenerator[None], leave_out: Callable[[commands.Command], bool]
) -> Generator[commands.Command, Any, None]:
    """The commands of `made` but for those; replies reach it."""
    reply = None
    while True:
        try:
            command = made.send(reply)
        except StopIteration:
            return
        reply = None if leave_out(command) else (yield command)
