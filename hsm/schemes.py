"""TLS signature schemes: which PKCS#11 mechanisms make each one, and how to verify it. No I/O, no pkcs11 import.

A scheme can be made in two forms. *Prehashed*: the token gets the digest (for PKCS#1 v1.5 inside a DigestInfo, RFC 8017
section 9.2). *Whole*: the token gets the message and hashes it itself. Both give the same signature; tokens differ in
which they list (SoftHSM has no CKM_ECDSA_SHA256) and in which of those they allow (FIPS modes tend to forbid
CKM_RSA_PKCS, a key may have CKA_ALLOWED_MECHANISMS). What a token lists says what is worth trying; a signature proves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from msgspec import Struct

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Family = Literal["rsa_pkcs1", "rsa_pss", "ecdsa"]

Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_HASHES: dict[str, Digest] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_DIGEST_INFO = {  # RFC 8017 section 9.2, note 1
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_PREHASHED = {"rsa_pkcs1": 0x1, "rsa_pss": 0xD, "ecdsa": 0x1041}
"""CKM_RSA_PKCS, CKM_RSA_PKCS_PSS, CKM_ECDSA (PKCS#11 v3.0 current mechanisms, sections 2.1.6, 2.1.10, 2.3.6)."""
_WHOLE = {
    ("rsa_pkcs1", "sha256"): 0x40,
    ("rsa_pkcs1", "sha384"): 0x41,
    ("rsa_pkcs1", "sha512"): 0x42,
    ("rsa_pss", "sha256"): 0x43,
    ("rsa_pss", "sha384"): 0x44,
    ("rsa_pss", "sha512"): 0x45,
    ("ecdsa", "sha256"): 0x1044,
    ("ecdsa", "sha384"): 0x1045,
    ("ecdsa", "sha512"): 0x1046,
}

_SIZES = {"secp256r1": 32, "secp384r1": 48}
"""Bytes of a number of each curve."""


class Scheme(Struct, frozen=True):
    """One TLS signature scheme (RFC 8446 section 4.2.3)."""

    name: str
    family: Family
    hash_name: str
    curve: str | None = None

    @property
    def hash(self) -> Digest:
        """The digest of the scheme, for cryptography."""
        return _HASHES[self.hash_name]

    @property
    def digest_size(self) -> int:
        """Bytes of the digest: 32, 48 or 64."""
        return self.hash.digest_size

    def digest(self, message: bytes) -> bytes:
        """The scheme's digest of `message`."""
        hasher = hashes.Hash(self.hash)
        hasher.update(message)
        return hasher.finalize()

    @property
    def certificate_padding(self) -> padding.PSS | None:
        """The padding that cryptography's certificate builders want to be told; None where the scheme has no choice."""
        return self._pss if self.family == "rsa_pss" else None

    @property
    def _pss(self) -> padding.PSS:
        """RFC 8446 section 4.2.3: MGF1 with the scheme's own digest, and a salt as long as it."""
        return padding.PSS(padding.MGF1(self.hash), self.digest_size)

    def fits(self, key: PublicKey) -> bool:
        """Whether `key` can make this scheme: the family, and for ECDSA the curve that TLS 1.3 ties to it."""
        if isinstance(key, rsa.RSAPublicKey):
            return self.family != "ecdsa"
        return self.family == "ecdsa" and self.curve == key.curve.name

    def encode(self, raw: bytes) -> bytes:
        """A token's answer as TLS and X.509 carry it: ECDSA r||s (two halves of the curve's size) becomes DER. Some
        tokens answer in DER already (RFC 3279 section 2.2.3)."""
        if self.family != "ecdsa":
            return raw
        half = len(raw) // 2
        if self.curve is None or half != _SIZES[self.curve] or len(raw) % 2:
            try:
                return encode_dss_signature(*decode_dss_signature(raw))
            except ValueError:
                pass  # halves of another size: a signature of it, or none, says whoever verifies it
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def verifies(self, key: PublicKey, digest: bytes, signature: bytes) -> bool:
        """Whether `signature` is this scheme's signature of `digest` by `key`."""
        prehashed = Prehashed(self.hash)
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, digest, ec.ECDSA(prehashed))
            elif self.family == "rsa_pss":
                key.verify(signature, digest, self._pss, prehashed)
            else:
                key.verify(signature, digest, padding.PKCS1v15(), prehashed)
        except InvalidSignature:
            return False
        return True


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("rsa_pkcs1_sha256", "rsa_pkcs1", "sha256"),
        Scheme("rsa_pkcs1_sha384", "rsa_pkcs1", "sha384"),
        Scheme("rsa_pkcs1_sha512", "rsa_pkcs1", "sha512"),
        Scheme("rsa_pss_rsae_sha256", "rsa_pss", "sha256"),
        Scheme("rsa_pss_rsae_sha384", "rsa_pss", "sha384"),
        Scheme("rsa_pss_rsae_sha512", "rsa_pss", "sha512"),
        Scheme("ecdsa_secp256r1_sha256", "ecdsa", "sha256", "secp256r1"),
        Scheme("ecdsa_secp384r1_sha384", "ecdsa", "sha384", "secp384r1"),
    )
}


