"""What a leaf may be, and a template that was approved: it becomes one certificate, once. No I/O, no clock, no HSM."""

from __future__ import annotations

from asn1crypto import parser as der
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.errors import RefusedError
from hsm.schemes import Scheme

SERIAL_BITS = 159
"""RFC 5280 section 4.1.2.2 allows 20 octets, positive: 159 random bits."""


class Approved:
    """A template that passed every check, waiting for its one signature."""

    def __init__(self, draft: x509.Certificate, scheme: Scheme) -> None:
        self._draft: x509.Certificate | None = draft
        self.tbs = draft.tbs_certificate_bytes
        self.digest = scheme.digest(self.tbs)
        self.serial = draft.serial_number
        self.not_before = draft.not_valid_before_utc
        self.not_after = draft.not_valid_after_utc

    def certificate(self, signature: bytes) -> bytes:
        """The certificate (DER) with the issuer's `signature` of `tbs`, once."""
        if self._draft is None:
            raise RefusedError("this template has become a certificate already")
        _, _, _, _, content, _ = der.parse(self._draft.public_bytes(Encoding.DER))
        _, _, _, header, algorithm, _ = der.parse(content[len(self.tbs) :])
        self._draft = None
        bits = der.emit(0, 0, 3, b"\0" + signature)  # BIT STRING without unused bits
        return bytes(der.emit(0, 1, 16, self.tbs + header + algorithm + bits))  # SEQUENCE, RFC 5280 section 4.1
