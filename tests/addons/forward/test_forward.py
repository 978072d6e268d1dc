"""Presenting minted leaves: real handshakes in memory, between what Forward hands to mitmproxy and real TLS clients.

The signer is a stub that mints as the real one does, with `hsm.certificates.issuer` and a CA key in memory.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from mitmproxy import connection, tls
from mitmproxy.certs import Cert
from mitmproxy.proxy import context
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.tls import parse_client_hello
from mitmproxy.test import taddons, tflow, tutils
from OpenSSL import SSL, crypto

from addons.forward.availability import Availability
from addons.forward.forward import Forward
from addons.policy.settings import Profile
from addons.records.connections import facts_of
from addons.records.metrics import Metrics
from addons.tls.protocol import Suites
from addons.upstream import judging
from addons.upstream.connection import ServerConnection
from addons.upstream.tls import UpstreamTls
from hsm.certificates.issuer import Issuer
from hsm.certificates.leaf import SERIAL_BITS
from hsm.certificates.settings import LeafProfile
from hsm.errors import DeadlineError, HsmitmError, RefusedError, TryLaterError
from hsm.schemes import certificate_scheme
from hsm.wire.frames import Done, Ready
from hsm.wire.worker import Authorities, Authority, Chains, Mint, Minted, Reply, Request
from tests.addons.forward.arrivals import settled
from tests.addons.policy.demanding import demanding

_HOST = "www.example.com"
_CACHE_ENTRIES = 4
_NO_MEMBER = TryLaterError("no member is in service (m1: down)")

Names = Sequence[str]
Prepare = Callable[[context.Context], None]


class _CA:
    """A CA in memory, subordinate to `parent` where there is one."""

    def __init__(self, name: str, parent: _CA | None = None, *, curve: ec.EllipticCurve | None = None) -> None:
        self.key = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, 2048)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        above = parent or self
        public, issuing = self.key.public_key(), above.key.public_key()
        now = dt.datetime.now(dt.UTC)
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(above.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=90))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing), critical=False)
            .sign(above.key, certificate_scheme(issuing).hash)
        )
        self.chain: list[x509.Certificate] = [certificate, *(parent.chain if parent else [])]
        self.issuer = Issuer(self.chain, now)

    @property
    def pem(self) -> str:
        return self.chain[0].public_bytes(Encoding.PEM).decode()

    def mint(self, names: Names, spki: bytes) -> Minted:
        """A leaf, signed in the way of the signer."""
        serial = secrets.randbits(SERIAL_BITS)
        approved = self.issuer.approve(list(names), spki, LeafProfile(), dt.datetime.now(dt.UTC), serial)
        if isinstance(self.key, rsa.RSAPrivateKey):
            signature = self.key.sign(approved.tbs, padding.PKCS1v15(), self.issuer.scheme.hash)
        else:
            signature = self.key.sign(approved.tbs, ec.ECDSA(self.issuer.scheme.hash))
        begins, ends = approved.not_before.timestamp(), approved.not_after.timestamp()
        return Minted(approved.certificate(signature, self.issuer.key), begins, ends)


@functools.cache
def _ec_ca(name: str) -> _CA:
    return _CA(name, curve=ec.SECP256R1())


@functools.cache
def _ca(name: str, parent: str | None = None) -> _CA:
    return _CA(name, _ca(parent) if parent else None)


class _Signer:
    """Stands in for SignerClient: mints at once, or raises `error`."""

    def __init__(self) -> None:
        self.generation = 1
        self.connected = True
        self.asked_ready = 0
        self.authorities: dict[Authority, _CA] = {"trust": _ca("trusted CA"), "untrust": _ca("untrusted CA")}
        self.error: HsmitmError | None = None
        self.mints: list[Mint] = []
        self.before_mint: Callable[[], None] = lambda: None

    def restart(self, **authorities: _CA) -> None:
        """A new connection, to a signer that may have other CAs."""
        self.generation += 1
        self.authorities |= authorities

    async def call(self, body: Request, timeout_s: float) -> Reply:
        assert timeout_s > 0
        self.asked_ready += isinstance(body, Ready)
        if self.error is not None:
            raise self.error
        if isinstance(body, Ready):
            return Done()
        if isinstance(body, Authorities):
            assert body.several
            ders = {name: [one.public_bytes(Encoding.DER) for one in ca.chain] for name, ca in self.authorities.items()}
            return Chains(ders)
        assert isinstance(body, Mint)
        self.before_mint()
        self.mints.append(body)
        return self.authorities[body.authority].mint(body.names, body.spki)


class _Client:
    """The standard library's TLS client over memory buffers, with strict verification; trusts `trusted` alone."""

    def __init__(
        self, trusted: str = "trusted CA", *, host: str = _HOST, highest: str = "TLSv1_3", ciphers: str = "",
        alpn: Names = (), curve: str = "", session: ssl.SSLSession | None = None, like: _Client | None = None,
    ) -> None:  # fmt: skip
        self.settings = like.settings if like else ssl.create_default_context(cadata=_ca(trusted).pem)
        self.settings.maximum_version = ssl.TLSVersion[highest]
        if ciphers:
            self.settings.set_ciphers(ciphers)
        if alpn:
            self.settings.set_alpn_protocols(list(alpn))
        if curve:
            self.settings.set_ecdh_curve(curve)
        self._input, self._output = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.settings.wrap_bio(self._input, self._output, server_hostname=host, session=session)
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.hello = self._output.read()

    def finish(self, server: Any) -> None:
        """Complete the handshake with `server` and pass a message each way. Raises the client's ssl.SSLError."""
        server.bio_write(self.hello)
        for _ in range(10):
            with suppress(SSL.Error):  # an alert tells the client
                server.do_handshake()
            self._receive(server)
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                break
            self._send(server)
        else:
            pytest.fail("the handshake does not end")
        self._send(server)
        server.do_handshake()
        server.sendall(b"from the proxy")
        self._receive(server)
        assert self.tls.read() == b"from the proxy"
        self.tls.write(b"from the client")
        self._send(server)
        assert server.recv(100) == b"from the client"

    def _receive(self, server: Any) -> None:
        with suppress(SSL.WantReadError):
            while True:
                self._input.write(server.bio_read(65535))

    def _send(self, server: Any) -> None:
        if data := self._output.read():
            server.bio_write(data)

    @property
    def leaf(self) -> x509.Certificate:
        """What the server presented."""
        der = self.tls.getpeercert(binary_form=True)
        assert der
        return x509.load_der_x509_certificate(der)

    @property
    def names(self) -> list[str]:
        """The leaf's alternative names."""
        alternative = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in alternative]


