"""The HTTP server of the status page: one request a connection, of which the head is read and nothing else.

tornado parses (mitmproxy brings it: an HTTP parser of our own would be the third in this house); it hands each
connection over after the head, before a body. Nothing that a client does or omits keeps more than its connection, for
LIFETIME_S: there is no second request on a connection, so that pipelined ones are not even parsed. Where connections
are too many the oldest makes room, not the newest: an honest one is over in milliseconds, so that those who are in the
way go, and a monitor gets its answer from behind a thousand idle ones.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets
from tornado.tcpserver import TCPServer

from hsm.errors import MisconfiguredError
from proxy import listening
from proxy.config.section import Address
from proxy.status.page import Answer, Page

logger = logging.getLogger("hsmitm.status")

MAX_CONNECTIONS, MAX_OF_ONE_ADDRESS = 128, 32
MAX_HEAD = 8192
HEAD_S, LIFETIME_S, LINGER_S = 5.0, 15.0, 1.0
"""Seconds for a request's head; for a connection in all, an answer that is read slowly included; and for a client that
sends a body to see that nobody wants it, before its connection is reset under it."""


class StatusServer(TCPServer, HTTPServerConnectionDelegate):
    """Listens, and keeps to the bounds."""

    def __init__(self, page: Page, registry: CollectorRegistry) -> None:
        """`registry` gets the counter of connections that made room."""
        super().__init__(max_buffer_size=2 * MAX_HEAD, read_chunk_size=MAX_HEAD)
        self._page = page
        self._open: dict[IOStream, tuple[str, asyncio.TimerHandle]] = {}
        """Each connection's address and its end, the oldest first."""
        self._bounds = HTTP1ConnectionParameters(
            no_keep_alive=True, max_header_size=MAX_HEAD, header_timeout=HEAD_S, max_body_size=0
        )
        self._displaced = Counter(
            "hsmitm_status_connections_displaced", "Connections that made room for newer ones", registry=registry
        )

    def serve_at(self, address: Address) -> None:
        """Listen. Raises MisconfiguredError where `address` is taken."""
        listening.check(address, "status.listen")
        try:
            self.add_sockets(bind_sockets(address.port, address.host or None))
        except OSError as error:
            raise MisconfiguredError(f"status.listen: cannot listen on {address}: {error.strerror}") from error

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """A client has connected."""
        self._make_room(address[0])
        end = asyncio.get_running_loop().call_later(LIFETIME_S, stream.close)
        self._open[stream] = (address[0], end)
        HTTP1ServerConnection(stream, self._bounds, address[0]).start_serving(self)

    def _make_room(self, address: str) -> None:
        his = [stream for stream, (other, _) in self._open.items() if other == address]
        if len(his) < MAX_OF_ONE_ADDRESS and len(self._open) < MAX_CONNECTIONS:
            return
        oldest = his[0] if len(his) >= MAX_OF_ONE_ADDRESS else next(iter(self._open))
        displaced, _ = self._open[oldest]
        self._displaced.inc()
        logger.warning("too many connections to the status page: closing the oldest of %s", displaced)
        self._forget(oldest)
        oldest.close()

    def _forget(self, stream: IOStream) -> None:
        if stream in self._open:
            _, end = self._open.pop(stream)
            end.cancel()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """tornado begins to read a head."""
        assert isinstance(request_conn, HTTP1Connection)
        return _Request(self._page, request_conn)

    def on_close(self, server_conn: object) -> None:
        """tornado is through with a connection."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        self._forget(server_conn.stream)
        server_conn.stream.close()


class _Request(HTTPMessageDelegate):
    """The one request of a connection."""

    def __init__(self, page: Page, connection: HTTP1Connection) -> None:
        self._page = page
        self._connection = connection

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> asyncio.Future[None]:
        """The head is there: from here on the connection is ours, and tornado reads no body."""
        assert isinstance(start_line, RequestStartLine)
        stream = self._connection.detach()
        return asyncio.ensure_future(self._answer(stream, start_line, headers))

    async def _answer(self, stream: IOStream, start: RequestStartLine, headers: HTTPHeaders) -> None:
        with suppress(StreamClosedError, OSError):
            try:
                answer = await self._page.answer(start, headers)
            except Exception:  # a bug of ours is one request's, and no traceback's
                logger.exception("answering %s failed", start.path[:80])
                answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error; see the log\n")
            await stream.write(answer.head())
            if start.method != "HEAD":  # without content (RFC 9110 section 9.3.2)
                await stream.write(answer.content)  # one copy for all who read it slowly
            if answer.refuses_body:
                stream.socket.shutdown(socket.SHUT_WR)
                await asyncio.sleep(LINGER_S)
