"""Versions and ciphers that we speak, as an operator chooses them. No I/O, no library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

Version = Literal["TLS1.2", "TLS1.3"]
Cipher = Literal["AES-256-GCM", "CHACHA20-POLY1305", "AES-128-GCM"]
Kind = Literal["RSA", "ECDSA"]
Suites = Literal["modern", "compatible"] | tuple[str, ...]
"""Of TLS 1.2. "modern": forward secrecy and an AEAD; "compatible": also without; or a list of OpenSSL's names."""
_SUITE = re.compile(r"(?!TLS)[A-Z0-9]+(-[A-Z0-9]+)+")


class Protocol(Struct, frozen=True):
    """Versions and ciphers. The defaults are a careful operator's: nothing without an AEAD, SHA-1 nowhere, forward
    secrecy always. The server's order decides."""

    minimum: Version = "TLS1.2"
    maximum: Version = "TLS1.3"
    ciphers: tuple[Cipher, ...] = ("AES-256-GCM", "CHACHA20-POLY1305", "AES-128-GCM")
    rsa_key_exchange: bool = False
    """Without forward secrecy, and a target of padding oracles: for clients that can nothing else."""

    def priorities(self, kinds: Sequence[Kind], *, hybrid: bool = False) -> str:
        """GnuTLS's priority string for a server with keys of these `kinds`, in order of preference. In TLS 1.2 the key
        exchange says which certificate is meant. `hybrid`: the GnuTLS at hand has X25519MLKEM768, against
        who records now and has a quantum computer later."""
        versions = [one for one in ("TLS1.3", "TLS1.2") if self.minimum <= one <= self.maximum]
        exchanges = [f"ECDHE-{kind}" for kind in kinds]
        if "ECDHE-RSA" in exchanges:
            exchanges += ["DHE-RSA"] + ["RSA"] * self.rsa_key_exchange
        words = ["NONE", "+CTYPE-X509", "+COMP-NULL", "+AEAD", *(f"+VERS-{one}" for one in versions)]
        words += [f"+{one}" for one in (*self.ciphers, *exchanges)]
        words += ["+GROUP-X25519-MLKEM768"] * hybrid
        words += ["+GROUP-X25519", "+GROUP-SECP256R1", "+GROUP-SECP384R1", "+GROUP-FFDHE2048", "+GROUP-FFDHE3072"]
        # Also what clients' certificates may be signed with; which of them our keys can make, they say themselves.
        for size in (256, 384, 512):
            words += [f"+SIGN-{family}-SHA{size}" for family in ("ECDSA", "RSA-PSS-RSAE", "RSA-PSS", "RSA")]
        words += ["+SIGN-ECDSA-SECP256R1-SHA256", "+SIGN-ECDSA-SECP384R1-SHA384", "+SIGN-EDDSA-ED25519"]
        return ":".join([*words, "%SERVER_PRECEDENCE", "%PROFILE_MEDIUM"])


def suites(given: str | Iterable[str]) -> Suites:
    """From a name, or a list of suites. Raises ValueError."""
    if given in ("modern", "compatible"):
        return given  # type: ignore[return-value]  # which of the two, mypy does not see
    listed = () if isinstance(given, str) else tuple(given)
    if not listed:
        raise ValueError(f"{given!r} is none; use modern, compatible, or a list of cipher suites")
    for one in listed:
        if not _SUITE.fullmatch(one):
            raise ValueError(
                f"'{one}' is no cipher suite of TLS 1.2 as OpenSSL writes it, such as ECDHE-RSA-AES128-GCM-SHA256; "
                "those of TLS 1.3 are always there"
            )
    return listed
