"""What an IP address is, whatever its spelling, and which others it stands for. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def faces(address: Address) -> Iterator[Address]:
    """`address` without its scope, then the IPv4 addresses that it stands for."""
    if isinstance(address, IPv4Address):
        yield address
        return
    raw = address.packed
    yield IPv6Address(raw)
    yield from map(IPv4Address, _embedded(raw))


def same_address(one: str, other: str) -> bool:
    """Whether both texts are one address, whatever their spelling and scope; an IPv4 address in IPv6 is that address.
    Raises ValueError where one is none."""
    return _plain(one) == _plain(other)


def _plain(text: str) -> Address:
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


_NAT64_LOCAL = bytes.fromhex("0064ff9b0001")
_LAST_FOUR = (
    bytes.fromhex("00000000000000000000ffff"),  # IPv4-mapped (RFC 4291 section 2.5.5.2)
    bytes.fromhex("0000000000000000ffff0000"),  # IPv4-translated (RFC 2765 section 2.1)
    bytes.fromhex("0064ff9b0000000000000000"),  # NAT64's well-known prefix (RFC 6052 section 2.1)
    bytes(12),  # IPv4-compatible (RFC 4291 section 2.5.5.1)
)


def _embedded(raw: bytes) -> Iterator[bytes]:
    if raw[:12] in _LAST_FOUR and raw[:15] != bytes(15):  # :: and ::1 are themselves
        yield raw[12:]
    elif raw[:6] == _NAT64_LOCAL:  # RFC 8215; where the four bytes stand depends on the prefix (RFC 6052 section 2.2)
        yield _in_nat64(raw)
    elif raw[:2] == b"\x20\x02":  # 6to4 (RFC 3056 section 2)
        yield raw[2:6]
    elif raw[:4] == b"\x20\x01\x00\x00":  # Teredo: its server, and the client, inverted (RFC 4380 section 4)
        yield raw[4:8]
        yield bytes(one ^ 0xFF for one in raw[12:])
    if raw[8:12] in (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe"):  # ISATAP (RFC 5214 section 6.1)
        yield raw[12:]


def _in_nat64(raw: bytes) -> bytes:
    if not any(raw[11:]):
        return raw[6:8] + raw[9:11]
    if not any(raw[12:]):
        return raw[7:8] + raw[9:12]
    if not any(raw[13:]):
        return raw[9:13]
    return raw[12:]
