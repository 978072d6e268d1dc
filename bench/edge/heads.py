"""HTTP/1 that a server could read otherwise than we do, heads that never end, and trailers."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from functools import partial

from bench.edge.scene import Scene, answer, status
from bench.edge.server import Server, echoing, over_tls, request_of
from bench.edge.target import CLIENT_B, NAME

_HEAD = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"

REQUESTS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "NUL in a value": lambda url, host: _HEAD % (url, host) + b"X-A: a\0b\r\n\r\n",
    "CR in a value": lambda url, host: _HEAD % (url, host) + b"X-A: a\rX-B: b\r\n\r\n",
    "obs-fold": lambda url, host: _HEAD % (url, host) + b"X-A: a\r\n b\r\n\r\n",
    "two Hosts": lambda url, host: _HEAD % (url, host) + b"Host: other.edge.test\r\n\r\n",
    "no Host": lambda url, _: b"GET %s HTTP/1.1\r\nConnection: close\r\n\r\n" % url,
    "HTTP/1.2": lambda url, host: (_HEAD % (url, host)).replace(b"HTTP/1.1", b"HTTP/1.2") + b"\r\n",
    "tabs": lambda url, host: (_HEAD % (url, host)).replace(b"GET ", b"GET\t").replace(b" HTTP", b"\tHTTP") + b"\r\n",
    "bare LF": lambda url, host: (_HEAD % (url, host)).replace(b"\r\n", b"\n") + b"\n",
    "\\x0bchunked": lambda url, host: _post(url, host, b"Transfer-Encoding: \x0bchunked\r\n"),
    "chunked twice": lambda url, host: _post(
        url, host, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
    ),
    "chunked, identity": lambda url, host: _post(url, host, b"Transfer-Encoding: chunked, identity\r\n"),
    "length and chunked": lambda url, host: _post(url, host, b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
    "two lengths": lambda url, host: _post(url, host, b"Content-Length: 5\r\nContent-Length: 0\r\n"),
    "length +5": lambda url, host: _post(url, host, b"Content-Length: +5\r\n"),
    "space before the colon": lambda url, host: _HEAD % (url, host) + b"X-A : a\r\n\r\n",
    "a space first": lambda url, host: (_HEAD % (url, host)).replace(b"\r\nHost", b"\r\n X: y\r\nHost") + b"\r\n",
    "a name of bytes": lambda url, host: _HEAD % (url, host) + b"X\xe9(A): a\r\n\r\n",
}
"""What RFC 9112 wants refused, by name: bytes of a request for a URL of a host."""


def _post(url: bytes, host: bytes, framing: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n" % (url, host)
    return head + framing + b"\r\n0\r\n\r\n"


RESPONSES: dict[str, bytes] = {
    "NUL in a value": b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "CR in a value": b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
    "obs-fold": b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n",
    "\\x0bchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/3.7": b"HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nok",
}
"""The same of answers. A bare CR or NUL may also be replaced with a space (RFC 9110 section 5.5)."""
_ANOMALIES = (b"\0", b"a\rSet", b"a\r\n b", b"\x0bchunked", b"HTTP/3.7")


def requests_forward(scene: Scene) -> None:
    """Malformed requests through the proxy."""
    with Server(echoing) as server:
        host = f"{NAME}:{server.port}".encode()

        def tried(variant: str) -> str:
            with scene.dial(scene.target.proxy) as connection:
                connection.sendall(REQUESTS[variant](b"http://%s/" % host, host))
                return _judged(scene, f"forward, {variant}", answer(connection))

        scene.each((name, partial(tried, name)) for name in REQUESTS)


def requests_inbound(scene: Scene) -> None:
    """Malformed requests to our own site."""

    def tried(variant: str) -> str:
        with scene.tls(scene.dial(scene.target.inbound), CLIENT_B) as connection:
            connection.sendall(REQUESTS[variant](b"/", CLIENT_B.encode()))
            return _judged(scene, f"inbound, {variant}", answer(connection))

    scene.each((name, partial(tried, name)) for name in REQUESTS)


def _judged(scene: Scene, variant: str, came: bytes) -> str:
    """The servers answer 200 with what they received: that they received anything is the fault, but for bare LF, where
    a recipient may be lenient (RFC 9112 section 2.2) and only must not pass it on."""
    told = status(came)
    if told == "status 200":
        passed_on = b"\nHost" in came.replace(b"\r\n", b"  ")
        if passed_on or "bare LF" not in variant:
            scene.passed(variant)
    return told


def responses(scene: Scene) -> None:
    """Malformed answers of a server."""

    def tried(variant: str) -> str:
        def serve(connection: socket.socket) -> None:
            request_of(connection)
            connection.sendall(RESPONSES[variant])

        with Server(serve) as server, scene.dial(scene.target.proxy) as connection:
            host = f"{NAME}:{server.port}".encode()
            connection.sendall(_HEAD % (b"http://%s/" % host, host) + b"\r\n")
            came = answer(connection)
            both = b"ontent-length" in came.lower() and b"chunked" in came.lower()
            doubtful = status(came) == "status 200" and ("two" in variant or both)
            if doubtful or any(one in came for one in _ANOMALIES):
                scene.passed(f"answer, {variant}")
            return status(came)

    scene.each((name, partial(tried, name)) for name in RESPONSES)


def _lines() -> Iterator[bytes]:
    for number in itertools.count():
        yield b"".join(b"X-%d-%d: %s\r\n" % (number, each, b"a" * 200) for each in range(300))


def _one_line() -> Iterator[bytes]:
    yield b"X-A: "
    while True:
        yield b"a" * 65536


def _flooded(scene: Scene, connection: socket.socket, first: bytes, chunks: Iterator[bytes]) -> None:
    with connection:
        connection.sendall(first)
        scene.flood(connection, chunks)
        scene.saw(status(answer(connection, quiet_s=0.2)))


def endless_request(scene: Scene) -> None:
    """A request head of the forward proxy that never ends, in lines and in one line, in plain HTTP and inside TLS."""
    first = _HEAD % (b"http://%s:1/" % NAME.encode(), NAME.encode())

    def inside() -> socket.socket:
        return scene.tls(scene.tunnel("w0.bench.test", scene.target.tls_port), "w0.bench.test")

    ways: list[Callable[[], None]] = [
        lambda: _flooded(scene, scene.dial(scene.target.proxy), first, _lines()),
        lambda: _flooded(scene, scene.dial(scene.target.proxy), first, _one_line()),
        lambda: _flooded(scene, inside(), _HEAD % (b"/", b"w0.bench.test"), _lines()),
    ]
    turn = itertools.cycle(ways)

    def one() -> None:
        next(turn)()

    scene.again(one, threads=3)


def endless_inbound(scene: Scene) -> None:
    """A request head of our own site that never ends."""
    first = _HEAD % (b"/", CLIENT_B.encode())
    turn = itertools.cycle((_lines, _one_line))
    scene.again(
        lambda: _flooded(scene, scene.tls(scene.dial(scene.target.inbound), CLIENT_B), first, next(turn)()), threads=2
    )


def _asked(scene: Scene, serve: Callable[[socket.socket], None], *, threads: int = 2) -> None:
    """A client that asks a server of ours through the proxy, over TLS, and reads what it gets."""
    with Server(over_tls(scene.target, serve)) as server:

        def one() -> None:
            with scene.tls(scene.tunnel(NAME, server.port), NAME) as connection:
                connection.sendall(_HEAD % (b"/", NAME.encode()) + b"\r\n")
                connection.settimeout(scene.target.seconds)
                scene.saw(status(answer(connection)))

        scene.again(one, threads=threads)


def endless_answer(scene: Scene) -> None:
    """An answer's head that never ends, and one whose interim answers (1xx) never do."""

    def final() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        yield from _lines()

    def interim() -> Iterator[bytes]:
        yield from itertools.repeat(b"HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n" * 300)

    turn = itertools.cycle((final, interim))

    def serve(connection: socket.socket) -> None:
        request_of(connection)
        scene.flood(connection, next(turn)())

    _asked(scene, serve)


