"""Servers' certificates with one fault each, made by throw-away CAs."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
CAS_AT = "http://127.0.0.1:9/ca.der"
"""Where nobody answers."""
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@dataclass
class Shown:
    """What a server shows: its certificate and those that it sends with it, and its key."""

    chain: list[x509.Certificate]
    key: Key

    @property
    def pem(self) -> bytes:
        """Key and chain in one file."""
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private + b"".join(one.public_bytes(Encoding.PEM) for one in self.chain)


@dataclass
class CA:
    """A throw-away CA, below `parent` where there is one; it may issue for `permitted` alone, if for anything."""

    name: str
    parent: CA | None = None
    permitted: str = ""
    days: int = 9
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @functools.cached_property
    def certificate(self) -> x509.Certificate:
        """Its own, by its parent or itself."""
        above = self.parent or self
        builder = _builder(self.name, above.name, self.key, days=self.days, ca=True)
        if self.permitted:
            names = x509.NameConstraints([x509.DNSName(self.permitted)], None)
            builder = builder.add_extension(names, critical=True)
        return builder.sign(above.key, hashes.SHA256())

    def itself(self, host: str) -> Shown:
        """A self-signed certificate for `host`, of its own key."""
        return self.issue(host, key=self.key)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self, host: str, *, key: Key | None = None, names: Sequence[str] = (), days: int = 9, begins: int = -30,
        old: bool = False, ca: bool = False, usage: x509.ObjectIdentifier | None = None,
        issuers_at: str = "", sent: Sequence[CA] | None = None,
    ) -> Shown:  # fmt: skip
        """A server's certificate from day `begins` to day `days` from now. `sent` are the CAs that the server sends."""
        key = key or _key()
        builder = _builder(host, self.name, key, days=days, begins=begins, ca=ca)
        alternative = x509.SubjectAlternativeName([x509.DNSName(one) for one in names or [host]])
        builder = builder.add_extension(alternative, critical=False)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([usage or ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        if issuers_at:
            place = x509.UniformResourceIdentifier(issuers_at)
            access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)
            builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
        leaf = builder.sign(self.key, hashes.SHA256())
        if old:
            leaf = _signed_with_sha1(leaf, self.key)
        behind = sent if sent is not None else ([self] if self.parent else [])
        return Shown([leaf, *(one.certificate for one in behind)], key)


@functools.cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def _small() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


def _signed_with_sha1(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The same, signed as nobody should any more, and as `cryptography` does not."""
    made = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
    algorithm = asn1_x509.SignedDigestAlgorithm({"algorithm": "sha1_ecdsa"})
    made["tbs_certificate"]["signature"] = made["signature_algorithm"] = algorithm
    digest = hashlib.sha1(made["tbs_certificate"].dump(force=True), usedforsecurity=False).digest()
    made["signature_value"] = key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA1())))
    return x509.load_der_x509_certificate(made.dump(force=True))


def _builder(
    name: str, issuer: str, key: Key, *, days: int, begins: int = -30, ca: bool = False
) -> x509.CertificateBuilder:
    called, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer))
    return (
        x509.CertificateBuilder(by, called, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW + dt.timedelta(days=begins))
        .not_valid_after(NOW + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )


ROOT = CA("a root")
BETWEEN = CA("a CA between", ROOT)
NARROW = CA("a CA for elsewhere", ROOT, permitted="elsewhere.example")
NOBODY = CA("nobody's root")

FAULTS = (
    "expired",
    "not yet valid",
    "untrusted",
    "self-signed",
    "incomplete chain",
    "wrong name",
    "RSA-1024",
    "SHA-1",
    "wrong EKU",
    "name constraints",
    "leaf is a CA",
)


def shown(fault: str, host: str) -> Shown:
    """What a server `host` with that fault, and no other, shows; "" for a good one."""
    match fault:
        case "expired":
            return BETWEEN.issue(host, days=-1)
        case "not yet valid":
            return BETWEEN.issue(host, begins=1)
        case "untrusted":
            return NOBODY.issue(host)
        case "self-signed":
            alone = CA(host)
            return alone.issue(host, key=alone.key)
        case "incomplete chain":
            return BETWEEN.issue(host, issuers_at=CAS_AT, sent=[])
        case "wrong name":
            return BETWEEN.issue(host, names=["other.example"])
        case "RSA-1024":
            return BETWEEN.issue(host, key=_small())
        case "SHA-1":
            return BETWEEN.issue(host, old=True)
        case "wrong EKU":
            return BETWEEN.issue(host, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        case "name constraints":
            return NARROW.issue(host)
        case "leaf is a CA":
            return BETWEEN.issue(host, ca=True)
    return BETWEEN.issue(host)
