"""What a worker counts. Handshakes fail here as they do in life: mitmproxy's own TLS layers against real TLS peers."""

from __future__ import annotations

import datetime as dt
import functools
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from mitmproxy import connection
from mitmproxy.net.tls import DEFAULT_OPTIONS
from mitmproxy.options import Options
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers.tls import ClientTLSLayer, ServerTLSLayer, TLSLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import taddons, tflow
from OpenSSL import SSL
from prometheus_client import generate_latest

from addons.records.metrics import Metrics, failure_class
from addons.tls.refusal import Refusal

_HOST = "www.example.com"


@functools.cache
def _certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed certificate for the host, which nobody trusts unless told to."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _HOST)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - dt.timedelta(days=1), now + dt.timedelta(days=9)
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(_HOST)]), critical=False)
    return builder.sign(key, SHA256()), key


def _server(lowest: int = 0, ciphers: bytes = b"DEFAULT") -> SSL.Connection:
    settings = SSL.Context(SSL.TLS_SERVER_METHOD)
    settings.set_options(DEFAULT_OPTIONS)
    settings.set_min_proto_version(lowest)
    settings.set_cipher_list(ciphers)
    certificate, key = _certificate()
    settings.use_certificate(certificate)
    settings.use_privatekey(key)
    made = SSL.Connection(settings)
    made.set_accept_state()
    return made


def _client(highest: int = 0, *, verify: bool = True) -> SSL.Connection:
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    settings.set_max_proto_version(highest)
    settings.set_verify(SSL.VERIFY_PEER if verify else SSL.VERIFY_NONE)
    made = SSL.Connection(settings)
    made.set_tlsext_host_name(_HOST.encode())
    made.set_connect_state()
    return made


class _Nothing(layer.Layer):
    """What would speak HTTP inside the TLS."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from ()


Peer = Callable[[bytes], bytes | None]
"""What the other side answers to what it gets; None closes the connection."""


class _Proxy:
    """mitmproxy's TLS layers for one connection, with the counters as their only addon beside `provide`."""

    def __init__(self, provide: Any) -> None:
        self.metrics = Metrics()
        self._provide = provide
        client = connection.Client(
            peername=("192.0.2.9", 1234), sockname=("192.0.2.1", 8080), timestamp_start=time.time(),
            state=connection.ConnectionState.OPEN,
        )  # fmt: skip
        self.context = context.Context(client, Options())
        self.context.server.address = (_HOST, 443)
        self._waiting: deque[events.Event] = deque()
        self._sent = b""

    def to_client(self, peer: Peer) -> str | None:
        """Shake hands with a client. Returns mitmproxy's error."""
        top = ServerTLSLayer(self.context)
        top.child_layer = ClientTLSLayer(self.context)
        top.child_layer.child_layer = _Nothing(self.context)
        self._run(top, self.context.client, peer)
        return self.context.client.error

    def to_server(self, peer: Peer) -> str | None:
        """Shake hands with a server. Returns mitmproxy's error."""
        self.context.server.state = connection.ConnectionState.OPEN
        top = ServerTLSLayer(self.context)
        top.child_layer = _Nothing(self.context)
        self._run(top, self.context.server, peer)
        return self.context.server.error

    def _run(self, top: TLSLayer, conn: connection.Connection, peer: Peer) -> None:
        self._event(top, events.Start())
        for _ in range(10):
            sent, self._sent = self._sent, b""
            answer = peer(sent)
            if answer is None or conn.state is connection.ConnectionState.CLOSED:
                conn.state = connection.ConnectionState.CLOSED
                self._event(top, events.ConnectionClosed(conn))
                return
            if answer:
                self._event(top, events.DataReceived(conn, answer))
            if conn.tls_established:
                return

    def _event(self, top: TLSLayer, event: events.Event) -> None:
        self._waiting.append(event)
        while self._waiting:
            for command in top.handle_event(self._waiting.popleft()):
                if isinstance(command, commands.StartHook):
                    self._hook(command)
                elif isinstance(command, commands.SendData):
                    self._sent += command.data
                elif isinstance(command, commands.CloseConnection):
                    command.connection.state = connection.ConnectionState.CLOSED

    def _hook(self, hook: commands.StartHook) -> None:
        if hook.name in ("tls_start_client", "tls_start_server"):
            (data,) = hook.args()
            data.ssl_conn = self._provide
        elif found := getattr(self.metrics, hook.name, None):
            found(*hook.args())
        if hook.blocking:
            self._waiting.append(events.HookCompleted(hook))

    def counted(self, side: str) -> dict[str, float]:
        """Failures counted for one side, by class."""
        return {
            sample.labels["class"]: sample.value
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "hsmitm_handshake_failures_total" and sample.labels["side"] == side
        }


