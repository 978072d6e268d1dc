"""mitmproxy's HTTP stream, with an answer of its own for a client that may not have a connection.

mitmproxy answers 502 to whatever was wrong with a server. A destination that is denied is 403, for CONNECT and for a
plain request, in each version of HTTP; and where another proxy would connect, an address is looked at before it is
asked for.
"""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.net.http import status_codes
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import HTTPMode, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from addons.edge.connecting.connecting import Sentence, current
from addons.edge.judged import Judged


def page(sentence: Sentence) -> http.Response:
    """The answer that says it."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "Connection": "close"}
    return http.Response.make(sentence.status, f"hsmitm: {sentence}\n", headers)


class EdgeStream(Judged):
    """Stands in for HttpStream."""

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        """As HttpStream; asked of another proxy, a denied address is refused first."""
        if sentence := self._refused_of_next_proxy():
            error = ResponseProtocolError(self.stream_id, sentence, ErrorCode.CONNECT_FAILED)
            yield from self.handle_protocol_error(error)
            return False
        return (yield from super().make_server_connection())

    def handle_connect_upstream(self) -> layer.CommandGenerator[None]:
        """As HttpStream; a denied address is refused first."""
        if not self.flow.response and (sentence := self._refused_of_next_proxy()):
            self.flow.response = page(sentence)
            yield from self.handle_connect_finish()
        else:
            yield from super().handle_connect_upstream()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated

    def _refused_of_next_proxy(self) -> Sentence | None:
        if self.mode is not HTTPMode.upstream or (connecting := current()) is None:
            return None
        return connecting.refused_literal(self.context.client, self.flow.request.host, self.flow.request.port)

    def handle_connect_finish(self) -> layer.CommandGenerator[None]:
        """As HttpStream, with the page that the refusal of a connection asks for."""
        error = self.context.server.error
        if (
            isinstance(error, Sentence)
            and self.flow.response
            and self.flow.response.status_code == status_codes.BAD_GATEWAY
        ):
            self.flow.response = page(error)
        yield from super().handle_connect_finish()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated

    def handle_protocol_error(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        """As HttpStream, with a response in place of an error where there is one to be said."""
        sentence = event.message if isinstance(event, ResponseProtocolError) else None
        if not isinstance(sentence, Sentence):
            yield from super().handle_protocol_error(event)
            return
        for command in super().handle_protocol_error(event):
            if isinstance(command, SendHttp) and command.event is event:
                yield from self._say(sentence)
            else:
                yield command

    def _say(self, sentence: Sentence) -> layer.CommandGenerator[None]:
        client, response = self.context.client, page(sentence)
        yield SendHttp(ResponseHeaders(self.stream_id, response), client)
        yield SendHttp(ResponseData(self.stream_id, response.raw_content or b""), client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), client)
