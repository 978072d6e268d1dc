"""Our own sites behind hsmitm as an operator runs them: which server, which clients, what a reload and a check do."""

from __future__ import annotations

import base64
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.demo.origin import OriginCA
from tests.addons.revocation.ocsp_responder import Authority, respond_with, responding
from tests.integration.harness import HSMITM, OriginThread, hsmitm
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.waiting import wait_until

EX_CONFIG = 78


@pytest.fixture(scope="module")
def plain() -> Iterator[int]:
    """A server without TLS."""
    with plain_origin() as port:
        yield port


@pytest.fixture(scope="module")
def sites(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, plain: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InboundSystem]:
    """Sites whose servers are verified in every way, and some that should not be believed."""
    made = InboundSystem.make_inbound(tmp_path_factory.mktemp("inbound"), workers="1")
    directory = made.directory
    stranger = OriginCA()
    (directory / "origin-ca.pem").write_text(origin_ca.pem)
    (directory / "stranger-ca.pem").write_text(stranger.pem)
    pinned = ssl.get_server_certificate(("127.0.0.1", origin.port))
    (directory / "pinned.pem").write_text(pinned)
    (directory / "other.pem").write_text(stranger.pem)
    made.generate(shop="p256")
    made.client_key = made.site_ca.client(directory)
    (directory / "clients.pem").write_text(made.site_ca.pem)
    behind = f"https://127.0.0.1:{origin.port}"
    made.listener()
    made.site("ca.example.com", keys=["shop"], upstream=behind, upstream_ca="origin-ca.pem")
    made.site("named.example.com", keys=["shop"], upstream=behind, upstream_ca="origin-ca.pem", upstream_name="in.test")
    made.site(
        "pinned.example.com",
        keys=["shop"],
        upstream=behind,
        upstream_certificate="pinned.pem",
        upstream_name="127.0.0.1",
    )
    made.site("unknown.example.com", keys=["shop"], upstream=behind)
    made.site("stranger.example.com", keys=["shop"], upstream=behind, upstream_ca="stranger-ca.pem")
    made.site("unpinned.example.com", keys=["shop"], upstream=behind, upstream_certificate="other.pem")
    made.site("plain.example.com", "*.plain.example.com", keys=["shop"], upstream=f"http://127.0.0.1:{plain}")
    made.site("away.example.com", keys=["shop"], upstream="http://127.0.0.1:9")
    for wish in ("request", "require"):
        made.site(
            f"{wish}.example.com", keys=["shop"], upstream=f"http://127.0.0.1:{plain}", client_ca="clients.pem",
            client_certificates=wish,
        )  # fmt: skip
    made.listener(minimum_version="TLS1.3")
    made.site("modern.example.com", keys=["shop"], upstream=f"http://127.0.0.1:{plain}", default=True)
    with made:
        yield made


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("ca.example.com", "ca.example.com"),
        ("named.example.com", "named.example.com"),
        ("pinned.example.com", "pinned.example.com"),
    ],
)
def test_a_verified_server_is_spoken_to(sites: InboundSystem, name: str, seen: str) -> None:
    """A site's server proves itself by its CA, by a name of its own, or by being the pinned certificate."""
    reply = sites.curl(name, "/x")
    assert f"{seen}:{sites.port} says hello over TLS, path /x" in reply.stdout, reply.stderr


@pytest.mark.parametrize("name", ["unknown.example.com", "stranger.example.com", "unpinned.example.com"])
def test_a_server_that_cannot_be_verified_is_not_spoken_to(
    sites: InboundSystem, origin: OriginThread, name: str
) -> None:
    """Whoever has taken the server's place gets no request: the client is told that it is a bad gateway."""
    reply = sites.curl(name, "/", "--write-out", "%{http_code}")
    assert reply.stdout.endswith("502"), reply
    assert "says hello" not in reply.stdout


def test_a_server_that_is_away(sites: InboundSystem) -> None:
    """The handshake is completed, so that the client can be told in HTTP what is wrong."""
    assert sites.curl("away.example.com", "/", "--write-out", "%{http_code}").stdout.endswith("502")


def test_a_wildcard_site(sites: InboundSystem) -> None:
    """A site for every name of a domain serves each of them, and the server sees which."""
    reply = sites.curl("www.plain.example.com")
    assert f"Host: www.plain.example.com:{sites.port}" in reply.stdout, reply.stderr


