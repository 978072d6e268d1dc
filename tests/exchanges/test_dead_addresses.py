"""A server that has an address which says nothing, and one that answers: nobody notices, whichever way they come."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.addons.edge import wire2
from tests.exchanges.ends1 import HOST
from tests.exchanges.scene import BOTH, Scene, over_tls

pytestmark = pytest.mark.alone


def _full(stack: ExitStack, family: socket.AddressFamily, host: str, port: int) -> None:
    """Have the kernel drop every connection to this address: its queue is full."""
    listener = stack.enter_context(socket.socket(family))
    if family is socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(0)
    for _ in range(8):
        waiting = stack.enter_context(socket.socket(family))
        waiting.setblocking(False)
        assert waiting.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is closed at the end."""
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("way", ["explicit", "socks5", "inbound"])
@pytest.mark.parametrize("version", ["http/1.1", "h2"])
def test_a_dead_ipv6_address_first(scene: Scene, stack: ExitStack, way: str, version: str) -> None:
    """It costs a moment, not the time-out, and the answer is the server's: 200 within two seconds."""

    def serve(tls: ssl.SSLSocket) -> None:
        if version == "h2":
            tls.sendall(wire2.settings())
            came = b""
            while wire2.HEADERS not in [kind for kind, *_ in wire2.frames(came)]:
                came += tls.recv(65536)
            tls.sendall(wire2.headers([(b":status", b"200")], 1))
        tls.recv(65536)
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    context = scene.ca.context((HOST, BOTH), (version,))
    scene.through(way)
    scene.place.call(lambda: _full(stack, socket.AF_INET6, "::1", scene.both))
    with scene.serving(over_tls(context, serve), scene.both):
        answer = scene.curl(way, scene.both, name=BOTH)
    assert answer.status == 200, answer
    assert answer.took_s < 2


def test_a_dead_address_that_the_client_has_chosen(scene: Scene, stack: ExitStack) -> None:
    """A redirected client has looked the address up itself: it reads that nobody answers there when the time for
    connecting is up, behind a leaf of the other CA, and the log has why."""
    port = scene.spare()
    scene.through("transparent")
    scene.place.call(lambda: _full(stack, socket.AF_INET, "127.0.0.1", port))
    answer = scene.curl("transparent", port, "--insecure")
    assert answer.status == 502, answer
    assert "cannot be connected to" in answer.body
    assert 1.9 < answer.took_s < 4  # connect_timeout_s is two seconds here, and it is waited for once
    scene.systems["transparent"].until_logged(f"cannot connect to 127.0.0.1:{port}: no connection within 2 s")
    with pytest.raises(ssl.SSLCertVerificationError):
        scene.tls("transparent", port)


def test_who_waits_for_the_servers_word_is_left(scene: Scene) -> None:
    """A redirected client whose protocol begins with the server's greeting, where there is none, does not wait long."""
    with scene.open("transparent", scene.spare()) as connection:
        assert connection.recv(1) == b""
