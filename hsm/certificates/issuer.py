"""Leaf request -> approved template -> one signature -> certificate. No I/O, no clock, no HSM.

Misuse cannot be written down: of a leaf only `Issuer.approve` makes an `Approved`, after every check; it holds the
bytes to sign, and becomes a certificate once, with a signature by the key of the issuer that approved it.

cryptography builds the certificate with a stand-in key (`hsm.certificates.standin`); the TBSCertificate is taken from
it, and the HSM's signature put beside it with asn1crypto's DER emitter (its object model does the same in 0.9 ms, not
0.01). So minting needs no thread and waits for nothing but the HSM.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, PublicKeyAlgorithmOID

from hsm import names
from hsm.certificates import files
from hsm.certificates.leaf import SEAL, Approved
from hsm.certificates.leaf_key import leaf_key, secret_of
from hsm.certificates.settings import BACKDATED, MAX_VALIDITY, LeafProfile
from hsm.certificates.standin import stand_in
from hsm.errors import MisconfiguredError, RefusedError
from hsm.schemes import PublicKey, Scheme, certificate_schemes

_LEAF_EXTENSIONS = {
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
}


class Issuer:
    """A CA certificate whose key is on a partition, with the certificates that lead to its root."""

    def __init__(self, chain: list[x509.Certificate], now: dt.datetime) -> None:
        """`chain` is the CA first, then its issuers. Raises MisconfiguredError: not a CA, expired, wrong order."""
        if not chain:
            raise MisconfiguredError("the file holds no certificate")
        self.certificate = chain[0]
        self.chain = chain
        self.check_usable(now)
        for child, parent in pairwise(chain):
            try:
                child.verify_directly_issued_by(parent)
            except Exception as error:
                raise MisconfiguredError(
                    f"'{child.subject.rfc4514_string()}' is not issued by the certificate that follows it, "
                    f"'{parent.subject.rfc4514_string()}'; put the CA first, then each one's issuer"
                ) from error
        if self.certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
            raise MisconfiguredError(
                "the CA's certificate binds its key to RSASSA-PSS, which many clients do not verify in a CA; give it "
                "one whose key is plain RSA: its partition may sign with RSA-PSS all the same"
            )
        key = self.certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise MisconfiguredError(f"a CA key of type {type(key).__name__}; RSA and EC keys are used")
        self.key: PublicKey = key
        try:
            self.schemes = certificate_schemes(key)
        except ValueError as error:
            raise MisconfiguredError(f"the CA has {error}") from error
        self._key_identifier = _key_identifier(self.certificate, key)

    @property
    def scheme(self) -> Scheme:
        """The scheme to sign leaves in where the partition makes it: the first of `schemes`."""
        return self.schemes[0]

    @property
    def keys_above(self) -> list[PublicKey]:
        """The keys of the CA and of its issuers, as far as their certificates are here: no leaf may have one."""
        public = [certificate.public_key() for certificate in self.chain]
        return [key for key in public if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)]

    def check_usable(self, now: dt.datetime) -> None:
        """Raise MisconfiguredError unless the certificate is a CA's and valid at `now`."""
        certificate = self.certificate
        subject = certificate.subject.rfc4514_string()
        try:
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_ca = False
        if not is_ca:
            raise MisconfiguredError(f"'{subject}' is not a CA certificate (basicConstraints CA is not true)")
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            pass
        else:
            if not usage.key_cert_sign:
                raise MisconfiguredError(f"'{subject}' may not sign certificates (keyUsage lacks keyCertSign)")
        if now > certificate.not_valid_after_utc:
            ended = certificate.not_valid_after_utc
            raise MisconfiguredError(f"'{subject}' expired on {ended:%Y-%m-%d}; renew the CA")
        if now < certificate.not_valid_before_utc:
            raise MisconfiguredError(
                f"'{subject}' is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; check the clock"
            )

    def approve(
        self,
        wanted: list[str],
        spki: bytes,
        profile: LeafProfile,
        now: dt.datetime,
        serial: int,
        scheme: Scheme | None = None,
    ) -> Approved:
        """The template of a leaf for `wanted` (names) and the worker's public key, checked.

        `serial` has SERIAL_BITS random bits; `scheme` is the one of `schemes` that it is to be signed in, the first
        unless given. Raises RefusedError, naming what is wrong with the request.
        """
        try:
            self.check_usable(now)
        except MisconfiguredError as error:
            raise RefusedError(str(error)) from error
        checked = _checked_names(wanted)
        key = leaf_key(spki)
        if secret_of(key) == secret_of(self.key):
            raise RefusedError("a leaf with the CA's own key")
        not_before = max(now - BACKDATED, self.certificate.not_valid_before_utc)
        not_after = min(now + profile.ahead, self.certificate.not_valid_after_utc)
        scheme = scheme or self.scheme
        draft = self._draft(checked, key, not_before, not_after, serial, scheme)
        self._check_leaf(draft, checked, spki)
        return Approved(draft, self.key, scheme, SEAL)

    def _draft(
        self,
        checked: list[str],
        key: PublicKey,
        not_before: dt.datetime,
        not_after: dt.datetime,
        serial: int,
        scheme: Scheme,
    ) -> x509.Certificate:
        common_name = checked[0] if len(checked[0]) <= 64 else None  # ub-common-name, RFC 5280 appendix A.1
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        alternative = x509.SubjectAlternativeName([names.general_name(name) for name in checked])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(key), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(alternative, critical=not subject)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier(self._key_identifier, None, None), critical=False)
        )
        return builder.sign(stand_in(self.key), scheme.hash, rsa_padding=scheme.certificate_padding)

    def _check_leaf(self, draft: x509.Certificate, checked: list[str], spki: bytes) -> None:
        """Read the bytes that would be signed once more, as a verifier would; refuse whatever is not a leaf of ours."""
        extensions = draft.extensions
        if {type(one.value) for one in extensions} != _LEAF_EXTENSIONS:
            raise RefusedError("not a leaf: its extensions are not those of a leaf")
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        alternative = extensions.get_extension_for_class(x509.SubjectAlternativeName)
        authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        faults = {
            "it would be a CA": constraints.ca or usage.key_cert_sign or usage.crl_sign,
            "its purpose is not serverAuth alone": purposes != [ExtendedKeyUsageOID.SERVER_AUTH],
            "its names differ": list(alternative.value) != [names.general_name(name) for name in checked],
            "its names are not critical beside an empty subject": not draft.subject and not alternative.critical,
            "its issuer differs": draft.issuer != self.certificate.subject,
            "its authorityKeyIdentifier differs": authority.key_identifier != self._key_identifier,
            "it outlives its CA": draft.not_valid_after_utc > self.certificate.not_valid_after_utc,
            "its validity is too long": draft.not_valid_after_utc - draft.not_valid_before_utc > MAX_VALIDITY,
            "it would not be valid yet": draft.not_valid_after_utc <= draft.not_valid_before_utc,
            "its serial number is too short": draft.serial_number.bit_length() < 64,
            "its subject is not one of its names": [one.value for one in draft.subject] not in ([], checked[:1]),
            "its key is not the one that was asked for": _spki(draft.public_key()) != spki,
        }
        if found := [fault for fault, present in faults.items() if present]:
            raise RefusedError(f"not a leaf: {'; '.join(found)}")


