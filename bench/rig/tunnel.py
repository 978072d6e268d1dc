"""One client connection, through a proxy with CONNECT or without: TLS, and requests whose answers are checked.

Blocking sockets and the standard library's ssl: per connection it is the cheapest that Python has, and it verifies what
it is shown.
"""

from __future__ import annotations

import socket
import ssl

from msgspec import Struct

LIMIT_S = 60.0
_CHUNK = 1 << 20


class Route(Struct, frozen=True):
    """Through `proxy` ("host:port") to port `port` of a host, whose certificate is of the CA in the file `ca`.

    With `connect` the proxy is asked with CONNECT, without it the TLS connection is to `proxy` itself: that is how one
    reaches a proxy that has no CONNECT, or the origin. `names_host` is whether the answer to / begins with the host.
    Nothing that is waited for may take more than `limit_s`."""

    proxy: str
    port: int
    ca: str
    connect: bool = True
    names_host: bool = True
    limit_s: float = LIMIT_S

    def tls(self) -> ssl.SSLContext:
        """TLS 1.3, verified, as a client that speaks HTTP/1.1 alone. No session is resumed."""
        made = ssl.create_default_context(cafile=self.ca)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.set_alpn_protocols(["http/1.1"])
        return made


class TunnelError(Exception):
    """What came was not what was asked for."""


def opened(route: Route, host: str) -> socket.socket:
    """A TCP connection that leads to `host` along the route. Raises OSError or TunnelError."""
    address, _, port = route.proxy.rpartition(":")
    raw = socket.create_connection((address, int(port)), timeout=route.limit_s)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if route.connect:
            _connect(raw, f"{host}:{route.port}".encode())
    except BaseException:
        raw.close()
        raise
    return raw


def _connect(raw: socket.socket, target: bytes) -> None:
    raw.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, target))
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # nothing may follow: in TLS the client speaks first
        more = raw.recv(4096)
        if not more:
            raise TunnelError(f"the proxy closed after {head[:200]!r}")
        head += more
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise TunnelError(f"CONNECT was answered with {head[:300]!r}")


class Tunnel:
    """An open connection to `host`. Raises OSError, of which ssl.SSLError is one, or TunnelError."""

    def __init__(self, route: Route, tls: ssl.SSLContext, host: str) -> None:
        """Connects, and makes the handshakes."""
        self._host, self._port, self._names_host = host, route.port, route.names_host
        raw = opened(route, host)
        try:
            self._socket = tls.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise

    def get(self, path: str, *, last: bool = False) -> int:
        """Ask for `path` and read the answer whole: bytes of its body. With `last` the server closes behind it."""
        closing = "Connection: close\r\n" if last else ""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{closing}\r\n".encode())
        head, length, body = self._head()
        host = self._host.encode()
        if path == "/" and self._names_host and body[: len(host)] != host[: len(body)]:
            raise TunnelError(f"the answer of another host than {self._host}: {body[:200]!r}")
        left, space = length - len(body), bytearray(min(_CHUNK, max(1, length)))
        while left > 0:
            size = self._socket.recv_into(space)
            if size == 0:
                raise TunnelError(f"the body of {length} bytes ended {left} early; head {head[:200]!r}")
            left -= size
        if left < 0:
            raise TunnelError(f"more than the {length} bytes of the body came; head {head[:200]!r}")
        return length

    def _head(self) -> tuple[bytes, int, bytes]:
        """The answer's head, the length of its body, and what came of that already."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self._socket.recv(65536)
            if not more:
                raise TunnelError(f"closed in the answer's head: {data[:200]!r}")
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
        if b" 200 " not in lines[0] + b" " or len(lengths) != 1:
            raise TunnelError(f"not the origin's answer: {data[:300]!r}")
        return head, lengths[0], body

    def close(self) -> None:
        """Close it as browsers do, without waiting for the other side."""
        self._socket.close()
