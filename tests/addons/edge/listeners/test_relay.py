"""A bypassed stream on real sockets: every byte, every end, every reset, and nobody's memory."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from addons.edge.listeners.handler import EdgeHandler
from addons.edge.settings import Bounds
from tests.addons.edge.listeners.far import HELLO, Far, Sending, connect, drained, exactly, through
from tests.addons.edge.listeners.passing import Passing
from tests.waiting import wait_until

_SIZE = 100_000_000


@pytest.fixture
def proxy() -> Iterator[Passing]:
    """One that passes everything by."""
    with Passing() as made:
        yield made


@pytest.fixture
def far() -> Iterator[Far]:
    """A server."""
    with Far() as made:
        yield made


def _handed(proxy: Passing) -> EdgeHandler:
    """The newest connection's handler, once its sockets are out of the layers' hands."""
    handler = proxy.handlers[-1]
    wait_until(lambda: handler._relay, "the sockets are handed over")
    return handler


def _reset(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def test_every_byte_passes_both_ways_at_once(proxy: Passing, far: Far) -> None:
    """100 MB in each direction at the same time arrive as they were sent, are counted, and end as they ended."""
    with through(proxy, far) as (client, server):
        up, down = Sending(client, b"up", _SIZE), Sending(server, b"down", _SIZE)
        got: list[tuple[int, bytes]] = []
        reading = threading.Thread(target=lambda: got.append(drained(server)))
        reading.start()
        assert drained(client) == (_SIZE, down.digest())
        reading.join()
        assert got == [(_SIZE, up.digest())]
    handler = proxy.handlers[-1]
    wait_until(lambda: proxy.facts and proxy.facts[-1].id == handler.client.id, "its record is written")
    facts = proxy.facts[-1]
    assert facts.event == "bypassed"
    assert facts.failure is None
    assert (facts.server_leg.bytes_in, facts.server_leg.bytes_out) == (_SIZE, _SIZE + len(HELLO))
    head = len(f"CONNECT 127.0.0.1:{far.port} HTTP/1.1\r\n\r\n")
    assert facts.client_leg.bytes_in == _SIZE + len(HELLO) + head
    assert 0 < facts.client_leg.bytes_out - _SIZE < 100  # the answer to CONNECT
    assert not handler.transports


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize("handed", [True, False])
def test_who_has_ended_still_hears(proxy: Passing, far: Far, first: str, handed: bool) -> None:
    """One side ends its direction; the other goes on for as long as it likes, also where the first one has ended before
    anybody had the sockets."""
    with connect(proxy, far.port) as client, far.taken() as server:
        if handed:
            _handed(proxy)
        one, other = (client, server) if first == "client" else (server, client)
        one.shutdown(socket.SHUT_WR)
        assert other.recv(1) == b""
        sending = Sending(other, b"late", 3_000_000)
        assert drained(one) == (3_000_000, sending.digest())


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_reset_is_passed_on(proxy: Passing, far: Far, first: str) -> None:
    """Whose peer was cut hears that this was not all."""
    with through(proxy, far) as (client, server):
        _handed(proxy)
        one, other = (client, server) if first == "client" else (server, client)
        _reset(one)
        with pytest.raises(ConnectionResetError):
            other.recv(1)
    wait_until(lambda: not proxy.handlers[-1].transports, "nothing is left of it")


@pytest.mark.parametrize("slow", ["client", "server"])
def test_who_reads_slowly_holds_the_other_up(proxy: Passing, far: Far, slow: str) -> None:
    """What a slow reader has not taken stays at its sender, and nothing is lost in the end."""
    with through(proxy, far) as (client, server):
        handler = _handed(proxy)
        reader, writer = (client, server) if slow == "client" else (server, client)
        sending = Sending(writer, b"fast", 30_000_000)

        def kept() -> int:
            transports = [io.writer.transport for io in handler.transports.values() if io.writer]  # type: ignore[union-attr]
            return sum(one.get_write_buffer_size() for one in transports)

        wait_until(lambda: 65_536 < kept() < 1_000_000, "what is kept has a bound")
        assert drained(reader) == (30_000_000, sending.digest())


def test_a_byte_is_a_sign_of_life(proxy: Passing, far: Far) -> None:
    """A stream in which something passes now and then is not idle."""
    with through(proxy, far) as (client, server):
        handler = _handed(proxy)
        for one, other in ((client, server), (server, client)):
            before = handler.last_activity
            one.sendall(b"!")
            assert other.recv(1) == b"!"
            assert wait_until(lambda: handler.last_activity > before, "it was noticed")  # noqa: B023  # within the loop


def test_a_stream_without_a_byte_ends() -> None:
    """Both sides see the end after tunnel_idle_s."""
    with Far() as far, Passing(bounds=Bounds(tunnel_idle_s=0.5)) as proxy, through(proxy, far) as (client, server):
        assert client.recv(1) == b""
        assert server.recv(1) == b""


@pytest.mark.alone
def test_a_thousand_at_once(proxy: Passing, far: Far) -> None:
    """A thousand clients have each their own server's bytes, both ways, and nothing is left of them."""
    number = 1000
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(proxy, far.port)) for _ in range(number)]
        servers = [stack.enter_context(far.taken()) for _ in range(number)]
        for index, client in enumerate(clients):
            client.sendall(index.to_bytes(4) + b"x" * 50_000)
        for server in servers:
            index = exactly(server, 50_004)[:4]
            server.sendall(index * 20_000)
            server.shutdown(socket.SHUT_WR)
        for index, client in enumerate(clients):
            assert exactly(client, 80_001) == index.to_bytes(4) * 20_000
    wait_until(lambda: not proxy.listeners.limits.clients and not proxy.listeners.limits.servers, "all are gone")


def test_a_client_that_is_cut_takes_its_server_along(proxy: Passing, far: Far) -> None:
    """The proxy lets somebody go, in the middle of a stream that nobody reads: both ends hear of it, nothing stays."""
    with through(proxy, far) as (_, server):
        handler = _handed(proxy)
        sending = Sending(server, b"unread", 30_000_000)
        proxy.soon(handler.cut, "over")
        wait_until(lambda: not handler.transports, "nothing is left of it")
        assert isinstance(sending.error(), OSError)
