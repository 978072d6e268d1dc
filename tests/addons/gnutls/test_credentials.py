"""addons/gnutls/credentials.py: what a site presents and demands, as real clients find it."""

from __future__ import annotations

import datetime as dt
import os
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from OpenSSL import SSL

from addons.gnutls.connection import Connection
from addons.gnutls.credentials import Certificate, ClientCertificates, Credentials, has_hybrid_group
from addons.gnutls.key import RemoteKey
from addons.tls.protocol import Protocol
from hsm.errors import MisconfiguredError
from hsm.schemes import SCHEMES
from tests.addons.gnutls.peers import (
    AUTHORITY,
    NAME,
    TICKET_KEY,
    VERSIONS,
    Authority,
    Client,
    SoftwareKey,
    client_context,
    connected,
    private_key,
    s_client,
    serving,
)


def test_key_and_certificate() -> None:
    """A certificate of another key is found when the site is loaded, without a trial signature."""
    key = SoftwareKey("p256")
    wrong = RemoteKey(private_key("p384").public_key(), key.sign)
    with pytest.raises(MisconfiguredError, match=rf"the certificate of CN={NAME} is not for the key"):
        Credentials([AUTHORITY.certify(key, remote=wrong)])
    with pytest.raises(MisconfiguredError, match="does not parse"):
        Credentials([Certificate([b"no certificate"], key.remote())])
    with pytest.raises(MisconfiguredError, match="certificate 2 of a chain does not parse"):
        Credentials([Certificate([AUTHORITY.certify(key).chain[0], b"no certificate"], key.remote())])
    with pytest.raises(MisconfiguredError, match="needs a certificate"):
        Credentials([])
    with pytest.raises(MisconfiguredError, match="RSA keys that may decrypt"):
        Credentials([AUTHORITY.certify(SoftwareKey("rsa"))], protocol=Protocol(rsa_key_exchange=True))
    with pytest.raises(MisconfiguredError, match="GnuTLS refuses the protocol NONE:"):
        Credentials([AUTHORITY.certify(key)], protocol=Protocol(minimum="TLS1.3", maximum="TLS1.2"))
    assert not key.schemes


@pytest.mark.parametrize(
    ("arguments", "scheme"),
    [
        (["-tls1_3", "-sigalgs", "RSA-PSS+SHA384:RSA+SHA256"], "rsa_pss_rsae_sha384"),
        (["-tls1_3", "-sigalgs", "RSA-PSS+SHA512:ECDSA+SHA256"], "ecdsa_secp256r1_sha256"),
        (["-tls1_3", "-sigalgs", "RSA-PSS+SHA256", "-groups", "P-521:P-384"], "rsa_pss_rsae_sha256"),
        (["-tls1_2", "-sigalgs", "RSA+SHA256"], "rsa_pkcs1_sha256"),
        (["-tls1_2", "-sigalgs", "RSA+SHA384"], "rsa_pkcs1_sha384"),
        (["-tls1_2", "-sigalgs", "RSA+SHA512"], "rsa_pkcs1_sha512"),
        (["-tls1_2", "-sigalgs", "RSA-PSS+SHA512"], "rsa_pss_rsae_sha512"),
        (["-tls1_2", "-sigalgs", "RSA+SHA256:ECDSA+SHA256"], "ecdsa_secp256r1_sha256"),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "rsa_pss_rsae_sha256"),
        (["-tls1_2", "-cipher", "DHE-RSA-CHACHA20-POLY1305"], "rsa_pss_rsae_sha256"),
        (["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256", "-groups", "X25519"], "rsa_pss_rsae_sha256"),
    ],
)
def test_both_certificates(arguments: list[str], scheme: str) -> None:
    """A site with two certificates gives ECDSA to whom can verify it, RSA to others, in the scheme that they know."""
    keys = SoftwareKey("p256"), SoftwareKey("rsa")
    with serving(Credentials([AUTHORITY.certify(key) for key in keys])) as server:
        printed = s_client(server, "-verify_return_error", *arguments)
    assert "Verification: OK" in printed or "Verify return code: 0 (ok)" in printed
    assert [*keys[0].schemes, *keys[1].schemes] == [scheme]