def test_a_client_certificate_is_shown_to_the_server(sites: InboundSystem) -> None:
    """The server behind us reads the client's verified certificate in RFC 9440's headers."""
    reply = sites.curl("require.example.com", "/", "--cert", str(sites.client_key))
    certificates = x509.load_pem_x509_certificates(sites.client_key.read_bytes())
    shown = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in certificates]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in reply.stdout.splitlines())}
    assert headers["client-cert"] == f":{shown[0]}:", reply.stderr
    assert headers["client-cert-chain"] == f":{shown[1]}:"


@pytest.mark.parametrize("name", ["request.example.com", "plain.example.com"])
def test_a_client_cannot_claim_a_certificate(sites: InboundSystem, name: str) -> None:
    """Headers about certificates are ours to set: what a client writes there does not get through."""
    reply = sites.curl(name, "/", "--header", "Client-Cert: :AAAA:", "--header", "client-cert-chain: :BBBB:")
    assert reply.stdout.startswith("GET / HTTP/1.1"), reply.stderr
    assert "client-cert" not in reply.stdout.lower()


def test_a_client_without_a_required_certificate(sites: InboundSystem, tmp_path: Path) -> None:
    """Where a certificate is required, a client without one, or with another CA's, gets an alert and nothing else."""
    assert sites.curl("require.example.com").returncode in (35, 56)
    foreign = type(sites.site_ca)().client(tmp_path)
    assert sites.curl("require.example.com", "/", "--cert", str(foreign)).returncode in (35, 56)


def test_versions_of_a_listener(sites: InboundSystem) -> None:
    """A listener that is told to speak TLS 1.3 alone refuses a client of TLS 1.2."""
    port = sites.ports[1]
    assert sites.curl("modern.example.com", port=port).returncode == 0
    old = sites.curl("modern.example.com", "/", "--tls-max", "1.2", port=port)
    assert old.returncode == 35
    assert "alert protocol version" in old.stderr


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x00"])
def test_what_is_no_tls_is_refused(sites: InboundSystem, said: bytes) -> None:
    """A client that does not begin with a ClientHello gets an alert, at once."""
    with socket.create_connection(("127.0.0.1", sites.port), timeout=10) as client:
        client.sendall(said)
        answer = client.recv(100)
        assert answer[:3] == b"\x15\x03\x03"
        assert client.recv(100) == b""


def test_the_status_shows_the_sites(sites: InboundSystem) -> None:
    """`hsmitm status` names each site with its certificate, its key and who proved it."""
    shown = {(one.kind, one.name): one for one in sites.status().certificates}
    assert shown["inbound", "ca.example.com"].key_type == "P-256"
    assert shown["inbound", "ca.example.com"].proved == [sites.config.file.hsm.members[0].name]
    said = subprocess.run(
        [*HSMITM, "status", "--config", str(sites.toml)], capture_output=True, text=True, timeout=30, check=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    ).stdout  # fmt: skip
    assert "inbound ca.example.com" in said
    assert f"127.0.0.1:{sites.port}" in said