class _World:
    """One worker's Forward, with mitmproxy's options and a stub signer."""

    def __init__(self, suites: Suites = "modern") -> None:
        self.signer = _Signer()
        self.metrics = Metrics()
        self.availability = Availability()
        self.forward = Forward(
            self.signer,  # type: ignore[arg-type]
            self.metrics,
            self.availability,
            cache_entries=_CACHE_ENTRIES,
            mint_timeout_s=1,
            suites=suites,
        )
        self.upstream = UpstreamTls()
        self.tctx = taddons.context(self.forward, self.upstream)

    def arrived(self, client: _Client, server: str | None = _HOST, *, proven: bool = True) -> context.Context:
        """A client's connection whose ClientHello was read, and whose server has proved itself."""
        hello = parse_client_hello(client.hello)
        assert hello is not None
        made = connection.Client(
            peername=("192.0.2.9", 1234), sockname=("192.0.2.1", 8080), timestamp_start=time.time(),
            state=connection.ConnectionState.OPEN,
        )  # fmt: skip
        arrived = context.Context(made, self.tctx.options)
        arrived.server.address = (server, 443) if server else None
        made.sni, made.alpn_offers = hello.sni, hello.alpn_protocols
        self.forward.tls_clienthello(tls.ClientHelloData(arrived, hello))
        if proven:
            verified = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
            self.forward.tls_established_server(tls.TlsData(arrived.server, arrived, verified))
        return arrived

    async def present(self, arrived: context.Context) -> Any:
        """What Forward has for this client: the server's half of a TLS connection."""
        data = tls.TlsData(arrived.client, arrived)
        await settled(self.forward.tls_start_client(data))
        assert data.ssl_conn is not None
        return data.ssl_conn

    async def serve(
        self, client: _Client, prepare: Prepare = lambda _: None, *, proven: bool = True
    ) -> context.Context:
        """A whole handshake. `prepare` changes what is known of the connection before it."""
        arrived = self.arrived(client, proven=proven)
        prepare(arrived)
        client.finish(await self.present(arrived))
        return arrived

    def gauge(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(name)
        assert value is not None
        return value


@pytest.fixture
async def world() -> _World:
    """A fresh worker."""
    return _World()


def _connected(alpn: bytes | None = None, *certificates: x509.Certificate) -> Prepare:
    """The server was connected to and verified; it chose `alpn` and showed `certificates`."""

    def prepare(arrived: context.Context) -> None:
        arrived.server.timestamp_tls_setup = time.time()
        arrived.server.alpn = alpn
        arrived.server.certificate_list = [Cert(one) for one in certificates]

    return prepare


def _origin(ca: _CA, *names: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A server's certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return x509.load_der_x509_certificate(ca.mint(names or [_HOST], spki).certificate), key


def _reach_server(
    world: _World, arrived: context.Context, origin: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
) -> None:
    """Connect to a real TLS server and tell Forward how that went, as mitmproxy does."""
    settings = SSL.Context(SSL.TLS_SERVER_METHOD)
    settings.use_certificate(origin[0])
    settings.use_privatekey(origin[1])
    server = SSL.Connection(settings)
    server.set_accept_state()
    data = tls.TlsData(arrived.server, arrived)
    world.upstream.tls_start_server(data)
    ours = data.ssl_conn
    assert isinstance(ours, ServerConnection)
    for _ in range(10):
        try:
            ours.do_handshake()
        except SSL.WantReadError:
            server.bio_write(ours.bio_read(65535))
            with suppress(SSL.WantReadError):
                server.do_handshake()
            ours.bio_write(server.bio_read(65535))
        except SSL.Error as error:
            arrived.server.error = judging.cut(ours, facts_of(arrived.client), "") if ours.cut else f"OpenSSL {error!r}"
            world.forward.tls_failed_server(data)
            return
        else:
            _connected(b"", origin[0])(arrived)
            assert world.upstream.judge_server(data) is None
            assert ours.judgement is not None
            if ours.judgement.outcome == "block":
                arrived.server.timestamp_tls_setup, arrived.server.error = None, ours.judgement.sentence
                world.forward.tls_failed_server(data)
                return
            world.forward.tls_established_server(data)
            return
    pytest.fail("the server's handshake does not end")


# a client's handshake


@pytest.mark.parametrize("highest", ["TLSv1_2", "TLSv1_3"])
async def test_a_client_that_trusts_the_ca_is_served(world: _World, highest: str) -> None:
    """A client that knows our CA alone completes its handshake and exchanges data."""
    client = _Client(highest=highest)
    await world.serve(client)
    assert client.tls.version() == highest.replace("_", ".")
    assert client.names == [_HOST]
    assert client.leaf.issuer == _ca("trusted CA").name
    assert isinstance(client.leaf.public_key(), ec.EllipticCurvePublicKey)


async def test_a_client_that_does_not_trust_the_ca_is_not_served(world: _World) -> None:
    """A client without our CA ends the handshake: there is no way round its verification."""
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|unable to get local issuer"):
        await world.serve(_Client("somebody else's CA"))


async def test_the_second_connection_costs_no_signature(world: _World) -> None:
    """A host that was visited before is served from the cache, over a connection of its own."""
    first, second = _Client(), _Client()
    await world.serve(first)
    await world.serve(second)
    assert first.leaf == second.leaf
    assert len(world.signer.mints) == 1


@pytest.mark.parametrize(
    ("server", "offered", "expected"),
    [
        (b"h2", ["h2", "http/1.1"], "h2"),
        (b"http/1.1", ["h2", "http/1.1"], "http/1.1"),
        (b"", ["h2", "http/1.1"], None),
        (None, ["http/1.1", "h2"], "http/1.1"),
        (b"h2", [], None),
    ],
)
async def test_the_client_speaks_what_the_server_speaks(
    world: _World, server: bytes | None, offered: list[str], expected: str | None
) -> None:
    """ALPN towards the client mirrors what the server chose; without a server the client's order counts."""
    client = _Client(alpn=offered)
    await world.serve(client, _connected(server) if server is not None else lambda _: None)
    assert client.tls.selected_alpn_protocol() == expected


async def test_a_proxy_reached_over_tls_speaks_http_1(world: _World) -> None:
    """A browser that talks TLS to the proxy itself is not offered HTTP/2, which has no CONNECT in mitmproxy."""
    client = _Client(alpn=["h2", "http/1.1"])

    def outermost(arrived: context.Context) -> None:
        modes.HttpProxy(arrived)
        modes.HttpProxy(arrived)
        assert len(arrived.layers) == 2

    await world.serve(client, outermost)
    assert client.tls.selected_alpn_protocol() == "http/1.1"


async def test_without_http2_nobody_is_offered_it(world: _World) -> None:
    """mitmproxy's option http2 = false holds towards clients."""
    world.tctx.options.http2 = False
    client = _Client(alpn=["h2", "http/1.1"])
    await world.serve(client)
    assert client.tls.selected_alpn_protocol() == "http/1.1"


async def test_a_client_with_rsa_alone_gets_an_rsa_leaf(world: _World) -> None:
    """A TLS 1.2 client without ECDSA suites is served as well, beside modern clients of the same host."""
    old = _Client(highest="TLSv1_2", ciphers="ECDHE-RSA-AES128-GCM-SHA256:AES128-GCM-SHA256")
    await world.serve(old)
    modern = _Client()
    await world.serve(modern)
    assert isinstance(old.leaf.public_key(), rsa.RSAPublicKey)
    assert isinstance(modern.leaf.public_key(), ec.EllipticCurvePublicKey)


async def test_a_client_without_our_curve_for_key_exchange_is_served(world: _World) -> None:
    """In TLS 1.3 a client that lacks P-256 for its key exchange still verifies a P-256 leaf."""
    client = _Client(curve="secp384r1")
    await world.serve(client)
    assert isinstance(client.leaf.public_key(), ec.EllipticCurvePublicKey)


@pytest.mark.parametrize("highest", ["TLSv1_2", "TLSv1_3"])
async def test_a_subordinate_ca_is_sent_along(world: _World, highest: str) -> None:
    """With a CA below the company's root, a client that trusts the root alone is served."""
    world.signer.authorities["trust"] = _ca("issuing CA", "company root")
    client = _Client("company root", highest=highest)
    await world.serve(client)
    assert client.leaf.issuer == _ca("issuing CA", "company root").name


async def test_a_root_is_not_sent_along(world: _World) -> None:
    """A client has the root already: its bytes are not sent in each handshake."""
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client = SSL.Connection(settings)
    client.set_tlsext_host_name(_HOST.encode())
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    server = await world.present(world.arrived(_Client()))
    server.bio_write(client.bio_read(65535))
    with pytest.raises(SSL.WantReadError):
        server.do_handshake()
    client.bio_write(server.bio_read(65535))
    client.do_handshake()
    sent = client.get_peer_cert_chain(as_cryptography=True)
    assert sent is not None
    assert [one.issuer for one in sent] == [_ca("trusted CA").name]


async def test_a_client_without_sni_gets_the_connect_host(world: _World) -> None:
    """Without SNI the leaf is for the host of the CONNECT; without that for the address that the client reached."""
    client = _Client()
    arrived = world.arrived(client, server="connect.example")
    arrived.client.sni = None
    await world.present(arrived)
    arrived = world.arrived(client, server=None)
    arrived.client.sni = None
    await world.present(arrived)
    assert [mint.names for mint in world.signer.mints] == [["connect.example"], ["192.0.2.1"]]


async def test_a_users_script_goes_first(world: _World) -> None:
    """A script that set a connection of its own is not overruled, and no signature is made."""
    arrived = world.arrived(_Client())
    theirs = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
    data = tls.TlsData(arrived.client, arrived, theirs)
    await settled(world.forward.tls_start_client(data))
    assert data.ssl_conn is theirs
    assert world.signer.mints == []


# mitmproxy's options


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "AES128-GCM-SHA256"])
async def test_clients_without_forward_secrecy_or_aead_are_served_where_they_are_wanted(ciphers: str) -> None:
    """By default they hear that there is no common suite; with suites = "compatible" they are served."""
    served = _Client(highest="TLSv1_2", ciphers=ciphers)
    await _World("compatible").serve(served)
    assert (served.tls.cipher() or "")[0] == ciphers
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        await _World().serve(_Client(highest="TLSv1_2", ciphers=ciphers))