def _spki(key: Any) -> bytes:
    """Any public key of cryptography's as DER."""
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _checked_names(wanted: list[str]) -> list[str]:
    if not 1 <= len(wanted) <= names.MAX_NAMES:
        raise RefusedError(f"a leaf for {len(wanted)} names; 1 to {names.MAX_NAMES} are possible")
    try:
        checked = [names.check_leaf(name) for name in wanted]
    except ValueError as error:
        raise RefusedError(f"a name that no leaf may carry: {error}") from error
    if len(set(checked)) != len(checked):
        raise RefusedError("a name stands twice")
    return checked


def _key_usage(key: PublicKey) -> x509.KeyUsage:
    """digitalSignature; keyEncipherment beside it for RSA (RFC 5280 section 4.2.1.3, TLS 1.2 RSA key exchange)."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=isinstance(key, rsa.RSAPublicKey),
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_identifier(certificate: x509.Certificate, key: PublicKey) -> bytes:
    """The issuer's subjectKeyIdentifier byte for byte (a CA may make it in its own way), else RFC 5280's SHA-1."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(key).digest


def load_issuer(path: Path) -> Issuer:
    """The CA in a PEM file: its certificate first, then those of its issuers.

    Raises MisconfiguredError, naming the file.
    """
    chain = files.read(path, "CA certificate")
    try:
        return Issuer(chain, dt.datetime.now(dt.UTC))
    except MisconfiguredError as error:
        raise MisconfiguredError(f"{path}: {error}") from error


def spkis_of(issuers: Iterable[Issuer]) -> frozenset[bytes]:
    """The public keys (DER SPKI) of the CAs and of those above them: no inbound site may have one."""
    return frozenset(_spki(key) for issuer in issuers for key in issuer.keys_above)


def refuse_trusted(trust: Issuer, untrust: Issuer) -> None:
    """Raise MisconfiguredError where a client that trusts what stands in or above `trust` would believe `untrust`, too:
    with a key in common, or with a CA in common above them, whether its certificate is in the files or not."""
    keys = spkis_of([trust]) & spkis_of([untrust])
    names = _superiors(trust) | {trust.certificate.subject}
    if keys or names & _superiors(untrust) or untrust.certificate.subject in _superiors(trust):
        raise MisconfiguredError(
            f"forward.untrust, '{untrust.certificate.subject.rfc4514_string()}', and forward.trust, "
            f"'{trust.certificate.subject.rfc4514_string()}', are the same CA or have one in common: clients would "
            "trust servers that did not verify. Give forward.untrust a self-signed CA with a key of its own"
        )


def refuse_unfit(named: Iterable[tuple[str, Issuer]]) -> None:
    """Raise MisconfiguredError for CAs that do not go together: where who trusts one would believe an untrusted one
    (`refuse_trusted`), or two of a kind have keys of one sort. They are `named` "trust", "untrust", and with "-2"
    behind it the second of each."""
    issuers = dict(named)
    for kind in ("trust", "untrust"):
        first, second = issuers.get(kind), issuers.get(f"{kind}-2")
        if first and second and type(first.key) is type(second.key):
            sort = "RSA" if isinstance(first.key, rsa.RSAPublicKey) else "EC"
            raise MisconfiguredError(
                f"both CAs of forward.{kind} have {sort} keys; a list of two is for one with an RSA and one with an EC "
                "key, so that each client gets what it can verify"
            )
    for name, trust in issuers.items():
        for other, untrust in issuers.items():
            if name.startswith("trust") and other.startswith("untrust"):
                refuse_trusted(trust, untrust)


def _superiors(issuer: Issuer) -> set[x509.Name]:
    return {one.issuer for one in issuer.chain if one.issuer != one.subject}