def test_name_decides() -> None:
    """Of two certificates a client gets the one that carries the name that it asked for."""
    first, second = SoftwareKey("p256"), SoftwareKey("p384")
    credentials = Credentials([AUTHORITY.certify(first, "other.example.com"), AUTHORITY.certify(second)])
    connected(credentials)
    assert (first.schemes, second.schemes) == ([], ["ecdsa_secp384r1_sha384"])


# protocol


@pytest.mark.parametrize(
    ("arguments", "alert", "error"),
    [
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"], "handshake failure", "No supported cipher suites"),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256"], "handshake failure", "No supported cipher suites"),
        (["-tls1_2", "-cipher", "DEFAULT@SECLEVEL=0", "-sigalgs", "RSA+SHA1"], "handshake failure", "No supported"),
        (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "protocol version", "'SSL routines', '', 'unsupported"),
        (["-tls1_3", "-groups", "P-521"], "handshake failure", "No common key share"),
    ],
)
def test_weak_offers(arguments: list[str], alert: str, error: str) -> None:
    """CBC, RSA key exchange, SHA-1, old versions and odd groups are refused before the key is asked for anything."""
    key = SoftwareKey("rsa")
    with serving(Credentials([AUTHORITY.certify(key)])) as server:
        assert f"alert {alert}" in s_client(server, *arguments)
    assert error in str(server.outcomes[0].error)
    assert not key.schemes


def test_versions() -> None:
    """A site may insist on TLS 1.3, or do without it."""
    certificates = [AUTHORITY.certify(SoftwareKey("p256"))]
    only = {
        "1.2": Credentials(certificates, protocol=Protocol(maximum="TLS1.2")),
        "1.3": Credentials(certificates, protocol=Protocol(minimum="TLS1.3")),
    }
    for version, credentials in only.items():
        connection = connected(credentials).connection
        assert connection.get_protocol_version_name() == f"TLSv{version}"
    for mine, other in (("1.2", "1.3"), ("1.3", "1.2")):
        with pytest.raises(SSL.Error):
            connected(only[mine], other)


@VERSIONS
def test_cipher_preference(version: str) -> None:
    """The server's order of ciphers decides."""
    protocol = Protocol(ciphers=("CHACHA20-POLY1305", "AES-128-GCM"))
    client = connected(Credentials([AUTHORITY.certify(SoftwareKey("p256"))], protocol=protocol), version)
    assert "CHACHA20" in (client.connection.get_cipher_name() or "")


# resumption


@VERSIONS
def test_resumption(version: str) -> None:
    """A client that returns to another worker with the same ticket key costs no second signature."""
    key = SoftwareKey("rsa")
    certificate = AUTHORITY.certify(key)
    workers = [Credentials([certificate], ticket_key=TICKET_KEY) for _ in range(2)]
    context = client_context(AUTHORITY, version)
    first = Client(context, Connection(workers[0]))
    first.handshake()
    first.read()
    second = Client(context, Connection(workers[1]), session=first.tls.session)
    second.handshake()
    assert second.tls.session_reused
    assert second.connection.resumed
    assert len(key.schemes) == 1
    second.write(b"question")
    assert second.received == b"question"


@VERSIONS
def test_resumption_without_a_key(version: str) -> None:
    """A client that returns is served also while the HSM has lost the site's key; a key that offers nothing signs
    nothing."""
    key = SoftwareKey("rsa")
    certificate = AUTHORITY.certify(key)
    credentials = Credentials([certificate], ticket_key=TICKET_KEY)
    context = client_context(AUTHORITY, version)
    first = Client(context, Connection(credentials))
    first.handshake()
    first.read()
    certificate.key.withhold()
    assert not certificate.key.served
    second = Client(context, Connection(credentials), session=first.tls.session)
    second.handshake()
    assert second.connection.resumed
    certificate.key.offer(())
    with pytest.raises(SSL.Error):
        Client(context, Connection(credentials)).handshake()
    assert len(key.schemes) == 1


def _no_tickets(credentials: Credentials) -> Credentials:
    credentials.use_ticket_key(None)
    return credentials


def _other_key(credentials: Credentials) -> Credentials:
    credentials.use_ticket_key(bytes(64))
    return credentials


