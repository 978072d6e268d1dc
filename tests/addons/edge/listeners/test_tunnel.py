"""A passed stream passes whole, is watched, and leaves nothing behind that nobody asked for."""

from __future__ import annotations

import pytest
from mitmproxy import tcp
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.tcp import TcpEndHook, TcpStartHook
from mitmproxy.test import taddons

from addons.edge.listeners.client_tls import HelloBegunHook
from addons.edge.listeners.tunnel import Tunnel
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds
from tests.addons.edge.driver import Driver, arrived
from tests.addons.edge.hellos import hello


class _Script:
    """A user's, that looks at streams."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def tcp_message(self, flow: tcp.TCPFlow) -> None:
        self.seen.append(flow.messages[-1].content)
        if flow.messages[-1].content == b"change me":
            flow.messages[-1].content = b"changed"


class _Stream(Driver):
    """A tunnel between a client and a server."""

    def __init__(self, *addons: object) -> None:
        tctx = taddons.context(*addons)
        self.context = arrived(tctx)
        self.tunnel = Tunnel(self.context, Bounds())
        super().__init__(self.tunnel, tctx)

    def client(self, data: bytes) -> None:
        self.tell(events.DataReceived(self.context.client, data))

    def server(self, data: bytes) -> None:
        self.tell(events.DataReceived(self.context.server, data))

    @property
    def kept(self) -> int:
        assert self.tunnel.flow is not None
        return sum(len(one.content) for one in self.tunnel.flow.messages)


@pytest.fixture
async def stream() -> _Stream:
    """A stream that nobody looks at."""
    return _Stream()


async def test_nothing_is_kept_that_nobody_looks_at(stream: _Stream) -> None:
    """Bytes pass both ways, and none of them stays."""
    for _ in range(100):
        stream.client(b"\x00" * 1000)
        stream.server(b"\x01" * 1000)
    assert stream.sent(stream.context.server) == b"\x00" * 100_000
    assert stream.sent(stream.context.client) == b"\x01" * 100_000
    assert stream.kept == 0


async def test_a_script_sees_what_it_always_saw() -> None:
    """A script gets each message, may change it, and finds the latest ones in the flow; a long stream's first ones are
    let go."""
    script = _Script()
    stream = _Stream(script)
    stream.client(b"change me")
    assert stream.sent(stream.context.server) == b"changed"
    for _ in range(30):
        stream.server(b"x" * 65536)
    assert len(script.seen) == 31
    assert 900_000 < stream.kept <= 1_048_576
    for _ in range(2000):
        stream.server(b"x")
    assert stream.tunnel.flow is not None
    assert len(stream.tunnel.flow.messages) == 1024


async def test_what_could_be_a_hello_waits_a_moment(stream: _Stream) -> None:
    """A message that ends like a ClientHello begins goes on after a second."""
    stream.client(b"ready\x16\x03")
    assert stream.sent(stream.context.server) == b"ready"
    (timer,) = stream.of(commands.RequestWakeup)
    stream.tell(events.Wakeup(timer))
    assert stream.sent(stream.context.server) == b"ready\x16\x03"
    stream.client(hello()[2:])
    assert [one.data.kind for one in stream.of(EdgeRefusedHook)] == ["not-tls"]
    assert stream.sent(stream.context.server) == b"ready\x16\x03"


async def test_what_waits_goes_on_with_the_clients_end(stream: _Stream) -> None:
    """Nothing is lost at the end."""
    stream.client(b"bye\x16")
    stream.context.client.state = ConnectionState.CAN_WRITE
    stream.tell(events.ConnectionClosed(stream.context.client))
    assert stream.sent(stream.context.server) == b"bye\x16"


async def test_a_hello_begins_tls_with_the_server(stream: _Stream) -> None:
    """What a client says from its ClientHello on goes no further as it is."""
    stream.client(b"STARTTLS\r\n" + hello())
    assert stream.sent(stream.context.server) == b"STARTTLS\r\n"
    assert len(stream.of(TcpStartHook)) == len(stream.of(TcpEndHook)) == 1
    assert len(stream.of(HelloBegunHook)) == 1
    assert stream.context.client.sni == "a.test"


@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_tls_begun_by_a_server_is_refused(stream: _Stream, cut: int) -> None:
    """A server that would be the client of TLS is cut off before its hello is through."""
    data = b"go\r\n" + hello()
    for start in range(0, len(data), cut):
        stream.server(data[start : start + cut])
    assert len(stream.sent(stream.context.client)) < 20
    assert [one.data.kind for one in stream.of(EdgeRefusedHook)] == ["not-tls"]
    assert {one.connection for one in stream.of(commands.CloseConnection)} == {
        stream.context.client, stream.context.server
    }  # fmt: skip
