"""A server's TLS that fails, breaks or wants a certificate: it hears an alert, and whoever waits for it hears why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from mitmproxy import connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.tls import TlsEstablishedServerHook, TlsFailedServerHook
from mitmproxy.test import taddons
from OpenSSL import SSL

from addons.edge.refusal import EdgeRefusedHook
from addons.policy.settings import Profile
from addons.records.metrics import failure_class
from addons.tls.protocol import suites as parsed
from addons.upstream.layer import ServerTls
from addons.upstream.tls import UpstreamTls
from tests.addons.edge.driver import Driver, arrived
from tests.addons.policy.demanding import demanding
from tests.addons.tls.ends import HOST, Listening, accepting, certificate, served, spoilt, step

WITHOUT = Profile(client_certificate="without")
_BOTH = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the servers' certificates, each a root of its own."""
    for days in (9, -3):
        (tmp_path / f"{days}.pem").write_bytes(certificate(days)[0].public_bytes(Encoding.PEM))
    monkeypatch.chdir(tmp_path)


class _Proxy(Driver):
    """Our layer, opposite `server`."""

    def __init__(
        self, settings: SSL.Context, *, trusts: int = 9, name: str = HOST, suites: str = "modern",
        profile: Profile = WITHOUT, **options: str,
    ) -> None:  # fmt: skip
        self.server = accepting(settings)
        tctx = taddons.context(UpstreamTls(parsed(suites)))
        tctx.options.update(**options)
        if trusts:
            tctx.options.update(ssl_verify_upstream_trusted_ca=str(Path(f"{trusts}.pem").absolute()))
        self.context = arrived(tctx, port=443)
        demanding(self.context.client, profile)
        self.context.server.sni = name
        tls_layer = ServerTls(self.context)
        tls_layer.child_layer = self.inside = Listening(self.context)
        self._told = 0
        super().__init__(tls_layer, tctx)
        for _ in range(3):
            self.turn()

    def turn(self) -> None:
        """What was said is heard, and answered."""
        said = self.sent(self.context.server)[self._told :]
        self._told += len(said)
        if said:
            self.server.bio_write(said)
        self.hear(step(self.server))

    def hear(self, data: bytes) -> None:
        """Bytes of the server's."""
        if data:
            self.tell(events.DataReceived(self.context.server, data))

    @property
    def closed(self) -> bool:
        return self.context.server in {one.connection for one in self.of(commands.CloseConnection)}

    @property
    def kinds(self) -> list[str]:
        return [one.data.kind for one in self.of(EdgeRefusedHook)]


@_BOTH
@pytest.mark.parametrize(
    ("trusts", "name", "days", "alert"),
    [
        (0, HOST, 9, "alert unknown ca"),
        (9, "other.example", 9, "alert bad certificate"),
        (-3, HOST, -3, "alert certificate expired"),
    ],
    ids=["issuer", "name", "time"],
)
async def test_a_server_that_does_not_verify_hears_why(
    version: int, trusts: int, name: str, days: int, alert: str
) -> None:
    """Its operator reads the alert that a client would have sent, and not that somebody hung up."""
    proxy = _Proxy(served(version, days=days), trusts=trusts, name=name)
    assert alert in proxy.server.broken.replace("sslv3 ", "").replace("tlsv1 ", "").replace("ssl/tls ", "")
    assert proxy.closed
    assert len(proxy.of(TlsFailedServerHook)) == 1


@_BOTH
@pytest.mark.parametrize("twist", [spoilt, lambda _: b"\x17\3\3\x7f\xff", lambda _: b"\x63\3\3\0\1x"])
async def test_a_record_that_is_wrong_ends_the_connection(version: int, twist: Callable[[bytes], bytes]) -> None:
    """What came before it is used; the server hears an alert; who waits for its answer hears why there is none."""
    proxy = _Proxy(served(version))
    assert len(proxy.of(TlsEstablishedServerHook)) == 1
    for text in (b"right", b"wrong"):
        proxy.server.sendall(text)
        data = proxy.server.bio_read(65536)
        proxy.hear(twist(data) if text == b"wrong" else data)
    assert proxy.inside.heard == b"right"
    assert proxy.inside.closed == [proxy.context.server]
    assert proxy.closed
    proxy.turn()
    with pytest.raises(SSL.Error):
        proxy.server.recv(10)
    assert "alert" in proxy.server.broken
    assert proxy.kinds == ["broken-tls"]
    assert HOST in (proxy.context.server.error or "")