async def test_the_operators_ciphers_decide_the_kind_of_leaf(world: _World) -> None:
    """With ciphers_client of RSA alone, a TLS 1.2 client that could do ECDSA too still finds a common suite."""
    world.tctx.options.ciphers_client = "ECDHE-RSA-AES128-GCM-SHA256"
    client = _Client(highest="TLSv1_2")
    await world.serve(client)
    assert client.tls.cipher()[0] == "ECDHE-RSA-AES128-GCM-SHA256"


async def test_the_operators_curve_is_used(world: _World) -> None:
    """With tls_ecdh_curve_client of another curve than the leaf's, clients of both TLS versions are served."""
    world.tctx.options.tls_ecdh_curve_client = "secp384r1"
    modern, old = _Client(), _Client(highest="TLSv1_2")
    await world.serve(modern)
    await world.serve(old)
    assert modern.names == old.names == [_HOST]


async def test_the_operators_version_is_kept(world: _World) -> None:
    """With tls_version_client_max at TLS 1.2 a modern client is served with that, and with a leaf it can use."""
    world.tctx.options.tls_version_client_max = "TLS1_2"
    client, rsa_client = _Client(), _Client(ciphers="ECDHE-RSA-AES128-GCM-SHA256")
    await world.serve(client)
    await world.serve(rsa_client)
    assert client.tls.version() == rsa_client.tls.version() == "TLSv1.2"