def _speaking(end: SSL.Connection) -> Peer:
    """A peer that speaks TLS, and closes when its own side fails."""
    failed = False

    def peer(received: bytes) -> bytes | None:
        nonlocal failed
        if failed:
            return None
        if received:
            end.bio_write(received)
        try:
            end.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error:
            failed = True
        with suppress(SSL.WantReadError):
            return end.bio_read(65535)
        return None if failed else b""

    return peer


def _stdlib_client(*, trusting: bool, host: str = _HOST) -> tuple[Peer, list[str]]:
    """A client of Python's ssl module, and what it complains of."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusting:
        settings.load_verify_locations(cadata=_certificate()[0].public_bytes(Encoding.PEM).decode())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = settings.wrap_bio(incoming, outgoing, server_hostname=host)
    complaints: list[str] = []

    def peer(received: bytes) -> bytes | None:
        if complaints:
            return None
        incoming.write(received)
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            complaints.append(str(error))
        return outgoing.read() or (None if complaints else b"")

    return peer, complaints


def _saying(*answers: bytes) -> Peer:
    """A peer that says these things, whatever it hears, and closes."""
    waiting = deque(answers)
    return lambda _: waiting.popleft() if waiting else None


def _hello() -> bytes:
    client = _client()
    with suppress(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(65535)


@pytest.mark.parametrize(
    ("ours", "peer", "expected"),
    [
        (_client, lambda: _speaking(_server()), "certificate"),
        (_client, lambda: _saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no-tls"),
        (lambda: _client(SSL.TLS1_2_VERSION), lambda: _speaking(_server(SSL.TLS1_3_VERSION)), "no-common-version"),
        (lambda: _client(SSL.TLS1_2_VERSION), lambda: _speaking(_server(ciphers=b"aRSA")), "no-common-cipher"),
        (_client, _saying, "closed"),
        (_client, lambda: _saying(b"\x16\x03\x03\0\x04\xff\0\0\0"), "other"),
    ],
    ids=["not verified", "plain HTTP", "old version", "no cipher", "gone", "garbage"],
)
def test_servers_fail_in_a_few_ways(
    ours: Callable[[], SSL.Connection], peer: Callable[[], Peer], expected: str
) -> None:
    """An operator sees of each failed handshake with a server which kind of trouble it was."""
    proxy = _Proxy(ours())
    error = proxy.to_server(peer())
    assert error
    assert failure_class(error) == expected, error
    assert proxy.counted("server") == {expected: 1}
    assert proxy.counted("client") == {}


@pytest.mark.parametrize(
    ("ours", "peer", "expected"),
    [
        (_server, lambda: _stdlib_client(trusting=False)[0], "distrusted"),
        (_server, lambda: _stdlib_client(trusting=True, host="other.example")[0], "distrusted"),
        (_server, lambda: _speaking(_client(SSL.TLS1_2_VERSION)), "distrusted"),
        (lambda: _server(SSL.TLS1_3_VERSION), lambda: _speaking(_client(SSL.TLS1_2_VERSION)), "no-common-version"),
        (lambda: _server(ciphers=b"aRSA"), lambda: _speaking(_client(SSL.TLS1_2_VERSION)), "no-common-cipher"),
        (_server, lambda: _saying(b"\x16\x03\x01\0\x05\x01\0\0\x01\0"), "malformed"),
        (_server, lambda: _saying(_hello()), "closed"),
        (_server, lambda: _saying(_hello()[:50]), "closed"),
    ],
    ids=["CA not trusted", "other name", "TLS 1.2", "old version", "no cipher", "garbage", "gone", "gone early"],
)
def test_clients_fail_in_a_few_ways(
    ours: Callable[[], SSL.Connection], peer: Callable[[], Peer], expected: str
) -> None:
    """An operator sees how many clients do not trust the CA, and does not count those that merely left among them."""
    proxy = _Proxy(ours())
    error = proxy.to_client(peer())
    assert error
    assert failure_class(error) == expected, error
    assert proxy.counted("client") == {expected: 1}
    assert proxy.counted("server") == {}


def test_a_client_without_a_leaf_gets_an_alert_and_is_not_counted_as_distrusting() -> None:
    """Through mitmproxy's own layers a refusal reaches the client as internal_error; the signer's trouble is not
    mistaken for clients that lack the CA."""
    proxy = _Proxy(Refusal())
    peer, complaints = _stdlib_client(trusting=True)
    assert proxy.to_client(peer)
    assert len(complaints) == 1
    assert "internal error" in complaints[0]
    counted = proxy.counted("client")
    assert sum(counted.values()) == 1
    assert "distrusted" not in counted


def test_a_refusal_ends_the_handshake_of_a_client_that_goes_on_talking() -> None:
    """A client that answers the alert with more bytes is cut off: there is nothing to wait for."""
    proxy = _Proxy(Refusal())
    error = proxy.to_client(_saying(_hello(), b"\x15\x03\x03\0\x02\x02\x50"))
    assert error
    assert "there is no certificate for this client" in error
    assert proxy.context.client.state is connection.ConnectionState.CLOSED


@pytest.mark.parametrize("error", [None, "", "something that mitmproxy says in its next release"])
def test_an_unknown_failure_is_counted_too(error: str | None) -> None:
    """A text that nobody foresaw is counted as 'other' and never lost."""
    assert failure_class(error) == "other"


# connections and flows


def _value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name)


def test_connections_are_counted() -> None:
    """Connections open now, and all since the start, are two numbers."""
    metrics = Metrics()
    for _ in range(3):
        metrics.client_connected(tflow.tclient_conn())
    metrics.client_disconnected(tflow.tclient_conn())
    assert metrics.connections == 2
    assert _value(metrics, "hsmitm_connections_open") == 2
    assert _value(metrics, "hsmitm_connections_total") == 3


def test_servers_that_cannot_be_reached_are_counted() -> None:
    """A server that refuses connections shows in a counter of its own."""
    metrics = Metrics()
    metrics.server_connect_error(ServerConnectionHookData(tflow.tserver_conn(), tflow.tclient_conn()))
    assert _value(metrics, "hsmitm_upstream_connect_errors_total") == 1


@pytest.mark.parametrize(
    ("flow", "requests"),
    [
        (tflow.tflow(resp=True), 1),
        (tflow.tflow(err=True), 1),
        (tflow.tflow(resp=True, ws=True), 1),
        (tflow.tflow(resp=True, ws=True, err=True), 1),
        (tflow.ttcpflow(), 0),
        (tflow.ttcpflow(err=True), 0),
    ],
    ids=["response", "error", "WebSocket", "broken WebSocket", "TCP", "broken TCP"],
)
async def test_a_flow_that_ended_is_not_in_progress(flow: Any, requests: int) -> None:
    """Whatever ends a flow, in mitmproxy's own order of hooks, a worker that drains does not wait for it."""
    metrics = Metrics()
    with taddons.context(metrics) as tctx:
        await tctx.cycle(metrics, flow)
    assert metrics.flows == 0
    assert _value(metrics, "hsmitm_requests_total") == requests


