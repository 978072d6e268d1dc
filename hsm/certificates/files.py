"""Certificates read from PEM files, and what their keys are called. No HSM, no clock. Workers use it, too."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import PublicKeyAlgorithmOID

from hsm import reading
from hsm.errors import MisconfiguredError
from hsm.schemes import PublicKey, certificate_scheme

_NAME_DIGITS = 32
"""Of the digest, in hexadecimal: 128 bits, which nobody makes two keys for."""


def read(path: Path, what: str = "certificate") -> list[x509.Certificate]:
    """The certificates of a PEM file, in its order. Raises MisconfiguredError, naming the file and `what` it is."""
    try:
        return x509.load_pem_x509_certificates(reading.contents(path))
    except OSError as error:
        raise MisconfiguredError(f"cannot read the {what} {path}: {error.strerror}") from error
    except ValueError as error:
        raise MisconfiguredError(f"{path} holds no PEM certificate: {error}") from error


def load_chain(site: str, path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, a server's own first, whose key we sign with.

    Raises MisconfiguredError, naming the site and the file.
    """
    try:
        chain = read(path)
    except MisconfiguredError as error:
        raise MisconfiguredError(f"site {site}: {error}") from error
    try:
        _refuse_ca(chain[0])
        public_key_of(chain[0])
    except ValueError as error:
        raise MisconfiguredError(f"site {site}: {path}: {error}") from error
    return chain


def _refuse_ca(leaf: x509.Certificate) -> None:
    """Raise ValueError for a CA; also where the extensions make no sense."""
    try:
        is_ca = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return
    except Exception as error:  # cryptography raises several kinds for several kinds of garbage
        raise ValueError(f"its extensions cannot be read: {error}") from error
    if is_ca:
        raise ValueError(
            f"its first certificate, '{leaf.subject.rfc4514_string()}', is a CA; put the server's own first, then its "
            "issuers"
        )


def public_key_of(leaf: x509.Certificate) -> PublicKey:
    """The certificate's key. Raises ValueError for one that we do not sign with."""
    if leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise ValueError("its key is bound to RSASSA-PSS; use one of rsaEncryption or of P-256 or P-384")
    try:
        public = leaf.public_key()
    except Exception as error:  # cryptography raises several kinds for keys that it does not know
        raise ValueError("its key is of a kind that is not known; RSA and EC keys are used") from error
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError(f"it has a key of type {type(public).__name__}; RSA and EC keys are used")  # noqa: TRY004  # of a file
    try:
        certificate_scheme(public)
    except ValueError as error:
        raise ValueError(f"it has {error}") from error
    return public


def spki_of(public: PublicKey) -> bytes:
    """The public key (DER SubjectPublicKeyInfo, RFC 5280)."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def inbound_name(public: PublicKey | bytes) -> str:
    """What an inbound key is called on the wire and in `Group.keys`: "inbound-" and 32 hexadecimal digits of the
    SHA-256 of its DER SubjectPublicKeyInfo. So a renewed certificate of the same key is the same key."""
    spki = public if isinstance(public, bytes) else spki_of(public)
    return f"inbound-{hashlib.sha256(spki).hexdigest()[:_NAME_DIGITS]}"