async def test_an_old_client_is_told_that_its_version_is_not_spoken(world: _World) -> None:
    """With tls_version_client_min at TLS 1.3 a TLS 1.2 client gets an alert that says so."""
    world.tctx.options.tls_version_client_min = "TLS1_3"
    with pytest.raises(ssl.SSLError, match="protocol version"):
        await world.serve(_Client(highest="TLSv1_2"))


async def test_upstream_certificates_are_sent_along_where_asked_for(world: _World) -> None:
    """With add_upstream_certs_to_client_chain the server's own certificates are in the client's handshake."""
    world.tctx.options.add_upstream_certs_to_client_chain = True
    certificate, _ = _origin(_ca("public CA"))
    client = _Client(highest="TLSv1_2")
    arrived = world.arrived(client)
    _connected(b"", certificate)(arrived)
    server = await world.present(arrived)
    server.bio_write(client.hello)
    with pytest.raises(SSL.WantReadError):
        server.do_handshake()
    assert certificate.public_bytes(Encoding.DER) in server.bio_read(65535)


@pytest.mark.parametrize("highest", ["TLSv1_2", "TLSv1_3"])
async def test_a_client_may_resume_where_client_certificates_are_asked_for(world: _World, highest: str) -> None:
    """With request_client_cert a client that comes back with its session is served again."""
    world.tctx.options.request_client_cert = True
    first = _Client(highest=highest)
    await world.serve(first)
    again = _Client(highest=highest, like=first, session=first.tls.session)
    await world.serve(again)
    assert again.tls.version() == highest.replace("_", ".")


