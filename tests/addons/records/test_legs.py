"""What is noted of a handshake that was made."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mitmproxy.connection import Connection
from mitmproxy.test import tflow
from OpenSSL import SSL

from addons.records import legs
from addons.records.facts import Leg
from tests.addons.records.test_classes import CERTIFICATE, handshake


def _noted(peer: Connection, end: SSL.Connection) -> Leg:
    leg = Leg()
    peer.tls_version, peer.cipher, peer.alpn = "TLSv1.3", end.get_cipher_name(), b"h2"
    legs.note(leg, peer, end)
    return leg


def test_a_legs_tls_is_what_was_negotiated() -> None:
    """Version, cipher, group, protocol, and that the session is a new one."""
    ours, _ = handshake(lambda _: None, lambda _: None)
    leg = _noted(tflow.tserver_conn(), ours)
    assert (leg.version, leg.alpn, leg.resumed) == ("TLSv1.3", "h2", False)
    assert leg.cipher.startswith("TLS_")
    assert leg.group == "X25519MLKEM768"


def test_what_openssl_says_of_a_chain() -> None:
    """Code and words of the first thing that was wrong with it."""
    ours, _ = handshake(lambda context: context.set_verify(SSL.VERIFY_PEER), lambda _: None)
    found = legs.verification(ours)
    assert found is not None
    assert (found.code, found.words) == (18, "self-signed certificate")
    assert legs.verification(object()) is None


def test_a_certificates_facts_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names, its end, its fingerprint; of more certificates than are kept the oldest is forgotten."""
    monkeypatch.setattr(legs, "_known", {})
    monkeypatch.setattr(legs, "_MOST_CERTIFICATES", 1)
    found = legs.certificate(CERTIFICATE)
    assert (found.subject, found.issuer) == ("CN=a.test", "CN=a.test")
    assert found.not_after == CERTIFICATE.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert len(found.sha256) == 64
    assert legs.certificate(CERTIFICATE) is found
    legs._known[b"other"] = legs._known.pop(bytes.fromhex(found.sha256))
    assert legs.certificate(CERTIFICATE) == found
    assert len(legs._known) == 1


def test_a_name_without_end_is_kept_in_part() -> None:
    """A certificate whose subject fills it costs no more memory than a line of the log could show of it."""
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o" * 60) for _ in range(500)]
    name, now = x509.Name(organisations), dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now).sign(key, hashes.SHA256())
    found = legs.certificate(made)
    assert len(made.subject.rfc4514_string()) > 30_000
    assert len(found.subject) == len(found.issuer) == 1024
