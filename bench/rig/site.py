"""The sites that the bench's servers answer for: a name and a certificate for each kind of key, and where the key is.

Every server gets certificates from one throw-away CA with the same content, so that each sends as many bytes.
"""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from cryptography.x509.oid import NameOID
from msgspec import Struct

from hsm.member.process import MemberProcess
from hsm.wire.member import Generate, KeyFound, Open, Selector

SiteKey = Literal["p256", "rsa-2048"]
SITE_KEYS: tuple[SiteKey, ...] = ("p256", "rsa-2048")
_TIMEOUT_S = 60.0

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def host(key_type: SiteKey) -> str:
    """The site's name: clients choose the key by it (SNI)."""
    return f"{key_type}.example.com"


class Site(Struct, frozen=True):
    """A site as one server has it. `key` is a PEM file's path or a PKCS#11 URI (RFC 7512)."""

    host: str
    certificate: Path
    key: str


class SiteCA:
    """The throw-away CA of the sites. Its key stays in memory."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away site CA")])
        self.certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def write(self, path: Path) -> None:
        """The CA's certificate as PEM, for clients."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def certify(self, name: str, public: _PublicKey, path: Path) -> None:
        """Write the certificate of a site to `path` as PEM."""
        leaf = (
            self._builder(x509.Name([]), public)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        path.write_bytes(leaf.public_bytes(Encoding.PEM))

    def _builder(self, subject: x509.Name, public: _PublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )


def file_sites(ca: SiteCA, directory: Path) -> list[Site]:
    """A site of each kind with its key in a PEM file of mode 0600."""
    sites = []
    for key_type in SITE_KEYS:
        private = (
            ec.generate_private_key(ec.SECP256R1())
            if key_type == "p256"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        certificate, key = directory / f"{key_type}-file.pem", directory / f"{key_type}-file.key"
        key.touch(mode=0o600)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        ca.certify(host(key_type), private.public_key(), certificate)
        sites.append(Site(host(key_type), certificate, str(key)))
    return sites


async def token_sites(
    ca: SiteCA, directory: Path, *, module: str, token: str, pin: str, environment: dict[str, str]
) -> list[Site]:
    """A site of each kind with a new key on the partition `token`, made by a member process as an operator would."""
    sites = []
    process = await MemberProcess.spawn(environment)
    try:
        until = time.monotonic() + _TIMEOUT_S
        await process.channel.call(Open(module, Selector(token), pin, 1, {}, writable=True), until)
        for key_type in SITE_KEYS:
            found = await process.channel.call(Generate(f"site-{key_type}", key_type), until)
            assert isinstance(found, KeyFound)
            public = load_der_public_key(found.spki)
            assert isinstance(public, _PublicKey)
            certificate = directory / f"{key_type}.pem"
            ca.certify(host(key_type), public, certificate)
            sites.append(Site(host(key_type), certificate, f"pkcs11:token={token};object=site-{key_type};type=private"))
    finally:
        await process.end()
    return sites
