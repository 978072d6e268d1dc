"""TLS that is not opened: what reaches the server is what the client sent, in each way that a client can come in."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from mitmproxy import tls
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layers
from mitmproxy.test import taddons
from OpenSSL import SSL

from addons.edge.listeners.bypass import BypassBegunHook, HandOver
from addons.edge.listeners.client_tls import ClientTls
from addons.edge.settings import Bounds
from addons.records.connections import facts_of
from proxy.demo.origin import OriginCA
from tests.addons.edge.driver import Driver, arrived
from tests.addons.edge.hellos import built
from tests.addons.edge.listeners.far import HELLO, TIME_S, Far, Sending, ask, connect, drained, exactly
from tests.addons.edge.listeners.passing import Chosen, Passing
from tests.waiting import wait_until


class _Client(Driver):
    """A client whose server is connected to, unless `late`, and whose TLS is not opened."""

    def __init__(self, *, late: bool = False, addresses: tuple[str, ...] | None = None) -> None:
        tctx = taddons.context(Chosen())
        self.context = arrived(tctx, port=443)
        self.context.server.peername = ("192.0.2.80", 443)
        if late:
            self.context.server.timestamp_start, self.context.server.state = None, ConnectionState.CLOSED
        facts = facts_of(self.context.client)
        facts.addresses = addresses
        self.facts = facts
        outermost = layers.ServerTLSLayer(self.context)
        outermost.child_layer = ClientTls(self.context, Bounds())
        super().__init__(outermost, tctx)

    def says(self, data: bytes) -> None:
        self.tell(events.DataReceived(self.context.client, data))


async def test_the_hello_goes_on_as_it_came() -> None:
    """In however many pieces it came, and with a version that no TLS has: not a byte of it is ours."""
    client, data = _Client(), b"\x16\x03\x7f" + HELLO[3:]
    client.says(data[:100])
    assert not client.sent(client.context.server)
    client.says(data[100:])
    assert client.sent(client.context.server) == data
    assert len(client.of(BypassBegunHook)) == 1
    assert not client.sent(client.context.client)
    (handing,) = client.of(HandOver)
    assert (handing.client, handing.server) == (client.context.client, client.context.server)
    assert client.facts.event == "bypassed"


async def test_what_comes_before_the_sockets_are_handed_over_passes() -> None:
    """Nothing waits for that, and its end closes both."""
    client = _Client()
    client.says(HELLO)
    client.tell(events.DataReceived(client.context.server, b"hello, too"))
    client.says(b"more")
    assert client.sent(client.context.client) == b"hello, too"
    assert client.sent(client.context.server) == HELLO + b"more"
    (handing,) = client.of(HandOver)
    client.tell(events.Wakeup(handing))
    assert {one.connection for one in client.of(commands.CloseConnection)} == {
        client.context.client, client.context.server,
    }  # fmt: skip


async def test_a_server_that_is_not_reached_ends_it() -> None:
    """The client is closed, and its facts say why."""
    client = _Client(late=True)
    client.says(HELLO)
    (opening,) = client.of(commands.OpenConnection)
    client.tell(events.OpenConnectionCompleted(opening, "it is down"))
    assert [one.connection for one in client.of(commands.CloseConnection)] == [client.context.client]
    assert client.facts.failure is not None
    assert (client.facts.failure.kind, client.facts.failure.text) == ("connect-failed", "it is down")


@pytest.mark.parametrize(
    ("addresses", "passes"),
    [
        (None, True),
        (("192.0.2.80",), True),
        (("::ffff:192.0.2.80",), True),
        (("192.0.2.81", "::1"), False),
        ((), False),
    ],
)
async def test_a_server_that_was_not_judged_gets_nothing(addresses: tuple[str, ...] | None, passes: bool) -> None:
    """A decision made on some addresses is none for a connection that stands to another."""
    client = _Client(addresses=addresses)
    client.says(HELLO)
    assert client.sent(client.context.server) == (HELLO if passes else b"")
    assert bool(client.of(commands.CloseConnection)) != passes


# --- on real sockets --------------------------------------------------------------------------------------------------


@pytest.fixture
def far() -> Iterator[Far]:
    """A server."""
    with Far() as made:
        yield made


def _both_ways(client: socket.socket, server: socket.socket) -> None:
    up, down = Sending(client, b"up", 300_000), Sending(server, b"down", 300_000)
    assert drained(server) == (300_000, up.digest())
    assert drained(client) == (300_000, down.digest())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_client_sees_the_servers_own_certificate(far: Far, version: ssl.TLSVersion) -> None:
    """TLS is between client and server, whatever its version."""
    ca = OriginCA()
    serving = ca.context(("bank.test",), ("http/1.1",))

    def serve() -> None:
        with serving.wrap_socket(far.socket.accept()[0], server_side=True) as server:
            server.sendall(server.recv(1 << 16)[::-1])

    with Passing() as proxy, connect(proxy, far.port, begun=b"") as raw:
        thread = threading.Thread(target=serve)
        thread.start()
        trusting = ssl.create_default_context(cadata=ca.pem)
        trusting.minimum_version = trusting.maximum_version = version
        with trusting.wrap_socket(raw, server_hostname="bank.test") as client:
            client.sendall(b"abc")
            assert client.recv(10) == b"cba"
        thread.join(TIME_S)


def test_a_hello_of_two_segments_passes(far: Far) -> None:
    """A post-quantum key share does not fit into one packet: it goes on when all of it is here."""
    share = b"\x11\xec" + (1216).to_bytes(2) + bytes(1216)  # X25519MLKEM768
    name = b"\0\x0c\0\0\x09bank.test"
    long = built(
        b"\x13\x01", (0, name), (51, len(share).to_bytes(2) + share), (43, b"\x02\x03\x04"), (0x5555, bytes(300))
    )
    assert len(long) > 1500
    with Passing() as proxy, connect(proxy, far.port, begun=long[:1200]) as client:
        wait_until(lambda: len(proxy.handlers) == 1, "it is there")
        client.sendall(long[1200:])
        with far.taken(long) as server:
            _both_ways(client, server)


def _socks(proxy: Passing, port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), TIME_S)
    client.sendall(b"\5\1\0")
    assert exactly(client, 2) == b"\5\0"
    client.sendall(b"\5\1\0\1\x7f\0\0\1" + port.to_bytes(2))
    assert exactly(client, 10)[:2] == b"\5\0"
    client.sendall(HELLO)
    return client


def test_through_socks5(far: Far) -> None:
    """The same for a client of SOCKS5."""
    with Passing(mode="socks5") as proxy, _socks(proxy, far.port) as client, far.taken() as server:
        _both_ways(client, server)


def test_redirected_by_the_network(far: Far) -> None:
    """And for one that knows of no proxy."""
    with (
        Passing(mode="transparent", to=("127.0.0.1", far.port)) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), TIME_S) as client,
    ):
        client.sendall(HELLO)
        with far.taken() as server:
            _both_ways(client, server)


def test_through_a_parent_proxy(far: Far) -> None:
    """Where another proxy connects, it is asked with CONNECT, and its socket is the one that is handed over."""
    with (
        Passing() as parent,
        Passing(mode=f"upstream:http://127.0.0.1:{parent.port}") as proxy,
        connect(proxy, far.port) as client,
        far.taken() as server,
    ):
        wait_until(lambda: proxy.handlers[-1]._relay, "the sockets are handed over")
        _both_ways(client, server)


class _Certificate:
    """Gives a client that reaches the proxy by TLS a certificate, and one that is bypassed none."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy.test")])
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate(builder.sign(key, SHA256()))
        self._context.use_privatekey(key)

    def tls_start_client(self, data: tls.TlsData) -> None:
        """The proxy's own handshake."""
        data.ssl_conn = SSL.Connection(self._context)
        data.ssl_conn.set_accept_state()


def test_within_tls_to_the_proxy(far: Far) -> None:
    """A client that reaches the proxy by TLS: its own TLS is within that, so its socket does not carry it as it is, and
    a layer passes it on."""

    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with Passing(addons=[_Certificate()]) as proxy:
        raw = socket.create_connection(("127.0.0.1", proxy.port), TIME_S)
        with trusting.wrap_socket(raw, server_hostname="proxy.test") as client:
            ask(client, "127.0.0.1", far.port)
            client.sendall(HELLO)
            with far.taken() as server:
                server.sendall(b"hello, too")
                assert exactly(client, 10) == b"hello, too"
                client.sendall(b"x" * 1_000_000)
                assert exactly(server, 1_000_000) == b"x" * 1_000_000
                server.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        assert proxy.handlers[-1]._relay is None
    assert proxy.facts[-1].event == "bypassed"
