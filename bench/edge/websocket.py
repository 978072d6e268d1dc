"""WebSocket messages that are small on the wire and large inside (RFC 7692), from either end."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import zlib

from bench.edge.scene import RefusedError, Scene, answer, head_of, status
from bench.edge.server import Server, over_tls, request_of
from bench.edge.target import NAME

_INSIDE = 600_000_000
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK = b"\0\0\0\0"


def _message(*, client: bool) -> bytes:
    """One compressed binary message; a client's mask of zeros leaves it as it is."""
    pressed = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = pressed.compress(bytes(1 << 20)) + pressed.flush(zlib.Z_FULL_FLUSH)
    inside = (block * (_INSIDE >> 20)).removesuffix(b"\0\0\xff\xff")
    return (
        b"\xc2" + bytes([(0x80 if client else 0) | 127]) + len(inside).to_bytes(8) + (_MASK if client else b"") + inside
    )


def _accept(connection: socket.socket) -> None:
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", request_of(connection))
    if key is None:
        raise ValueError("no WebSocket")
    token = base64.b64encode(hashlib.sha1(key[1] + _GUID, usedforsecurity=False).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n" % token
    )


def _opened(scene: Scene, port: int) -> socket.socket:
    connection = scene.tls(scene.tunnel(NAME, port), NAME)
    connection.sendall(
        f"GET / HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n".encode()
    )
    head = head_of(connection)
    if " 101 " not in head.partition("\r\n")[0]:
        raise RefusedError(status(head.encode()))
    return connection


def _closing(came: bytes) -> str:
    """A close frame's code (RFC 6455 section 7.4.1)."""
    if not came:
        return "closed"
    return f"close {int.from_bytes(came[2:4])}" if came[0] == 0x88 else "a message"


def from_client(scene: Scene) -> None:
    """The client sends such messages."""
    bomb = _message(client=True)

    def serve(connection: socket.socket) -> None:
        _accept(connection)
        connection.settimeout(scene.target.seconds + 10)
        while connection.recv(1 << 20):
            pass

    with Server(over_tls(scene.target, serve)) as server:

        def one() -> None:
            with _opened(scene, server.port) as connection:
                scene.flood(connection, [bomb])
                connection.settimeout(scene.target.seconds)
                scene.saw(_closing(answer(connection)))

        scene.again(one)


def from_server(scene: Scene) -> None:
    """The server sends such messages."""
    bomb = _message(client=False)

    def serve(connection: socket.socket) -> None:
        _accept(connection)
        scene.flood(connection, [bomb])
        connection.settimeout(scene.target.seconds)
        scene.saw(f"server: {_closing(answer(connection))}")

    with Server(over_tls(scene.target, serve)) as server:

        def one() -> None:
            with _opened(scene, server.port) as connection:
                connection.settimeout(scene.target.seconds)
                scene.saw(_closing(answer(connection)))

        scene.again(one)
