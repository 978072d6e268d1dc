"""Connections that do nothing, and connections that lead the proxy to itself or where nobody outside should be."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial

from bench.edge.scene import Scene, answer, status
from bench.edge.target import CLIENT_B

_MOST = 4000


def idle_forward(scene: Scene) -> None:
    """Thousands of connections to the proxy, on which nothing is said."""
    _held(scene, lambda: scene.dial(scene.target.proxy))


def idle_inbound(scene: Scene) -> None:
    """The same to our own sites."""
    _held(scene, lambda: scene.dial(scene.target.inbound))


def idle_tunnels(scene: Scene) -> None:
    """CONNECT, and then nothing."""
    _held(scene, lambda: scene.tunnel("w0.bench.test", scene.target.tls_port))


def slow_heads(scene: Scene) -> None:
    """A byte of a request's head each half second, on hundreds of connections."""
    kept = _held(scene, lambda: _begun(scene), most=800, wait=False)

    def drip() -> None:
        for one in kept:
            one.send(b"a")

    scene.again(drip, pause_s=0.5)


def _begun(scene: Scene) -> socket.socket:
    made = scene.dial(scene.target.proxy)
    made.sendall(b"GET http://w0.bench.test/ HTTP/1.1\r\nX-A: ")
    return made


def idle_finished(scene: Scene) -> None:
    """Handshakes that are finished at our own sites, after which nothing is asked."""
    _held(scene, lambda: scene.tls(scene.dial(scene.target.inbound), CLIENT_B))


def _held(
    scene: Scene, opened: Callable[[], socket.socket], *, most: int = _MOST, wait: bool = True
) -> list[socket.socket]:
    kept: list[socket.socket] = []
    lock = threading.Lock()

    def one() -> None:
        if len(kept) < most:
            made = opened()
            with lock:
                kept.append(made)

    if wait:
        scene.again(one, threads=16, pause_s=0)
    else:
        for _ in range(most):
            scene.once(one)
            if scene.over:
                break
    dead = sum(_closed(made) for made in kept)
    scene.saw(f"{len(kept)} taken, {dead} of them closed again")
    return kept


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1)
    except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(2)


def _told(connection: socket.socket) -> str:
    """A status, the end, or neither of them."""
    try:
        return status(connection.recv(4096))
    except TimeoutError:
        return "no answer"


ITSELF = ("Localhost", "localhost", "127.1", "127.0.0.1", "[::ffff:127.0.0.1]", "0", "0x7f000001", "me.edge.test")
"""Names of this machine: the last one by a name server."""


def destinations(scene: Scene) -> None:
    """The status page by the names of this machine, and the clouds' metadata service, through the proxy."""
    port = scene.target.status.rpartition(":")[2]

    def tried(name: str, way: str) -> str:
        here = f"{name}:{port}"
        with scene.dial(scene.target.proxy) as connection:
            if way == "CONNECT":
                connection.sendall(f"CONNECT {here} HTTP/1.1\r\nHost: {here}\r\n\r\n".encode())
                if (told := _told(connection)) != "status 200":
                    return told
                connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: {scene.target.status}\r\n\r\n".encode())
            else:
                connection.sendall(f"GET http://{here}/metrics HTTP/1.1\r\nHost: {here}\r\n\r\n".encode())
            came = answer(connection)
            if b"hsmitm_" in came:
                scene.passed(f"{way} {name}")
            return status(came) if came else "no answer"

    ways = ("absolute", "CONNECT")
    scene.each((f"{way} {name}", partial(tried, name, way)) for name in ITSELF for way in ways)


def metadata(scene: Scene) -> None:
    """CONNECT to addresses that nobody outside should reach: what is told at once is a refusal."""

    def tried(address: str) -> str:
        with scene.dial(scene.target.proxy) as connection:
            connection.sendall(f"CONNECT {address}:80 HTTP/1.1\r\nHost: {address}:80\r\n\r\n".encode())
            told = _told(connection)
            if told == "no answer":
                scene.passed(f"{address} is tried")
            return told

    scene.each((one, partial(tried, one)) for one in ("169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"))


def itself(scene: Scene) -> None:
    """The proxy is asked for its own listener, by Host, in absolute form and by CONNECT."""
    port = scene.target.proxy.rpartition(":")[2]

    def tried(name: str, way: str) -> str:
        here = f"{name}:{port}"
        request = {
            "Host": f"GET / HTTP/1.1\r\nHost: {here}\r\n\r\n",
            "absolute": f"GET http://{here}/ HTTP/1.1\r\nHost: {here}\r\n\r\n",
            "CONNECT": f"CONNECT {here} HTTP/1.1\r\nHost: {here}\r\n\r\n",
        }[way]
        with scene.dial(scene.target.proxy) as connection:
            connection.sendall(request.encode())
            connection.settimeout(scene.target.seconds)
            told = _told(connection)
            if way == "CONNECT" and told == "status 200":
                connection.sendall(f"GET / HTTP/1.1\r\nHost: {here}\r\n\r\n".encode())
                told = _told(connection)
            if told == "no answer":  # it asks itself, and itself, and itself
                scene.passed(f"{way} {name}")
            return told

    ways = ("Host", "absolute", "CONNECT")
    scene.each((f"{way} {name}", partial(tried, name, way)) for name in ITSELF for way in ways)
