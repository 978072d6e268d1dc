"""Cipher suites of TLS 1.2 towards clients and servers of the forward proxy, and servers of our own sites. No I/O.

All suites of TLS 1.3 have forward secrecy and an AEAD, and groups are OpenSSL's own: X25519MLKEM768 before all others.
"""

from __future__ import annotations

from mitmproxy.addons.tlsconfig import _default_ciphers
from mitmproxy.net.tls import INSECURE_TLS_MIN_VERSIONS, Version
from OpenSSL import SSL

from addons.tls.protocol import Suites

_MODERN = tuple(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)
"""In the order of preference that Mozilla recommends. No server of ours has parameters for DHE; others may."""
_VERSIONS = {"1.0": Version.TLS1, "1.1": Version.TLS1_1, "1.2": Version.TLS1_2, "1.3": Version.TLS1_3}
_OF_SERVERS = tuple(f"DHE-RSA-{cipher}" for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"))


def towards_clients(suites: Suites, minimum: Version) -> tuple[str, ...]:
    """What a client gets, in order of preference, as OpenSSL has it; `minimum` is the oldest version that it may speak.

    Versions before TLS 1.2 have no suite that is modern: who turns them on wants what they have.
    """
    if isinstance(suites, tuple):
        return _for(suites, minimum)
    if suites == "modern" and minimum not in INSECURE_TLS_MIN_VERSIONS:
        return _MODERN
    return tuple(one for one in _default_ciphers(minimum) if not one.startswith("DHE-"))


def towards_servers(suites: Suites, minimum: Version) -> tuple[str, ...]:
    """What a server is offered, as `towards_clients`."""
    if isinstance(suites, tuple):
        return _for(suites, minimum)
    if suites == "modern" and minimum not in INSECURE_TLS_MIN_VERSIONS:
        return _MODERN + _OF_SERVERS
    return _default_ciphers(minimum)


def of_profile(versions: str) -> tuple[Version, Version]:
    """The oldest and the newest version of a profile's "1.2-1.3", or "1.3" alone. Raises ValueError."""
    oldest, _, newest = versions.partition("-")
    try:
        found = _VERSIONS[oldest.strip()], _VERSIONS[(newest or oldest).strip()]
    except KeyError:
        found = (Version.TLS1_3, Version.TLS1)
    if found[0].value > found[1].value:
        raise ValueError(f"'{versions}' is none; write it as 1.2-1.3, or 1.3: from 1.0 to 1.3, the older one first")
    return found


def unknown(suites: Suites) -> list[str]:
    """Those of a list that OpenSSL does not have."""
    return [one for one in suites if not _is_known(one)] if isinstance(suites, tuple) else []


def _for(suites: tuple[str, ...], minimum: Version) -> tuple[str, ...]:
    return ("@SECLEVEL=0", *suites) if minimum in INSECURE_TLS_MIN_VERSIONS else suites


def _is_known(suite: str) -> bool:
    try:
        SSL.Context(SSL.TLS_METHOD).set_cipher_list(suite.encode())
    except SSL.Error:
        return False
    return True