def test_check_says_what_fits_and_for_how_long(sites: InboundSystem) -> None:
    """`hsmitm check` tells of each site's certificate, days and key."""
    done = subprocess.run(
        [*HSMITM, "check", "--config", str(sites.toml)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "GnuTLS 3" in done.stdout
    assert "inbound site ca.example.com: ca.example.com-shop.pem is 'CN=ca.example.com', 19 days left" in done.stdout
    assert "pkcs11:object=shop;type=private is the key of ca.example.com, named.example.com" in done.stdout
    assert "proved by a signature" in done.stdout


def _inbound_only(directory: Path, plain: int) -> InboundSystem:
    made = InboundSystem.make_inbound(directory, workers="1")
    made.generate(shop="p256", bakery="rsa-2048")
    text = made.toml.read_text()
    begin, end = text.index("[forward]"), text.index("[proxy]")
    assert begin < end
    made.toml.write_text(text[:begin] + text[end:])
    made.listener()
    made.site("shop.example.com", keys=["shop"], upstream=f"http://127.0.0.1:{plain}")
    return made


def _serial(system: InboundSystem, name: str) -> int:
    context = ssl.create_default_context(cafile=str(system.root))
    with (
        socket.create_connection(("127.0.0.1", system.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_sites_without_a_forward_proxy_and_their_reload(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """Inbound inspection alone needs no CA. A reload brings a renewed certificate and a new site with a new key, and
    drops no connection; what is wrong in the file changes nothing."""
    system = _inbound_only(tmp_path / "s", plain)
    with system:
        assert system.curl("shop.example.com").returncode == 0
        assert len(system.status().listeners) == 1
        context = ssl.create_default_context(cafile=str(system.root))
        with (
            socket.create_connection(("127.0.0.1", system.port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="shop.example.com") as kept,
        ):
            before = _serial(system, "shop.example.com")
            system.certify("shop.example.com-shop.pem", "shop", ["shop.example.com"])
            system.site("bakery.example.com", keys=["bakery"], upstream=f"http://127.0.0.1:{plain}")
            told = _reload(system)
            assert "bakery.example.com added: served by" in told, told
            assert "inbound site shop.example.com: a new certificate of the same key" in told
            wait_until(lambda: _serial(system, "shop.example.com") != before, "the new certificate is presented", 10)
            reply = system.curl("bakery.example.com", "/", "--tls-max", "1.2")
            assert reply.returncode == 0, reply.stderr
            kept.sendall(b"GET /kept HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in kept.recv(1000)
        text = system.toml.read_text()
        system.toml.write_text(text.replace("bakery.example.com", "no such name"))
        said = subprocess.run(
            [*HSMITM, "reload", "--config", str(system.toml)], capture_output=True, text=True, timeout=60, check=False
        )
        assert said.returncode == 78
        assert "is no part of a host name" in said.stderr
        system.toml.write_text(text)
        assert system.curl("bakery.example.com").returncode == 0
        system.toml.write_text(text[: text.rindex("[[inbound.sites]]")])
        assert system.process is not None
        system.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: "unrecognized name" in system.curl("bakery.example.com").stderr, "the site that was removed", 10
        )
        assert system.curl("shop.example.com").returncode == 0


def _reload(system: InboundSystem) -> str:
    done = subprocess.run(
        [*HSMITM, "reload", "--config", str(system.toml)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_site_whose_key_comes_later(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """A site whose key is not on the partition is refused by an alert, told by log, status, check and metric, and keeps
    nobody else from being served; once the key is there a reload brings it into service."""
    system, private = _inbound_only(tmp_path / "s", plain), ec.generate_private_key(ec.SECP256R1())
    system.publics["late"] = private.public_key()
    system.site("late.example.com", keys=["late"], upstream=f"http://127.0.0.1:{plain}")
    system.site("both.example.com", keys=["late", "bakery"], upstream=f"http://127.0.0.1:{plain}")
    checked = hsmitm("check", "--config", str(system.toml))
    assert checked.returncode == EX_CONFIG
    assert "WRONG  member softhsm1: key of late.example.com, both.example.com: no private key " in checked.stdout
    with system:
        assert system.curl("shop.example.com").returncode == 0
        assert "tlsv1 alert internal error" in system.curl("late.example.com").stderr
        assert system.curl("both.example.com").returncode == 0, "it has another certificate"
        system.until_logged("refused: no-key 'late.example.com'", "clients of its sites are refused until one can")
        shown = {one.name: (one.refused, one.proved) for one in system.status().certificates if one.refused}
        assert shown == {"late.example.com": (True, []), "both.example.com": (True, [])}
        system.import_key("late", private)
        assert "it is there, and clients are refused no more" in _reload(system)
        wait_until(lambda: system.curl("late.example.com").returncode == 0, "the site is served", 10)
        assert not any(one.refused for one in system.status().certificates)


def test_ocsp_responses_are_stapled(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """A client that asks for it gets the certificate's OCSP response in the handshake, from a file or as fetched from
    the responder; `hsmitm check` says until when they are valid."""
    system = InboundSystem.make_inbound(tmp_path / "s", workers="1")
    authority, key = Authority(), ec.generate_private_key(ec.SECP256R1())
    system.import_key("stapled", key)
    system.listener()
    with responding() as responder:
        leaf = authority.leaf(responder.url, key=key)
        responder.answer = respond_with(authority.respond(leaf))
        (system.directory / "response.der").write_bytes(authority.respond(leaf))
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, authority.certificate))
        (system.directory / "chain.pem").write_bytes(chain)
        for name, where in (("fetched.example.com", "fetch"), ("file.example.com", "response.der")):
            system.site(
                name, keys=["stapled"], certificates=["chain.pem"], upstream=f"http://127.0.0.1:{plain}", ocsp=where
            )
        with system:
            for name in ("fetched.example.com", "file.example.com"):
                wait_until(
                    lambda name=name: "OCSP Response Status: successful" in _stapled(system, name), "a staple", 15
                )
        done = subprocess.run(
            [*HSMITM, "check", "--config", str(system.toml)], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.stdout.count("the OCSP response") == 2, done.stdout
    assert "does not carry fetched.example.com" in done.stdout  # and so it is wrong as a whole
    assert done.returncode == 78


def _stapled(system: InboundSystem, name: str) -> str:
    return subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{system.port}", "-servername", name, "-status"],
        input="", capture_output=True, text=True, timeout=20, check=False,
    ).stdout  # fmt: skip