def _other_site(_credentials: Credentials) -> Credentials:
    return Credentials([Authority(name="test CA").certify(SoftwareKey("p256"))], ticket_key=TICKET_KEY)


@VERSIONS
@pytest.mark.parametrize("change", [_no_tickets, _other_key, _other_site])
def test_no_resumption(version: str, change: Callable[[Credentials], Credentials]) -> None:
    """With resumption turned off, the ticket key replaced, or at another site, there is a whole handshake."""
    credentials = Credentials([AUTHORITY.certify(SoftwareKey("p256"))], ticket_key=TICKET_KEY)
    context = client_context(AUTHORITY, version, check_hostname=False, verify_mode=ssl.CERT_NONE)
    first = Client(context, Connection(credentials))
    first.handshake()
    first.read()
    second = Client(context, Connection(change(credentials)), session=first.tls.session)
    second.handshake()
    assert not second.connection.resumed
    assert not second.tls.session_reused


@VERSIONS
def test_ticket_past_a_demand(version: str) -> None:
    """A ticket from before a site demanded client certificates does not open it afterwards."""
    certificate = AUTHORITY.certify(SoftwareKey("p256"))
    context = client_context(AUTHORITY, version)
    first = Client(context, Connection(Credentials([certificate], ticket_key=TICKET_KEY)))
    first.handshake()
    first.read()
    demand = ClientCertificates((AUTHORITY.der,), required=True)
    strict = Credentials([certificate], ticket_key=TICKET_KEY, client_certificates=demand)
    with pytest.raises(SSL.Error):
        Client(context, Connection(strict), session=first.tls.session).handshake()


def test_no_tickets_at_all() -> None:
    """Without a ticket key no ticket is given out."""
    credentials = Credentials([AUTHORITY.certify(SoftwareKey("p256"))])
    with serving(credentials) as server:
        printed = s_client(server, "-tls1_2") + s_client(server, "-tls1_3", said=b"question\n")
    assert "session ticket" not in printed
    with pytest.raises(ValueError, match="a ticket key of 3 bytes; use 64"):
        credentials.use_ticket_key(b"key")


# clients' certificates


@VERSIONS
@pytest.mark.parametrize("required", [False, True])
def test_client_certificate(version: str, required: bool, tmp_path: Path) -> None:
    """A client's certificate is verified and shown, also when its session is resumed."""
    asked = ClientCertificates((Authority(name="unrelated").der, AUTHORITY.der), required)
    credentials = Credentials(
        [AUTHORITY.certify(SoftwareKey("p256"))], client_certificates=asked, ticket_key=TICKET_KEY
    )
    context = client_context(AUTHORITY, version)
    context.load_cert_chain(AUTHORITY.client_files(tmp_path))
    first = Client(context, Connection(credentials))
    first.handshake()
    first.read()
    second = Client(context, Connection(credentials), session=first.tls.session)
    second.handshake()
    assert second.connection.resumed
    for connection in (first.connection, second.connection):
        certificate = connection.get_peer_certificate()
        assert certificate is not None
        assert certificate.get_subject().CN == "client"
        issuers = connection.get_peer_cert_chain() or []
        assert [one.get_subject().CN for one in issuers] == ["test CA"]


@VERSIONS
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ("none", "ertificate"),
        ("of another CA", "the client's certificate: .* issuer is unknown"),
        ("expired", "the client's certificate: .* expired"),
        ("a server's", "the client's certificate: .* intended purpose"),
    ],
)
def test_bad_client_certificate(version: str, required: bool, shown: str, reason: str, tmp_path: Path) -> None:
    """A client that shows a bad certificate is refused with the reason; one that shows none if it must show one."""
    files = {
        "of another CA": Authority(name="elsewhere").client_files(tmp_path),
        "expired": AUTHORITY.client_files(tmp_path, days=-1),
        "a server's": AUTHORITY.client_files(tmp_path, client=False),
    }
    asked = ClientCertificates((AUTHORITY.der,), required)
    connection = Connection(Credentials([AUTHORITY.certify(SoftwareKey("p256"))], client_certificates=asked))
    context = client_context(AUTHORITY, version)
    if shown in files:
        context.load_cert_chain(files[shown])
    client = Client(context, connection)
    if shown == "none" and not required:
        client.handshake()
        assert connection.get_peer_certificate() is None
        return
    with pytest.raises(SSL.Error, match=reason):
        client.handshake()
    with pytest.raises(ssl.SSLError, match=r"ALERT_(BAD_CERTIFICATE|CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE)"):
        client.tls.do_handshake() if version == "1.2" else client.tls.read()


