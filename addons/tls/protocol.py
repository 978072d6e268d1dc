"""Versions and ciphers that a TLS server of ours speaks, as an operator chooses them. No I/O, no library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Version = Literal["TLS1.2", "TLS1.3"]
Cipher = Literal["AES-256-GCM", "CHACHA20-POLY1305", "AES-128-GCM"]
Kind = Literal["RSA", "ECDSA"]


class Protocol(Struct, frozen=True):
    """Versions and ciphers. The defaults are a careful operator's: nothing without an AEAD, SHA-1 nowhere, forward
    secrecy always. The server's order decides."""

    minimum: Version = "TLS1.2"
    maximum: Version = "TLS1.3"
    ciphers: tuple[Cipher, ...] = ("AES-256-GCM", "CHACHA20-POLY1305", "AES-128-GCM")
    rsa_key_exchange: bool = False
    """Without forward secrecy, and a target of padding oracles: for clients that can nothing else."""

    def priorities(self, kinds: Sequence[Kind]) -> str:
        """GnuTLS's priority string for a server with keys of these `kinds`, in order of preference. In TLS 1.2 the key
        exchange says which certificate is meant."""
        versions = [one for one in ("TLS1.3", "TLS1.2") if self.minimum <= one <= self.maximum]
        exchanges = [f"ECDHE-{kind}" for kind in kinds]
        if "ECDHE-RSA" in exchanges:
            exchanges += ["DHE-RSA"] + ["RSA"] * self.rsa_key_exchange
        words = ["NONE", "+CTYPE-X509", "+COMP-NULL", "+AEAD", *(f"+VERS-{one}" for one in versions)]
        words += [f"+{one}" for one in (*self.ciphers, *exchanges)]
        words += ["+GROUP-X25519", "+GROUP-SECP256R1", "+GROUP-SECP384R1", "+GROUP-FFDHE2048", "+GROUP-FFDHE3072"]
        # Also what clients' certificates may be signed with; which of them our keys can make, they say themselves.
        for size in (256, 384, 512):
            words += [f"+SIGN-{family}-SHA{size}" for family in ("ECDSA", "RSA-PSS-RSAE", "RSA-PSS", "RSA")]
        words += ["+SIGN-ECDSA-SECP256R1-SHA256", "+SIGN-ECDSA-SECP384R1-SHA384", "+SIGN-EDDSA-ED25519"]
        return ":".join([*words, "%SERVER_PRECEDENCE", "%PROFILE_MEDIUM"])