class Form(Struct, frozen=True):
    """How a token makes a scheme: the mechanism, and whether it wants the message instead of the digest."""

    mechanism: int
    whole: bool

    def payload(self, scheme: Scheme, digest: bytes, message: bytes | None) -> bytes | None:
        """The bytes to hand to the token, or None where the message is needed and the caller has only a digest."""
        if self.whole:
            return message
        return _DIGEST_INFO[scheme.hash_name] + digest if scheme.family == "rsa_pkcs1" else digest


def forms_for(scheme: Scheme, listed: Collection[int], signing: Collection[int]) -> tuple[Form, ...]:
    """The forms in which a token that lists these mechanisms may make `scheme`, the one to try first in front.

    Prehashed comes first: it sends the HSM 51 bytes instead of a whole certificate, and TLS handshakes have no message.
    But a mechanism that is not among `signing`, those with CKF_SIGN (CK_MECHANISM_INFO), comes last: it is tried all
    the same, because some tokens tell no flags.
    """
    prehashed = Form(_PREHASHED[scheme.family], whole=False)
    whole = Form(_WHOLE[scheme.family, scheme.hash_name], whole=True)
    found = [one for one in (prehashed, whole) if one.mechanism in listed]
    return tuple(sorted(found, key=lambda form: form.mechanism not in signing))


SIGNING = frozenset({*_PREHASHED.values(), *_WHOLE.values()})
"""Every mechanism that makes one of the schemes."""


def certificate_schemes(key: PublicKey) -> tuple[Scheme, ...]:
    """The schemes in which a CA with `key` may sign certificates, the preferred one first. Raises ValueError for a key
    we do not sign with.

    For RSA PKCS#1 v1.5 with SHA-256, because TLS 1.2 clients of the last decade verify it without exception, and
    RSA-PSS last: TLS 1.3 asks clients to know it in certificates (RFC 8446 section 9.1), older ones need not. For ECDSA
    the digest of the curve's own strength (RFC 5480 section 4).
    """
    if isinstance(key, rsa.RSAPublicKey) and not 2048 <= key.key_size <= 4096:
        raise ValueError(f"an RSA key of {key.key_size} bits; use 2048 to 4096")
    found = tuple(scheme for scheme in SCHEMES.values() if scheme.fits(key))
    if not found:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        raise ValueError(unused_curve(key.curve.name))
    return found


def certificate_scheme(key: PublicKey) -> Scheme:
    """The first of `certificate_schemes`."""
    return certificate_schemes(key)[0]


def in_words(schemes: Iterable[str]) -> str:
    """Schemes as an operator reads them: "rsa_pss_rsae_sha256, 384 and 512" stands for three."""
    families: dict[str, list[str]] = {}
    for name in schemes:
        family, _, size = name.rpartition("_sha")
        families.setdefault(family, []).append(size)
    parts = []
    for family, sizes in families.items():
        rest = ", ".join(sizes[:-1])
        parts.append(f"{family}_sha{rest} and {sizes[-1]}" if rest else f"{family}_sha{sizes[0]}")
    return ", ".join(parts)


def by_reason(lacking: Mapping[str, str]) -> dict[str, str]:
    """What stands scheme by scheme, reason by reason: why each of some schemes is not made -> `in_words` of those."""
    reasons: dict[str, list[str]] = {}
    for name, why in lacking.items():
        reasons.setdefault(why, []).append(name)
    return {why: in_words(names) for why, names in reasons.items()}


def unused_curve(name: str) -> str:
    """What is said of an elliptic curve key on another curve."""
    needs = f", for which TLS needs {_FOREIGN[name]}, and many clients do not offer it" if name in _FOREIGN else ""
    return f"an elliptic curve key on {name}{needs}; use P-256 or P-384"


_FOREIGN = {"secp521r1": "ecdsa_secp521r1_sha512"}
"""Schemes that we do not make (RFC 8446 section 4.2.3): Chrome, for one, does not offer this one."""