def test_bad_client_ca() -> None:
    """A CA file that does not parse is the operator's business."""
    with pytest.raises(MisconfiguredError, match="CA file for client certificates"):
        Credentials(
            [AUTHORITY.certify(SoftwareKey("p256"))], client_certificates=ClientCertificates((b"junk",), required=True)
        )


# OCSP


def response(certificate: Certificate, *, hours: float = 1) -> bytes:
    """The CA's own answer for a certificate, good for `hours`."""
    leaf = x509.load_der_x509_certificate(certificate.chain[0])
    now = dt.datetime.now(dt.UTC)
    return (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=leaf,
            issuer=AUTHORITY.certificate,
            algorithm=hashes.SHA1(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=now - dt.timedelta(hours=2),
            next_update=now + dt.timedelta(hours=hours),
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, AUTHORITY.certificate)
        .sign(AUTHORITY.key, hashes.SHA256())  # type: ignore[arg-type]
        .public_bytes(Encoding.DER)
    )


@VERSIONS
def test_stapling(version: str) -> None:
    """An OCSP response goes out with the certificate it belongs to, from when it is set until it expires."""
    certificates = [AUTHORITY.certify(SoftwareKey("p256")), AUTHORITY.certify(SoftwareKey("rsa"))]
    credentials = Credentials(certificates)
    arguments = ["-status", f"-tls{version.replace('.', '_')}", "-verify_return_error"]

    def stapled(*more: str) -> bool:
        printed = s_client(server, *arguments, *more)
        assert ("no response sent" in printed) != ("OCSP Response Status: successful" in printed)
        return "no response sent" not in printed

    with serving(credentials) as server:
        assert not stapled()
        credentials.staple(0, response(certificates[0]))
        assert stapled()
        assert not stapled("-sigalgs", "RSA-PSS+SHA256")
        credentials.staple(0, response(certificates[0], hours=-1))
        assert not stapled()
        credentials.staple(0, response(certificates[0]))
        credentials.staple(0, None)
        assert not stapled()


def test_wrong_staple() -> None:
    """A response for another certificate, or none at all, is refused when it is set."""
    certificate = AUTHORITY.certify(SoftwareKey("p256"))
    credentials = Credentials([certificate])
    other = response(AUTHORITY.certify(SoftwareKey("p256")))
    with pytest.raises(ValueError, match="for another certificate"):
        credentials.staple(0, other)
    unauthorized = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
    with pytest.raises(ValueError, match="UNAUTHORIZED"):
        credentials.staple(0, unauthorized.public_bytes(Encoding.DER))
    with pytest.raises(ValueError, match="pars"):
        credentials.staple(0, b"junk")


# replacement


def test_replaced_under_load() -> None:
    """Sites are replaced and their tickets and responses changed while handshakes run."""
    certificate = AUTHORITY.certify(SoftwareKey("p256"))
    site = [Credentials([certificate], ticket_key=TICKET_KEY)]
    good = response(certificate)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(lambda: connected(site[0])) for _ in range(100)]
        for number in range(60):
            site[0] = Credentials([certificate], ticket_key=TICKET_KEY)
            site[0].staple(0, good if number % 2 else None)
            site[0].use_ticket_key(os.urandom(64))
        for one in running:
            one.result(20).write(b"question")


# --- keys that do not make every scheme -------------------------------------------------------------------------------

PKCS1 = [name for name in SCHEMES if name.startswith("rsa_pkcs1")]
PSS = [name for name in SCHEMES if name.startswith("rsa_pss")]


