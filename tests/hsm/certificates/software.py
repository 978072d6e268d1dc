"""Keys in software, our own CAs and leaves signed with them, and CAs as other parties make them."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from hsm.certificates.ca import approve_ca
from hsm.certificates.issuer import Issuer
from hsm.certificates.leaf import SERIAL_BITS, Approved
from hsm.certificates.settings import LeafProfile
from hsm.schemes import Scheme, certificate_scheme

NOW = dt.datetime(2026, 6, 1, 12, 30, 15, 999_999, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SERIAL = 1 << (SERIAL_BITS - 1) | 0xABCDEF
PROFILE = LeafProfile()
DIGESTS = {
    "rsa": SignatureAlgorithmOID.RSA_WITH_SHA256,
    "p256": SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    "p384": SignatureAlgorithmOID.ECDSA_WITH_SHA384,
}
LONG = ".".join(["a" * 30, "b" * 30, "example"])  # 69 characters, more than a commonName holds

each_ca_key = pytest.mark.parametrize("ca_key", list(DIGESTS))


@cache
def private_key(kind: str, number: int = 0) -> Any:
    """A software key; another `number` is another key."""
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "rsa-1024":
            return rsa.generate_private_key(65537, 1024)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def spki(key: Any, encoding: Encoding = Encoding.DER) -> bytes:
    """The public half as a worker sends it."""
    return bytes(key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))


LEAF_KEY = private_key("p256", 1)


def sign(key: Any, scheme: Scheme, digest: bytes) -> bytes:
    """What a partition answers."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(digest, ec.ECDSA(Prehashed(scheme.hash)))
    return bytes(key.sign(digest, padding.PKCS1v15(), Prehashed(scheme.hash)))


def finished(approved: Approved, key: Any) -> x509.Certificate:
    """The template with its signature by `key`."""
    der = approved.certificate(sign(key, certificate_scheme(key.public_key()), approved.digest), key.public_key())
    return x509.load_der_x509_certificate(der)


@cache
def own_ca(kind: str, days: int = 3650) -> x509.Certificate:
    """A self-signed CA as `init` makes it."""
    key = private_key(kind)
    return finished(approve_ca(f"Test {kind}", key.public_key(), days, NOW, SERIAL), key)


@cache
def issuer(kind: str = "p256") -> Issuer:
    """The CA as the signer has it."""
    return Issuer([own_ca(kind)], NOW)


def key_usage(**bits: bool) -> x509.KeyUsage:
    """A keyUsage with these bits alone."""
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**(dict.fromkeys(every.split(), False) | bits))


def ca_extensions(**changes: x509.ExtensionType | None) -> list[tuple[x509.ExtensionType, bool]]:
    """A plain CA's extensions; `changes` replaces one (None: leaves it out)."""
    plain: dict[str, x509.ExtensionType | None] = {
        "constraints": x509.BasicConstraints(ca=True, path_length=None),
        "usage": key_usage(key_cert_sign=True, crl_sign=True),
    }
    critical = ("constraints", "usage")
    return [(one, name in critical) for name, one in (plain | changes).items() if one is not None]


def named(common_name: str) -> x509.Name:
    """A subject or issuer."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certified(
    subject: x509.Name,
    key: Any,
    extensions: list[tuple[x509.ExtensionType, bool]],
    *,
    by: tuple[x509.Name, Any] | None = None,
    starts: dt.datetime = NOW - 100 * DAY,
    ends: dt.datetime = NOW + 1000 * DAY,
) -> x509.Certificate:
    """A certificate as another party's software makes it; self-signed without `by` (issuer's name and key)."""
    issuer_name, issuer_key = by or (subject, key)
    builder = x509.CertificateBuilder(issuer_name, subject, key.public_key(), SERIAL, starts, ends)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def foreign_ca(kind: str = "p256", **changes: Any) -> x509.Certificate:
    """A CA of the operator's own making."""
    times = {name: changes.pop(name) for name in ("starts", "ends") if name in changes}
    return certified(named("Foreign CA"), private_key(kind), ca_extensions(**changes), **times)


def mint(
    wanted: list[str],
    kind: str = "p256",
    *,
    by: Issuer | None = None,
    key: Any = LEAF_KEY,
    profile: LeafProfile = PROFILE,
    now: dt.datetime = NOW,
    serial: int = SERIAL,
) -> x509.Certificate:
    """A leaf, signed."""
    return finished((by or issuer(kind)).approve(wanted, spki(key), profile, now, serial), private_key(kind))


def extension[Value: x509.ExtensionType](certificate: x509.Certificate, kind: type[Value]) -> x509.Extension[Value]:
    """The extension of this kind."""
    return certificate.extensions.get_extension_for_class(kind)


def subordinate(kind: str = "p256") -> tuple[x509.Certificate, x509.Certificate]:
    """A CA under another party's root: (CA, root)."""
    root_key, key = private_key("p384", 7), private_key(kind)
    root_identifier = x509.SubjectKeyIdentifier(b"root")
    by_root = x509.AuthorityKeyIdentifier(b"root", None, None)
    root = certified(named("Root"), root_key, ca_extensions(identifier=root_identifier, authority=by_root))
    below = ca_extensions(
        constraints=x509.BasicConstraints(ca=True, path_length=0),
        identifier=x509.SubjectKeyIdentifier(b"below"),
        authority=by_root,
    )
    return certified(named("Below"), key, below, by=(root.subject, root_key)), root
