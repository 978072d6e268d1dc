"""Which names a leaf carries. No I/O.

The host that the client asked for comes first (it becomes the common name, which people read); where a wildcard of the
upstream certificate stands for it, that wildcard, so that one signature serves every host of it. Behind it come the
certificate's other names. Those of a certificate that did not verify are never copied: only what the client asked for
is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import suppress

from cryptography import x509
from mitmproxy.certs import Cert

from hsm import names

_REMEMBERED = 512
"""Servers' certificates whose names are known: each new connection shows one again."""


def requested_host(sni: str | None, server_host: str | None, local_address: str) -> str:
    """What the client asked for: its SNI; without one the CONNECT host or original destination; else our own address.

    An SNI that is no host name counts as none. Raises ValueError where nothing is left that a certificate can carry.
    """
    for candidate in (sni, server_host):
        if candidate:
            with suppress(ValueError):
                return names.to_ascii(candidate)
    return names.to_ascii(local_address)


def leaf_names(host: str, upstream: Cert | None) -> tuple[str, ...]:
    """Names for a leaf that must be valid for `host` (checked); `upstream` is the server's certificate if it verified.

    Behind the first the order is canonical: hosts that one wildcard stands for share a leaf.
    """
    found = _names_of(upstream.to_cryptography()) if upstream is not None else []
    if len(found) > names.MAX_NAMES:
        # A shared certificate of a large host: keep what covers this host, in order not to send kilobytes of others.
        found = [name for name in found if names.covers(name, host)][: names.MAX_NAMES]
    if not any(names.covers(name, host) for name in found):
        return (host, *sorted(set(found))[: names.MAX_NAMES - 1])
    first = host if host in found else next(name for name in found if names.covers(name, host))
    return (first, *sorted(set(found) - {first}))


@functools.lru_cache(_REMEMBERED)
def _names_of(read: x509.Certificate) -> Sequence[str]:
    """DNS names and addresses of a certificate, those that a leaf may carry. A lone common name counts (RFC 2818)."""
    certificate, found = Cert(read), []
    try:
        alternative = [one for one in certificate.altnames if isinstance(one, x509.DNSName | x509.IPAddress)]
    except (ValueError, x509.DuplicateExtension):
        return []  # one entry that cannot be read spoils the list; OpenSSL has verified the host by another
    for entry in alternative:
        with suppress(ValueError):
            found.append(names.check_leaf(str(entry.value)))
    if not found and certificate.cn:
        with suppress(ValueError):
            found.append(names.check_leaf(names.to_ascii(certificate.cn)))
    return found