@pytest.mark.parametrize("chosen", ["modern", "compatible"])
async def test_a_server_without_a_suite_of_ours_is_told_apart(chosen: str) -> None:
    """One that has CBC with SHA-1 alone is spoken with where the operator wants it; elsewhere the page says what to
    look at."""
    settings = served(SSL.TLS1_2_VERSION)
    settings.set_cipher_list(b"ECDHE-ECDSA-AES128-SHA")
    proxy = _Proxy(settings, suites=chosen)
    if chosen == "compatible":
        assert len(proxy.of(TlsEstablishedServerHook)) == 1
    else:
        (failed,) = proxy.of(TlsFailedServerHook)
        assert f"{HOST} refuses the handshake" in (failed.data.conn.error or "")
        assert "see [proxy] suites" in (failed.data.conn.error or "")
        assert failure_class(failed.data.conn.error) == "no-common-cipher"


def _wanting(version: int) -> SSL.Context:
    settings = served(version)
    settings.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    return settings


async def test_a_server_that_wants_a_certificate_after_our_handshake_says_so() -> None:
    """TLS 1.3 (RFC 8446 section 4.4.2.4): its alert comes when the request is on its way already."""
    proxy = _Proxy(_wanting(SSL.TLS1_3_VERSION))
    assert len(proxy.of(TlsEstablishedServerHook)) == 1
    assert proxy.kinds == ["server-wants-client-certificate"]
    assert f"{HOST} wants a client certificate" in (proxy.context.server.error or "")
    assert proxy.inside.closed == [proxy.context.server]
    proxy.tell(events.ConnectionClosed(proxy.context.server))
    assert len(proxy.inside.closed) == 1


async def test_a_server_that_wants_a_certificate_within_the_handshake_says_so() -> None:
    """TLS 1.2 has no alert for it; that it asked is enough to know."""
    proxy = _Proxy(_wanting(SSL.TLS1_2_VERSION))
    (failed,) = proxy.of(TlsFailedServerHook)
    assert f"{HOST} wants a client certificate" in (failed.data.conn.error or "")
    assert proxy.kinds == ["server-wants-client-certificate"]


async def test_a_certificate_that_is_not_accepted_is_told_apart(tmp_path: Path) -> None:
    """Where the operator has given one (client_certs), it is that certificate that the sentence is about."""
    shown, key = certificate(9)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + shown.public_bytes(Encoding.PEM)
    (tmp_path / "ours.pem").write_bytes(pem)
    settings = served(SSL.TLS1_3_VERSION)
    settings.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: False)
    proxy = _Proxy(settings, client_certs=str(tmp_path / "ours.pem"))
    assert proxy.kinds == ["server-wants-client-certificate"]
    assert f"{HOST} does not accept the client certificate" in (proxy.context.server.error or "")


@pytest.mark.parametrize("answers", [True, False])
async def test_a_server_that_only_closes_is_understood(answers: bool) -> None:
    """Who asked for a certificate, got a request and closes without a word wants one; who has answered does not."""
    settings = served(SSL.TLS1_3_VERSION)
    settings.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    proxy = _Proxy(settings)
    proxy.inside.asks = b"GET / HTTP/1.1\r\n\r\n"
    proxy.tell(events.DataReceived(proxy.context.client, b"any"))
    if answers:
        proxy.server.sendall(b"HTTP/1.1 400 No certificate\r\n\r\n")
        proxy.hear(proxy.server.bio_read(65536))
    proxy.context.server.state = connection.ConnectionState.CLOSED
    proxy.tell(events.ConnectionClosed(proxy.context.server))
    assert proxy.kinds == ([] if answers else ["server-wants-client-certificate"])
    assert proxy.inside.closed == [proxy.context.server]


async def test_a_certificate_that_is_shown_is_not_missed() -> None:
    """A server that asks and gets none, and serves all the same, is left in peace."""
    settings = served()
    settings.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    proxy = _Proxy(settings)
    proxy.server.sendall(b"hello")
    proxy.hear(proxy.server.bio_read(65536))
    assert proxy.inside.heard == b"hello"
    assert not proxy.kinds
