"""A template that an issuer approved: it becomes one certificate, once, of that issuer. No I/O, no clock, no HSM."""

from __future__ import annotations

from asn1crypto import parser as der
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.errors import RefusedError
from hsm.schemes import PublicKey, Scheme

SERIAL_BITS = 159
"""RFC 5280 section 4.1.2.2 allows 20 octets, positive: 159 random bits."""


SEAL = object()
"""Held by `Issuer.approve` and `approve_ca` alone, which check what they approve."""


class Approved:
    """A template that passed every check of the issuer that approved it, waiting for its one signature.

    Made by `Issuer.approve` and `approve_ca`, and redeemed once, with a signature by that issuer's key.
    """

    def __init__(self, draft: x509.Certificate, issuer: PublicKey, scheme: Scheme, seal: object) -> None:
        """`draft` is signed with a stand-in for `issuer`. Raises TypeError without the issuers' SEAL."""
        if seal is not SEAL:
            raise TypeError("a template is approved by an issuer, which checks it, and not made by hand")
        self._draft: x509.Certificate | None = draft
        self._issuer = issuer
        self.scheme = scheme
        self.tbs = draft.tbs_certificate_bytes
        self.digest = scheme.digest(self.tbs)
        self.serial = draft.serial_number
        self.not_before = draft.not_valid_before_utc
        self.not_after = draft.not_valid_after_utc

    def certificate(self, signature: bytes, verified_with: PublicKey) -> bytes:
        """The certificate (DER), once. `signature` is of `tbs`, and was verified with the key `verified_with`.

        The keys are compared, in 2 microseconds; to verify once more would take up to a millisecond (P-384), for what
        the group has done. Raises RefusedError for a key that is not the issuer's, and the second time.
        """
        if self._draft is None:
            raise RefusedError("this template has become a certificate already")
        if verified_with != self._issuer:
            raise RefusedError("this template was approved by another issuer than the one that signed it")
        _, _, _, _, content, _ = der.parse(self._draft.public_bytes(Encoding.DER))
        _, _, _, header, algorithm, _ = der.parse(content[len(self.tbs) :])
        self._draft = None
        bits = der.emit(0, 0, 3, b"\0" + signature)  # BIT STRING without unused bits
        return bytes(der.emit(0, 1, 16, self.tbs + header + algorithm + bits))  # SEQUENCE, RFC 5280 section 4.1