def test_flows_in_progress_are_known() -> None:
    """A worker that drains waits for requests, WebSockets and TCP flows that have not ended."""
    metrics = Metrics()
    plain, upgraded, raw = tflow.tflow(), tflow.tflow(ws=True), tflow.ttcpflow()
    metrics.requestheaders(plain)
    metrics.requestheaders(upgraded)
    metrics.tcp_start(raw)
    assert metrics.flows == 3
    metrics.response(plain)
    metrics.response(upgraded)
    assert metrics.flows == 2, "a WebSocket goes on after its response"
    metrics.websocket_end(upgraded)
    metrics.tcp_end(raw)
    assert metrics.flows == 0
    metrics.error(plain)
    assert metrics.flows == 0


def test_a_bypassed_connection_is_in_progress() -> None:
    """A worker that drains waits for it, until its client is gone."""
    metrics, client = Metrics(), tflow.tclient_conn()
    metrics.client_connected(client)
    metrics.bypass_begun(client)
    assert metrics.flows == 1
    metrics.client_disconnected(client)
    assert metrics.flows == 0


def test_every_counter_is_in_the_registry() -> None:
    """A monitor finds every series from the first scrape on, look-ups by result."""
    metrics = Metrics()
    metrics.count_lookup("hit")
    metrics.count_lookup("hit")
    metrics.set_leaves(7)
    text = generate_latest(metrics.registry).decode()
    for line in (
        "hsmitm_connections_total 0.0",
        "hsmitm_connections_open 0.0",
        "hsmitm_upstream_connect_errors_total 0.0",
        "hsmitm_requests_total 0.0",
        "hsmitm_leaf_cache_entries 7.0",
        'hsmitm_leaf_cache_lookups_total{result="hit"} 2.0',
        'hsmitm_leaf_cache_lookups_total{result="joined"} 0.0',
        'hsmitm_leaf_cache_lookups_total{result="miss"} 0.0',
    ):
        assert line in text.splitlines()


def test_two_workers_in_one_process_share_nothing() -> None:
    """Each worker counts in a registry of its own."""
    first, second = Metrics(), Metrics()
    first.client_connected(tflow.tclient_conn())
    assert _value(second, "hsmitm_connections_total") == 0


def test_no_flow_outlasts_its_client() -> None:
    """A flow that nobody ends, as one whose layer broke, is not waited for when its client has gone."""
    metrics = Metrics()
    lost, other = tflow.tflow(), tflow.tflow()
    other.client_conn = tflow.tclient_conn()
    other.client_conn.id = "another"
    metrics.requestheaders(lost)
    metrics.requestheaders(other)
    metrics.client_disconnected(lost.client_conn)
    assert metrics.flows == 1
    metrics.response(lost)
    metrics.response(other)
    assert metrics.flows == 0
