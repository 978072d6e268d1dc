"""What TLS is spoken with clients and servers, by each way: groups, suites, certificates that clients verify."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from addons.edge.http2.session import Session
from addons.edge.settings import Bounds
from addons.gnutls.credentials import has_hybrid_group
from tests.exchanges.client2 import asked
from tests.exchanges.ends1 import HOST
from tests.exchanges.scene import FORWARD, WAYS, Scene, over_tls
from tests.waiting import wait_until

pytestmark = pytest.mark.alone
_HYBRID = "X25519MLKEM768"


def _blocking(connection: socket.socket) -> socket.socket:
    """With a limit of the kernel's: OpenSSL has the descriptor, and Python's time-outs would be a surprise to it."""
    connection.setblocking(True)
    for what in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, what, (10).to_bytes(8, "little") + bytes(8))
    return connection


def _asking(version: str) -> bytes:
    if version == "http/1.1":
        return f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    client = Session(Bounds(), client=True)
    client.request(asked("GET", "/"), ended=True)
    return client.pull(65536)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["http/1.1", "h2"])
def test_what_is_recorded_now_cannot_be_read_later(scene: Scene, way: str, version: str) -> None:
    """A client and a server of OpenSSL 3.5 or later have X25519MLKEM768 with us, on both legs; at our own sites where
    GnuTLS has it, and X25519 where not."""
    groups: list[str | None] = []
    key = ec.generate_private_key(ec.SECP256R1())
    behind = SSL.Context(SSL.TLS_SERVER_METHOD)
    behind.use_certificate(scene.ca.certify(key.public_key(), [HOST]))
    behind.use_privatekey(key)
    behind.set_alpn_select_callback(lambda _, offered: version.encode() if version.encode() in offered else b"")

    def serve(connection: socket.socket) -> None:
        tls = SSL.Connection(behind, _blocking(connection))
        tls.set_accept_state()
        with suppress(SSL.Error):
            tls.do_handshake()
            groups.append(tls.get_group_name())
            tls.recv(1)

    with scene.serving(serve) as port, scene.open(way, port) as plain:
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), _blocking(plain))
        client.set_tlsext_host_name(HOST.encode())
        client.set_alpn_protos([version.encode()])
        client.set_connect_state()
        client.do_handshake()
        ours = _HYBRID if way in FORWARD or has_hybrid_group() else "x25519"
        assert client.get_group_name() == ours
        client.sendall(_asking(version))  # our Finished goes to the server with the first request
        wait_until(lambda: groups, "the server's handshake is done")
    assert groups == [_HYBRID]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_without_forward_secrecy(scene: Scene, way: str) -> None:
    """It is not spoken with: the client reads why, and the log says what could be done about it."""
    context = scene.ca.context((HOST,), ("http/1.1",))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")
    with scene.serving(over_tls(context)) as port:
        answer = scene.curl(way, port, *(["--insecure"] if way in FORWARD else []))
    assert answer.status == 502, answer
    assert "it has no cipher suite in common with this proxy" in answer.body
    scene.systems[way].until_logged("see [proxy] suites")


@pytest.mark.parametrize("way", FORWARD)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("schemes", "issuer"),
    [
        ("RSA+SHA256:RSA-PSS+SHA256", "old CA"),
        ("ECDSA+SHA256", "hsmitm forward trust CA"),
        ("ECDSA+SHA256:RSA+SHA256:RSA-PSS+SHA256", "hsmitm forward trust CA"),
    ],
    ids=["RSA", "ECDSA", "both"],
)
def test_each_client_gets_what_it_verifies(scene: Scene, way: str, version: str, schemes: str, issuer: str) -> None:
    """OpenSSL's client with these schemes gets a leaf that verifies, of the first CA that it can verify, for the host
    that was asked for."""
    with scene.relayed(way, scene.servers.ports["http/1.1"]) as port:
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST, "-verify_hostname", HOST,
             "-CAfile", str(scene.through(way)[1]), "-verify_return_error", "-sigalgs", schemes, version],
            input="", capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(rf"issuer=.*CN ?= ?{issuer}", done.stdout), done.stdout
    assert re.search(rf"subject=.*CN ?= ?{HOST}", done.stdout), done.stdout


@pytest.mark.parametrize("way", FORWARD)
def test_a_leaf_is_named_after_what_was_asked_for(scene: Scene, way: str) -> None:
    """And not after whichever of the server's names comes first in the alphabet."""
    context = scene.ca.context(("aaa.test", HOST), ("http/1.1",))
    with (
        scene.serving(over_tls(context)) as port,
        scene.tls(way, port) as tls,
    ):
        leaf = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    assert [one.value for one in leaf.subject if one.oid == x509.NameOID.COMMON_NAME] == [HOST]
