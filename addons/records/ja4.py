"""JA4, the fingerprint of a TLS client, of its ClientHello: FoxIO's technical_details/JA4.md. No I/O.

JA4 itself has a BSD licence and no patent claims; others of its family (JA4S, JA4H, ...) do not, and are not here. Each
program's library, and its settings, show in it; a client that wants to look like another can.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256

_SERVER_NAME, _SIGNATURE_ALGORITHMS, _ALPN, _SUPPORTED_VERSIONS = 0, 13, 16, 43
_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}
_MOST = 99
_NOTHING = "0" * 12
_REMEMBERED = 256
"""Kinds of clients: most connections are of one that was here before."""
_USUAL = 128
"""Suites, extensions or schemes of any client that means it."""

GREASE = frozenset(0x0A0A + 0x1010 * i for i in range(16))
"""RFC 8701 section 2: values that mean nothing, and that clients sprinkle."""


def ja4(version: int, suites: Sequence[int], extensions: Mapping[int, bytes], alpn: bytes) -> str:
    """The fingerprint of a ClientHello over TCP: `version` is its legacy_version, `alpn` the first protocol that it
    offers, b"" where it offers none."""
    parts = (
        _version(version, extensions),
        tuple(sorted(one for one in suites if one not in GREASE)),
        tuple(sorted(one for one in extensions if one not in GREASE)),
        tuple(values(extensions.get(_SIGNATURE_ALGORITHMS, b""))),
        _ends(alpn),
    )
    # A hello of 64 KiB is a stranger's, and a megabyte here.
    usual = max(map(len, parts)) <= _USUAL
    return _text(*parts) if usual else _text.__wrapped__(*parts)


@functools.lru_cache(maxsize=_REMEMBERED)
def _text(version: str, ciphers: Sequence[int], kinds: Sequence[int], signatures: Sequence[int], ends: str) -> str:
    listed = _listed([one for one in kinds if one not in (_SERVER_NAME, _ALPN)])
    return (
        f"t{version}{'d' if _SERVER_NAME in kinds else 'i'}"
        f"{min(len(ciphers), _MOST):02}{min(len(kinds), _MOST):02}{ends}_{_short(_listed(ciphers))}"
        f"_{_short(f'{listed}_{_listed(signatures)}' if signatures and listed else listed)}"
    )


def values(body: bytes, length_bytes: int = 2) -> list[int]:
    """The 16-bit values of a TLS vector with a length prefix, without GREASE. One that is cut short gives what is whole
    of it."""
    count = (len(body) - length_bytes) // 2
    found = struct.unpack_from(f">{count}H", body, length_bytes) if count > 0 else ()
    return [one for one in found if one not in GREASE]


def _version(version: int, extensions: Mapping[int, bytes]) -> str:
    offered = values(extensions.get(_SUPPORTED_VERSIONS, b""), length_bytes=1)
    return _VERSIONS.get(max(offered) if offered else version, "00")


def _ends(alpn: bytes) -> str:
    if not alpn:
        return "00"
    ends = alpn[:1] + alpn[-1:]
    if ends.isalnum():
        return ends.decode()
    whole = alpn.hex()
    return whole[0] + whole[-1]


def _listed(numbers: Sequence[int]) -> str:
    return struct.pack(f">{len(numbers)}H", *numbers).hex(",", 2) if numbers else ""


def _short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12] if text else _NOTHING