def endless_chunks_answer(scene: Scene) -> None:
    """A chunk extension, and trailers, of an answer that never end."""
    starts = itertools.cycle((b"1;", b"0\r\nX-A: "))

    def serve(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + next(starts))
        scene.flood(connection, itertools.repeat(b"a=b;" * 10_000))

    _asked(scene, serve)


def endless_chunks_request(scene: Scene) -> None:
    """A chunk extension, and trailers, of a request that never end."""
    starts = itertools.cycle((b"1;", b"0\r\nX-A: "))
    first = b"POST / HTTP/1.1\r\nHost: w0.bench.test\r\nTransfer-Encoding: chunked\r\n\r\n"

    def one() -> None:
        connection = scene.tls(scene.tunnel("w0.bench.test", scene.target.tls_port), "w0.bench.test")
        _flooded(scene, connection, first + next(starts), itertools.repeat(b"a=b;" * 10_000))

    scene.again(one, threads=2)


def many_fields(scene: Scene) -> None:
    """Requests that end, but have a hundred thousand fields, or one field of 8 MB."""
    first = _HEAD % (b"/", b"w0.bench.test")
    turn = itertools.cycle((b"a:b\r\n" * 100_000, b"X-A: " + b"a" * 8_000_000 + b"\r\n"))

    def one() -> None:
        connection = scene.tls(scene.tunnel("w0.bench.test", scene.target.tls_port), "w0.bench.test")
        _flooded(scene, connection, first, iter([next(turn) + b"\r\n"]))

    scene.again(one, threads=2)


def trailers(scene: Scene) -> None:
    """Trailers of a chunked request and of a chunked answer, which are right and must pass."""
    body = b"2\r\nok\r\n0\r\nX-Sum: abc\r\n\r\n"

    def upload() -> str:
        with Server(echoing) as server, scene.dial(scene.target.proxy) as connection:
            host = f"{NAME}:{server.port}".encode()
            head = b"POST http://%s/ HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % (host, host)
            connection.sendall(head + body)
            came = answer(connection)
            if b"X-Sum: abc" not in came:
                scene.broke("trailers of a request")
            return status(came) if came else "no answer"

    def download() -> str:
        def serve(connection: socket.socket) -> None:
            request_of(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

        with Server(serve) as server, scene.dial(scene.target.proxy) as connection:
            host = f"{NAME}:{server.port}".encode()
            connection.sendall(_HEAD % (b"http://%s/" % host, host) + b"\r\n")
            came = answer(connection)
            if b"X-Sum: abc" not in came:
                scene.broke("trailers of an answer")
            return status(came) if came else "no answer"

    scene.each([("request", upload), ("answer", download)])