# servers that did not verify


async def test_a_verified_server_gives_its_names_to_the_leaf(world: _World, tmp_path: Path) -> None:
    """A server with a wildcard certificate that verifies: trusted leaf, its names, one signature for its hosts."""
    (tmp_path / "roots.pem").write_text(_ca("public CA").pem)
    world.tctx.options.ssl_verify_upstream_trusted_ca = str(tmp_path / "roots.pem")
    origin = _origin(_ca("public CA"), "*.example.com", "example.com")
    first, second = _Client(host="a.example.com"), _Client(host="b.example.com")
    for client in (first, second):
        await world.serve(client, lambda arrived: _reach_server(world, arrived, origin))
    assert first.leaf == second.leaf
    assert first.names == ["*.example.com", "example.com"]
    assert len(world.signer.mints) == 1


async def test_upstream_names_stay_out_where_not_wanted(world: _World) -> None:
    """With mitmproxy's option upstream_cert = false the leaf is for the host alone."""
    world.tctx.options.upstream_cert = False
    client = _Client()
    await world.serve(client, _connected(b"", _origin(_ca("public CA"), "*.example.com")[0]))
    assert client.names == [_HOST]


@pytest.mark.parametrize("insecure", [False, True], ids=["refused", "ssl_insecure"])
async def test_a_server_that_does_not_verify_gets_an_untrusted_leaf(world: _World, insecure: bool) -> None:
    """A client never sees a trusted certificate for a server whose own does not verify, nor that server's names."""
    world.tctx.options.ssl_insecure = insecure
    origin = _origin(_ca("nobody's CA"), _HOST, "bank.example")
    trusting, looking = _Client(), _Client("untrusted CA")
    with pytest.raises(ssl.SSLCertVerificationError):
        await world.serve(trusting, lambda arrived: _reach_server(world, arrived, origin))
    await world.serve(looking, lambda arrived: _reach_server(world, arrived, origin))
    assert looking.names == [_HOST]
    assert {mint.authority for mint in world.signer.mints} == {"untrust"}


async def test_an_allowed_server_gives_its_names_to_no_leaf(world: _World) -> None:
    """What is allowed of a host is allowed of that host: a certificate that nobody vouches for may name others."""

    def reached(arrived: context.Context) -> None:
        demanding(arrived.client, Profile(untrusted="allow", self_signed="allow"))
        _reach_server(world, arrived, _origin(_ca("nobody's CA"), _HOST, "bank.example"))

    client = _Client()
    await world.serve(client, reached, proven=False)
    assert client.names == [_HOST]
    assert [mint.authority for mint in world.signer.mints] == ["trust"]


async def test_a_certificate_for_another_host_does_not_verify(world: _World, tmp_path: Path) -> None:
    """A genuine certificate of another host is no reason for a trusted leaf."""
    (tmp_path / "roots.pem").write_text(_ca("public CA").pem)
    world.tctx.options.ssl_verify_upstream_trusted_ca = str(tmp_path / "roots.pem")
    client = _Client("untrusted CA")
    origin = _origin(_ca("public CA"), "other.example")
    await world.serve(client, lambda arrived: _reach_server(world, arrived, origin))
    assert client.names == [_HOST]


@pytest.mark.parametrize("insecure", [False, True], ids=["verified", "ssl_insecure"])
async def test_a_server_that_was_not_reached_is_not_trusted(world: _World, insecure: bool) -> None:
    """A server without a completed handshake proved nothing that a trusted leaf could vouch for."""
    world.tctx.options.ssl_insecure = insecure
    await world.serve(_Client("untrusted CA"), proven=False)
    assert [mint.authority for mint in world.signer.mints] == ["untrust"]


async def test_a_server_that_fails_before_its_certificate_is_not_trusted(world: _World) -> None:
    """Whoever answers with garbage, an alert or nothing at all under a name gets no trusted leaf for that name."""

    def fails(arrived: context.Context) -> None:
        data = tls.TlsData(arrived.server, arrived)
        world.upstream.tls_start_server(data)
        assert data.ssl_conn is not None
        with pytest.raises(SSL.WantReadError):
            data.ssl_conn.do_handshake()
        data.ssl_conn.bio_write(b"SSH-2.0-OpenSSH_9.2\r\n")
        with pytest.raises(SSL.Error):
            data.ssl_conn.do_handshake()
        arrived.server.error = "garbage"
        world.forward.tls_failed_server(data)

    await world.serve(_Client("untrusted CA"), fails, proven=False)
    assert [mint.authority for mint in world.signer.mints] == ["untrust"]