@pytest.mark.parametrize(
    ("schemes", "version", "spoken", "signed"),
    [
        (PKCS1, None, "TLSv1.2", "rsa_pkcs1_sha256"),
        (PKCS1, "1.2", "TLSv1.2", "rsa_pkcs1_sha256"),
        (["rsa_pkcs1_sha512"], None, "TLSv1.2", "rsa_pkcs1_sha512"),
        (PSS, None, "TLSv1.3", "rsa_pss_rsae_sha256"),
        (PSS, "1.2", "TLSv1.2", "rsa_pss_rsae_sha256"),
        (["rsa_pss_rsae_sha384"], None, "TLSv1.3", "rsa_pss_rsae_sha384"),
        (["rsa_pss_rsae_sha512"], "1.2", "TLSv1.2", "rsa_pss_rsae_sha512"),
        ([*PKCS1, "rsa_pss_rsae_sha512"], None, "TLSv1.3", "rsa_pss_rsae_sha512"),
    ],
)
def test_clients_fall_to_what_the_key_makes(schemes: list[str], version: str | None, spoken: str, signed: str) -> None:
    """A client is served with the newest version and a scheme that the key's token makes, also where that changed while
    the site was served."""
    key = SoftwareKey("rsa")
    remote = key.remote()
    credentials = Credentials([AUTHORITY.certify(key, remote=remote)])
    remote.offer(schemes)
    client = connected(credentials, version)
    assert (client.tls.version(), key.schemes) == (spoken, [signed])
    remote.offer(list(SCHEMES))
    assert connected(credentials).tls.version() == "TLSv1.3"


def test_tls_1_3_alone_with_a_key_that_cannot_sign_it() -> None:
    """A site that is to speak TLS 1.3 alone never falls below that: without a scheme for it clients are refused."""
    key = SoftwareKey("rsa")
    remote = key.remote()
    credentials = Credentials([AUTHORITY.certify(key, remote=remote)], protocol=Protocol(minimum="TLS1.3"))
    remote.offer(PKCS1)
    with pytest.raises(SSL.Error, match="No supported cipher suites"):
        connected(credentials)
    assert key.schemes == []


def test_another_key_signs_tls_1_3() -> None:
    """A site that has an EC key beside an RSA key for PKCS#1 v1.5 alone goes on speaking TLS 1.3, with the EC key."""
    rsa_key, ec_key = SoftwareKey("rsa"), SoftwareKey("p256")
    remote = rsa_key.remote()
    credentials = Credentials([AUTHORITY.certify(rsa_key, remote=remote), AUTHORITY.certify(ec_key)])
    remote.offer(PKCS1)
    assert connected(credentials).tls.version() == "TLSv1.3"
    assert (rsa_key.schemes, ec_key.schemes) == ([], ["ecdsa_secp256r1_sha256"])


def test_rsa_key_exchange_needs_no_scheme() -> None:
    """Where RSA key exchange is on, a key that signs nothing any more still decrypts."""
    key = SoftwareKey("rsa")
    remote = RemoteKey(key.private.public_key(), key.sign, key.decrypt)
    protocol = Protocol(rsa_key_exchange=True, maximum="TLS1.2")
    credentials = Credentials([AUTHORITY.certify(key, remote=remote)], protocol=protocol)
    remote.offer([])
    context = client_context(AUTHORITY, "1.2")
    context.set_ciphers("AES256-GCM-SHA384:AES128-GCM-SHA256")
    client = Client(context, Connection(credentials))
    client.handshake()
    assert (key.decrypted, key.schemes) == (1, [])


def test_a_group_that_outlasts_quantum_computers() -> None:
    """Clients that offer X25519MLKEM768 get it where GnuTLS has it, and X25519 where not: never nothing."""
    server = Connection(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]))
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    client.set_tlsext_host_name(NAME.encode())
    client.set_connect_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                one.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    assert client.get_group_name() == ("X25519MLKEM768" if has_hybrid_group() else "x25519")


def test_the_group_is_asked_for_first() -> None:
    """The server's order decides, so it stands before all others; without it the protocol is what it was."""
    with_it, without = (Protocol().priorities(["RSA"], hybrid=one).split(":") for one in (True, False))
    groups = [one for one in with_it if one.startswith("+GROUP-")]
    assert groups[0] == "+GROUP-X25519-MLKEM768"
    assert [one for one in with_it if one != groups[0]] == without
