"""mitmproxy's HTTP stream, with an answer of its own for a client that may not have a connection.

Where another proxy would connect, an address is looked at before it is asked for. A CONNECT that came to nothing gets
the page that other requests get from `http1` and `http2`; what a script has answered stays.
"""

from __future__ import annotations

from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseProtocolError

from addons.edge import answers
from addons.edge.answers import Sentence
from addons.edge.connecting.connecting import current
from addons.edge.connecting.judged import Judged


class EdgeStream(Judged):
    """Stands in for HttpStream."""

    _answered_by_script = False

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
            self._answer(sentence)
            yield from self.handle_connect_finish()
        else:
            yield from super().handle_connect_upstream()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated

    def _refused_of_next_proxy(self) -> Sentence | None:
        if self.mode is not HTTPMode.upstream or (connecting := current()) is None:
            return None
        return connecting.refused_literal(self.context.client, self.flow.request.host, self.flow.request.port)

    def handle_connect_regular(self) -> layer.CommandGenerator[None]:
        """As HttpStream, with an eye on whether a script has answered."""
        self._answered_by_script = self.flow.response is not None
        yield from super().handle_connect_regular()

    def handle_connect_finish(self) -> layer.CommandGenerator[None]:
        """As HttpStream, with our page where it has made one."""
        if self.flow.response and self.mode is HTTPMode.regular and not self._answered_by_script:
            self._answer(self.context.server.error or self.flow.response.text or "")
        yield from super().handle_connect_finish()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated

    def _answer(self, why: str) -> None:
        error, request = ResponseProtocolError(self.stream_id, why, ErrorCode.CONNECT_FAILED), self.flow.request
        came = request.data.method, request.headers.fields, request.data.host
        self.flow.response = answers.of_error(self.context.client, came, error)
