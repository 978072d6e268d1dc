"""On whose account something goes: clients are told apart by address. No I/O.

An IPv6 client commands a whole /64 (RFC 6177), so that is one client; on a link all have one (fe80::/64), so there each
address is. IPv4 in IPv6 is IPv4.
"""

from __future__ import annotations

import functools
import ipaddress

UNKNOWN = "unknown"


@functools.lru_cache(4096)
def account(host: str) -> str:
    """The account of the peer address `host`; one for all whose address cannot be read."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return UNKNOWN
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_link_local:
        return host
    return f"{ipaddress.IPv6Address(address.packed[:8] + bytes(8))}/64"
