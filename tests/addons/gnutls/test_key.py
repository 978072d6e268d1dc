"""addons/gnutls/key.py: keys that answer, fail, lie and dawdle, and what clients see of it."""

from __future__ import annotations

import gc
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import SSL

from addons.gnutls.connection import Connection
from addons.gnutls.credentials import Credentials
from addons.gnutls.key import RemoteKey
from addons.tls.protocol import Protocol
from hsm.errors import UnavailableError
from tests.addons.gnutls.peers import AUTHORITY, VERSIONS, Client, SoftwareKey, client_context, connected


def test_schemes_of_the_token() -> None:
    """A token that cannot do PSS serves TLS 1.2 with PKCS#1 v1.5, and is not asked for what it cannot do."""
    key = SoftwareKey("rsa")
    remote = RemoteKey(key.private.public_key(), key.sign, schemes=["rsa_pkcs1_sha256", "ecdsa_secp256r1_sha256"])
    client = connected(Credentials([AUTHORITY.certify(key, remote=remote)]))
    assert client.connection.get_protocol_version_name() == "TLSv1.2"
    assert key.schemes == ["rsa_pkcs1_sha256"]


def test_kinds_of_key() -> None:
    """Keys that we do not sign with are refused at once."""
    for private in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP521R1())):
        with pytest.raises(ValueError, match="use"):
            RemoteKey(private.public_key(), SoftwareKey("p256").sign)
    with pytest.raises(AttributeError):
        RemoteKey(ed25519.Ed25519PrivateKey.generate().public_key(), SoftwareKey("p256").sign)  # type: ignore[arg-type]


# a key that fails


@VERSIONS
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_key_unavailable(version: str, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """While the HSM is away a client gets an alert, the log the reason, and stderr nothing."""

    def away(_scheme: str, _digest: bytes) -> bytes:
        raise UnavailableError("no member is in service")

    key = SoftwareKey(kind)
    remote = RemoteKey(key.private.public_key(), away)
    client = Client(
        client_context(AUTHORITY, version), Connection(Credentials([AUTHORITY.certify(key, remote=remote)]))
    )
    with pytest.raises(SSL.Error) as failed:
        client.handshake()
    assert failed.value.args[0][0] == ("hsmitm", "UnavailableError", "no member is in service")
    assert isinstance(failed.value.__cause__, UnavailableError)
    with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_INTERNAL_ERROR"):
        client.tls.do_handshake()
    with pytest.raises(SSL.Error, match="no member is in service"):
        client.connection.do_handshake()
    with pytest.raises(SSL.SysCallError):
        client.connection.sendall(b"late")
    gc.collect()
    assert capfd.readouterr() == ("", "")


@VERSIONS
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_garbage_signature(version: str, kind: str) -> None:
    """A signature that does not verify ends in the client's alert."""
    key = SoftwareKey(kind)
    wrong = SoftwareKey(kind).sign

    def sign(scheme: str, digest: bytes) -> bytes:
        return wrong(scheme, bytes(len(digest)))

    remote = RemoteKey(key.private.public_key(), sign)
    client = Client(
        client_context(AUTHORITY, version), Connection(Credentials([AUTHORITY.certify(key, remote=remote)]))
    )
    with pytest.raises(SSL.Error, match="tlsv1 alert decrypt error"):
        client.handshake()


@pytest.mark.parametrize("answer", [b"", b"\0" * 5000, "text", None, 7])
def test_no_signature(answer: object, capfd: pytest.CaptureFixture[str]) -> None:
    """What cannot be a signature does not reach the client."""
    key = SoftwareKey("p256")
    remote = RemoteKey(key.private.public_key(), lambda _scheme, _digest: answer)  # type: ignore[arg-type,return-value]
    with pytest.raises(SSL.Error, match="the signer's answer is no signature"):
        connected(Credentials([AUTHORITY.certify(key, remote=remote)]))
    assert capfd.readouterr() == ("", "")


def test_slow_key() -> None:
    """While one site's key does not answer, 50 clients of another are served."""
    asked, answer = threading.Event(), threading.Event()
    slow, fast = SoftwareKey("p256"), SoftwareKey("p256")

    def sign(scheme: str, digest: bytes) -> bytes:
        asked.set()
        assert answer.wait(20)
        return slow.sign(scheme, digest)

    waits = Credentials([AUTHORITY.certify(slow, remote=RemoteKey(slow.private.public_key(), sign))])
    credentials = Credentials([AUTHORITY.certify(fast)])
    with ThreadPoolExecutor(9) as pool:
        stuck = pool.submit(connected, waits)
        assert asked.wait(20)
        others = [pool.submit(connected, credentials) for _ in range(50)]
        for one in others:
            one.result(20)
        assert not stuck.done()
        answer.set()
        assert stuck.result(20).connection.get_protocol_version_name() == "TLSv1.3"
    assert len(fast.schemes) == 50


# RSA key exchange


def old_client(decrypt: Callable[[bytes], bytes]) -> Client:
    """A client that can RSA key exchange alone, and a site that lets it."""
    key = SoftwareKey("rsa")
    remote = RemoteKey(key.private.public_key(), key.sign, decrypt)
    credentials = Credentials([AUTHORITY.certify(key, remote=remote)], protocol=Protocol(rsa_key_exchange=True))
    context = client_context(AUTHORITY, "1.2")
    context.set_ciphers("AES128-GCM-SHA256")
    return Client(context, Connection(credentials))


def test_rsa_key_exchange() -> None:
    """Where a site turns it on, the key decrypts instead of signing."""
    key = SoftwareKey("rsa")
    client = old_client(key.decrypt)
    client.handshake()
    assert (key.decrypted, key.schemes) == (1, [])
    assert client.connection.get_cipher_name() == "AES128-GCM-SHA256"
    client.write(b"question")
    assert client.received == b"question"


def _no_padding(_ciphertext: bytes) -> bytes:
    raise ValueError("CKR_ENCRYPTED_DATA_INVALID")


@pytest.mark.parametrize("decrypt", [_no_padding, lambda _: bytes(48), lambda _: bytes(5), lambda _: b""])
def test_rsa_key_exchange_oracle(decrypt: Callable[[bytes], bytes]) -> None:
    """A client that sends a wrong premaster secret cannot tell what was wrong with it: bad_record_mac in every case."""
    client = old_client(decrypt)
    with pytest.raises(SSL.Error) as failed:
        client.handshake()
    assert failed.value.args[0][-1] == ("GnuTLS", "handshake", "Decryption has failed.")
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        client.tls.do_handshake()
    assert ("CKR_ENCRYPTED_DATA_INVALID" in str(failed.value)) == (decrypt is _no_padding)
