"""The attackers' own servers: each connection is served by a function, on a thread, in the attacker's process."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from bench.edge.target import Target

Serve = Callable[[socket.socket], None]


class Server:
    """Listens on the loopback address at `port` as long as it is entered. What a connection fails with is nobody's."""

    def __init__(self, serve: Serve, port: int = 0) -> None:
        """`serve` gets each connection; it is closed behind it. Port 0 is one of the kernel's choice."""
        self._serve, self.port = serve, port

    def __enter__(self) -> Self:
        """Listen, and accept on a thread."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more; connections go on until the process ends."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(20)
            self._serve(connection)


def over_tls(target: Target, serve: Serve, *, alpn: str = "http/1.1", chain: str = "") -> Serve:
    """`serve` behind a handshake with the certificate of *.edge.test, or with the chain in a file of one's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain or target.certificate, target.key)
    context.set_alpn_protocols([alpn])

    def served(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            serve(inside)

    return served


def request_of(connection: socket.socket) -> bytes:
    """A request's head and what came with it, as raw as it came."""
    came = b""
    while b"\r\n\r\n" not in came and b"\n\n" not in came and (data := connection.recv(65536)):
        came += data
    return came


def echoing(connection: socket.socket) -> None:
    """Answer one request with the bytes that it consisted of."""
    came = request_of(connection)
    connection.settimeout(0.3)
    with suppress(TimeoutError):
        while b"\r\n0\r\n" not in came and b"chunked" in came and (data := connection.recv(65536)):
            came += data
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(came), came))
