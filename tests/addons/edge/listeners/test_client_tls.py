"""TLS with a client begins with a ClientHello that is read once; what is none gets an alert and a class."""

from __future__ import annotations

import pytest
from mitmproxy import tls
from mitmproxy.proxy import commands, events, layers
from mitmproxy.proxy.layers.tls import TlsClienthelloHook, TlsFailedClientHook, TlsStartClientHook
from mitmproxy.test import taddons

from addons.edge.listeners.client_tls import ClientTls, HelloBegunHook
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds
from tests.addons.edge.driver import Driver, arrived
from tests.addons.edge.hellos import hello, padded, records


class _Client(Driver):
    """A client whose server is connected to."""

    def __init__(self, *addons: object, begun: bool = False) -> None:
        tctx = taddons.context(*addons)
        self.context = arrived(tctx, port=443)
        outermost = layers.ServerTLSLayer(self.context)
        outermost.child_layer = ClientTls(self.context, Bounds(), begun=begun)
        super().__init__(outermost, tctx)

    def says(self, data: bytes) -> None:
        self.tell(events.DataReceived(self.context.client, data))


async def test_a_hello_in_pieces_is_greeted_once() -> None:
    """Scripts and addons see one ClientHello, when it is whole, and its beginning once."""
    client = _Client()
    for byte in hello():
        client.says(bytes((byte,)))
    assert len(client.of(HelloBegunHook)) == 1
    (greeting,) = client.of(TlsClienthelloHook)
    assert greeting.data.client_hello.sni == client.context.client.sni == "a.test"
    assert len(client.of(TlsStartClientHook)) == 1


@pytest.mark.parametrize(
    ("data", "kind", "alert"),
    [
        (b"\x16\x03\x01\x00\x00", "malformed-hello", 10),
        (records(padded(9000), 1), "oversized-hello", 50),
        (b"\x16\x03\x01\x00\x01\x02", "malformed-hello", 10),
    ],
)
async def test_what_is_no_hello_gets_an_alert(data: bytes, kind: str, alert: int) -> None:
    """The client hears what was wrong, its handshake has failed for all who count, and it is closed."""
    client = _Client()
    client.says(data)
    assert [one.data.kind for one in client.of(EdgeRefusedHook)] == [kind]
    assert client.sent(client.context.client) == bytes((21, 3, 3, 0, 2, 2, alert))
    assert len(client.of(TlsFailedClientHook)) == 1
    assert client.context.client in {one.connection for one in client.of(commands.CloseConnection)}


async def test_in_the_middle_of_a_stream_the_server_comes_first() -> None:
    """A client that begins TLS later gets no leaf before its server has proved itself: without that it is refused."""
    client = _Client(begun=True)  # nobody has a TLS object for the server: its handshake fails at once
    client.says(hello())
    assert client.context.server in {one.connection for one in client.of(commands.CloseConnection)}
    assert not client.of(TlsStartClientHook)


class _Script:
    """A user's, that lets a connection through unopened."""

    def __init__(self) -> None:
        self.asked = 0

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        self.asked += 1
        data.ignore_connection = True


async def test_a_script_that_lets_a_connection_through_is_asked_once() -> None:
    """What it lets through passes unopened, from its first byte on."""
    script = _Script()
    client = _Client(script)
    data = hello()
    client.says(data[:100])
    client.says(data[100:])
    assert script.asked == 1
    assert client.sent(client.context.server) == data
    client.says(b"more")
    assert client.sent(client.context.server) == data + b"more"