async def test_lazy_connections_wait_for_the_server_all_the_same(world: _World) -> None:
    """With connection_strategy = lazy, too, a leaf waits for the server's handshake."""
    world.tctx.options.add_option("connection_strategy", str, "lazy", "")
    arrived = world.arrived(client := _Client())
    arrived.server.tls = True
    hello = parse_client_hello(client.hello)
    assert hello is not None
    data = tls.ClientHelloData(arrived, hello)
    world.upstream.tls_clienthello(data)
    assert data.establish_server_tls_first


@pytest.mark.parametrize("insecure", [False, True], ids=["verified", "ssl_insecure"])
async def test_a_server_that_was_vouched_for_cannot_be_exchanged(world: _World, insecure: bool) -> None:
    """A second connection to a server that the client was shown a trusted leaf for must be trusted as well, whatever
    else the profile makes of such servers, or ssl_insecure."""
    world.tctx.options.ssl_insecure = insecure
    arrived = await world.serve(_Client())
    arrived.client.timestamp_tls_setup = time.time()
    again = context.Context(arrived.client, world.tctx.options)
    again.server.address = arrived.server.address
    _reach_server(world, again, _origin(_ca("nobody's CA")))
    assert not again.server.tls_established
    assert "is not trusted here" in str(again.server.error)


@pytest.mark.parametrize("highest", ["TLSv1_2", "TLSv1_3"])
async def test_a_session_does_not_outlive_the_servers_good_name(world: _World, highest: str) -> None:
    """A client that was served with a trusted leaf must see the untrusted one once the server does not verify: its
    old TLS session, resumed, would show it no certificate at all."""
    world.tctx.options.ssl_insecure = True
    first = _Client(highest=highest)
    await world.serve(first, _connected(b"", _origin(_ca("public CA"))[0]))
    origin = _origin(_ca("nobody's CA"))
    again = _Client(highest=highest, like=first, session=first.tls.session)
    with pytest.raises(ssl.SSLCertVerificationError):
        await world.serve(again, lambda arrived: _reach_server(world, arrived, origin))


# a signer that cannot


@pytest.mark.parametrize(
    "error",
    [_NO_MEMBER, DeadlineError("no answer within 5 s"), RefusedError("a name that no leaf may carry: 'x'")],
    ids=lambda error: type(error).__name__,
)
async def test_without_a_leaf_the_client_is_told(
    world: _World, error: HsmitmError, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the alert internal_error instead of silence, and the log one line with host and reason."""
    world.signer.error = error
    with caplog.at_level(logging.WARNING, "hsmitm"), pytest.raises(ssl.SSLError, match="internal error"):
        await world.serve(_Client())
    assert [record.getMessage() for record in caplog.records] == [f"no certificate for {_HOST}: {error}"]
    world.signer.error = None
    await world.serve(_Client())


async def test_a_host_that_no_certificate_can_carry_is_refused(world: _World) -> None:
    """A link-local client without SNI and without host gets an alert, not a hung connection."""
    client = _Client()
    arrived = world.arrived(client, server=None)
    arrived.client.sni = None
    arrived.client.sockname = ("fe80::1%eth0", 8080, 0, 2)  # type: ignore[assignment]  # as IPv6 sockets have it
    with pytest.raises(ssl.SSLError, match="internal error"):
        client.finish(await world.present(arrived))
    assert world.signer.mints == []


async def test_known_hosts_do_not_need_the_signer(world: _World) -> None:
    """While the signer is away, hosts that were visited before are served."""
    await world.serve(_Client())
    world.signer.error = _NO_MEMBER
    client = _Client()
    await world.serve(client)
    assert client.names == [_HOST]


def _connect(host: str) -> Any:
    return tflow.tflow(req=tutils.treq(method=b"CONNECT", host=host, port=443, authority=f"{host}:443".encode()))


async def test_a_connect_for_a_new_host_says_why_not(world: _World, caplog: pytest.LogCaptureFixture) -> None:
    """While the signer is away the CONNECT for a new host gets a 502 page, and the log has the reason, which
    names members: they are no client's business."""
    world.signer.error, world.signer.connected = _NO_MEMBER, False
    flow = _connect("new.example")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        await settled(world.forward.http_connect(flow))
    assert flow.response.status_code == 502
    assert "new.example" in flow.response.text
    assert (
        "cannot be inspected now, and it is not let through: the keys for that are out of reach" in flow.response.text
    )
    assert "m1" not in flow.response.text
    assert [record.getMessage() for record in caplog.records] == [f"CONNECT new.example refused: {_NO_MEMBER}"]


async def test_a_connect_for_a_known_host_passes(world: _World) -> None:
    """While the signer is away the CONNECT for a host in the cache is let through, by its wildcard too."""
    await world.serve(_Client(), _connected(b"", _origin(_ca("public CA"), "*.example.com")[0]))
    world.signer.error = _NO_MEMBER
    for host in (_HOST, "other.example.com"):
        flow = _connect(host)
        await settled(world.forward.http_connect(flow))
        assert flow.response is None


@pytest.mark.parametrize("host", ["new.example", "bücher.example", "192.0.2.1", "::1", "[::1]"])
async def test_a_connect_passes_while_the_signer_is_ready(world: _World, host: str) -> None:
    """With a signer in service every CONNECT goes on at once, whatever kind of host it names: nobody is asked."""
    flow = _connect("replaced")
    flow.request.host = host
    assert world.forward.http_connect(flow) is None
    assert flow.response is None
    assert world.signer.asked_ready == 0


async def test_after_a_mint_that_failed_the_next_connect_asks(world: _World) -> None:
    """The first client to meet an outage that no report told of yet gets an alert; the next one reads why, until a leaf
    is minted again."""
    world.signer.error = _NO_MEMBER
    with pytest.raises(ssl.SSLError, match="internal error"):
        await world.serve(_Client())
    flow = _connect("new.example")
    await settled(world.forward.http_connect(flow))
    assert flow.response.status_code == 502
    world.signer.error = None
    await world.serve(_Client())
    assert world.forward.http_connect(_connect("new.example")) is None


async def test_a_refused_name_is_no_outage(world: _World) -> None:
    """A leaf that may not be says nothing about the HSM: the next CONNECT goes on at once."""
    world.signer.error = RefusedError("a name that no leaf may carry: 'x'")
    with pytest.raises(ssl.SSLError, match="internal error"):
        await world.serve(_Client())
    assert world.forward.http_connect(_connect("new.example")) is None


@pytest.mark.parametrize("host", ["exa mple.com", "a..b", "-", "*", "*.com", "fe80::1%eth0", "ü" * 64 + ".example", ""])
async def test_a_connect_to_nonsense_is_a_bad_request(world: _World, host: str) -> None:
    """A CONNECT to what no certificate can carry gets a 400 page with the reason."""
    flow = _connect("replaced")
    flow.request.data.host = host
    await settled(world.forward.http_connect(flow))
    assert flow.response.status_code == 400
    assert flow.response.text.startswith("hsmitm: ")
    assert " is a name that no certificate can carry: " in flow.response.text


# a signer that was restarted


async def test_a_restarted_signer_with_the_same_cas_changes_nothing(world: _World) -> None:
    """After a restart of the signer the cache is still good: no host needs a new signature."""
    await world.serve(_Client())
    world.signer.restart()
    await world.serve(_Client(host="other.example"))
    await world.serve(_Client())
    assert [mint.names for mint in world.signer.mints] == [[_HOST], ["other.example"]]


async def test_another_ca_takes_the_place_of_the_first(world: _World, caplog: pytest.LogCaptureFixture) -> None:
    """Once a restarted signer is seen to have another CA, no leaf of the old one is handed out, and a line says so."""
    await world.serve(_Client())
    world.signer.restart(trust=_ca("issuing CA", "company root"))
    with caplog.at_level(logging.WARNING, "hsmitm"):
        await world.serve(_Client("company root", host="other.example"))
    assert caplog.messages == ["the signer has other CAs than before; forgetting 1 leaves"]
    client = _Client("company root")
    await world.serve(client)
    assert client.leaf.issuer == _ca("issuing CA", "company root").name


async def test_a_mint_that_a_restart_overtakes_is_presented_with_its_own_chain(world: _World) -> None:
    """A mint is asked again on a new connection when the first is lost; if the CA changed with it, the leaf goes with
    the new CA's chain, not with the one that was known before."""
    await world.serve(_Client(host="first.example"))

    def restarted() -> None:
        world.signer.before_mint = lambda: None
        world.signer.restart(trust=_ca("issuing CA", "company root"))

    world.signer.before_mint = restarted
    client = _Client("company root")
    await world.serve(client)
    assert client.leaf.issuer == _ca("issuing CA", "company root").name


# what is counted, noted and forgotten


async def test_look_ups_and_leaves_are_counted(world: _World) -> None:
    """Metrics tell hits from misses, and how many leaves are kept: never more than the limit."""
    for number in range(_CACHE_ENTRIES + 2):
        await world.serve(_Client(host=f"h{number}.example"))
    await world.serve(_Client(host=f"h{_CACHE_ENTRIES + 1}.example"))
    lookups = {
        result: world.metrics.registry.get_sample_value("hsmitm_leaf_cache_lookups_total", {"result": result})
        for result in ("hit", "miss", "joined")
    }
    assert lookups == {"hit": 1, "miss": _CACHE_ENTRIES + 2, "joined": 0}
    assert world.gauge("hsmitm_leaf_cache_entries") == world.forward._leaves == _CACHE_ENTRIES


async def test_a_failed_mint_is_not_counted_as_a_leaf(world: _World) -> None:
    """The number of leaves kept is right after failures too."""
    await world.serve(_Client())
    world.signer.error = _NO_MEMBER
    await world.present(world.arrived(_Client(host="other.example")))
    assert world.gauge("hsmitm_leaf_cache_entries") == 1


async def test_a_connection_that_ended_is_forgotten(world: _World) -> None:
    """A worker that serves millions of connections remembers none of those that ended."""
    arrived = await world.serve(_Client())
    assert world.forward._facts
    world.forward.client_disconnected(arrived.client)
    assert world.forward._facts == {}


async def test_a_client_that_left_during_the_servers_handshake_is_forgotten(world: _World) -> None:
    """mitmproxy reports a client's end before it cuts the server, whose handshake then fails: nothing is kept of it."""
    arrived = world.arrived(_Client())
    data = tls.TlsData(arrived.server, arrived)
    world.upstream.tls_start_server(data)
    world.forward.client_disconnected(arrived.client)
    arrived.server.error = "connection closed"
    world.forward.tls_failed_server(data)
    assert world.forward._facts == {}


# CAs of two sorts


def _old(schemes: bytes = b"RSA+SHA256:RSA-PSS+SHA256", trusted: _CA | None = None) -> SSL.Connection:
    """A client of OpenSSL's with these signature algorithms, which sends its hello."""
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    assert SSL._lib.SSL_CTX_set1_sigalgs_list(settings._context, schemes) == 1  # type: ignore[attr-defined]  # not in its interface
    settings.set_verify(SSL.VERIFY_PEER)
    store = settings.get_cert_store()
    assert store is not None
    if trusted:
        store.add_cert(crypto.X509.from_cryptography(trusted.chain[0]))
    client = SSL.Connection(settings)
    client.set_tlsext_host_name(_HOST.encode())
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client


class _Said:
    """As much of a client as `_World.arrived` looks at."""

    def __init__(self, client: SSL.Connection) -> None:
        self.hello = client.bio_read(65536)


async def _presented(world: _World, client: SSL.Connection, *, proven: bool = True) -> Any:
    said = _Said(client)
    server = await world.present(world.arrived(said, proven=proven))  # type: ignore[arg-type]
    server.bio_write(said.hello)
    return server


def _issuer(server: Any, client: SSL.Connection) -> str:
    """Who has signed the leaf that the client gets, if it gets one."""
    for _ in range(3):
        for one, other in ((server, client), (client, server)):
            with suppress(SSL.WantReadError):
                one.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    shown = client.get_peer_certificate(as_cryptography=True)
    assert shown is not None
    return str(shown.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("first", ["EC", "RSA"])
async def test_each_client_gets_a_leaf_of_a_ca_that_it_verifies(world: _World, first: str, *, proven: bool) -> None:
    """With an RSA and an EC CA of a kind, the first in the operator's order that the client can verify; so for servers
    that did not prove who they are."""
    sort = "trust" if proven else "untrust"
    sorts = {"EC": _ec_ca(f"EC {sort}"), "RSA": _ca(f"RSA {sort}")}
    second = "RSA" if first == "EC" else "EC"
    world.signer.authorities |= {sort: sorts[first], f"{sort}-2": sorts[second]}  # type: ignore[dict-item]
    for schemes, wanted in (
        (b"RSA+SHA256:RSA-PSS+SHA256", "RSA"),
        (b"ECDSA+SHA256", "EC"),
        (b"ECDSA+SHA256:RSA+SHA256:RSA-PSS+SHA256", first),
    ):
        client = _old(schemes, sorts[wanted])
        assert _issuer(await _presented(world, client, proven=proven), client) == f"{wanted} {sort}"


@pytest.mark.parametrize(("made", "sort"), [("EC", "RSA"), ("RSA", "EC")])
async def test_a_client_that_verifies_no_ca_of_ours_is_told_apart(world: _World, made: str, sort: str) -> None:
    """It gets a leaf all the same, for it may verify more than it says (RFC 8446 section 4.4.2.2); where it refuses
    that, the reason is no want of trust."""
    world.signer.authorities["trust"] = trusted = _ec_ca("EC trust") if made == "EC" else _ca("RSA trust")
    client = _old(b"RSA+SHA256:RSA-PSS+SHA256" if sort == "RSA" else b"ECDSA+SHA256", trusted)
    server = await _presented(world, client)
    assert _issuer(server, client) == f"{made} trust"
    assert "verifies no " in server.doubt
    assert f"[forward.trust] can be a list of two, with an {sort} CA beside this one" in server.doubt


async def test_a_client_that_verifies_our_ca_is_not_doubted(world: _World) -> None:
    """Whatever becomes of its handshake, the CA's sort is not what was wrong."""
    assert (await _presented(world, _old())).doubt == ""
