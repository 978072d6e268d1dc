"""Networks and addresses as numbers, so that a thousand networks are asked with a few look-ups. Pure.

An IPv4-mapped IPv6 address is the IPv4 address: the system connects to that (RFC 4291 section 2.5.5.2).
"""

from __future__ import annotations

import functools
import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from addons.addresses import Address, Network, faces

Number = tuple[int, int]
"""An address: the version of IP, and its bits."""

_LONGEST = 64
"""Characters of what is remembered as an address or none: clients choose them. A scope has 15 at most (IFNAMSIZ)."""
_BITS = {4: 32, 6: 128}


def network(text: str) -> Network:
    """From "10.1.0.0/16", "10.1.2.3", "fd00::/8". Raises ValueError, for one with host bits, too."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(_wrong(text, error)) from None
    if isinstance(found, IPv6Network) and found.prefixlen >= 96 and (mapped := found.network_address.ipv4_mapped):
        return IPv4Network((mapped, found.prefixlen - 96))
    return found


def _wrong(text: str, error: ValueError) -> str:
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"'{text}' is no network; write 10.1.0.0/16, an address, or fd00::/8 ({error})"
    return f"'{text}' has bits set behind its prefix; write {meant}, or the address alone"


def number(text: str) -> Number | None:
    """An address as it is met, its scope left out. None for what is none."""
    return _number(text) if len(text) <= _LONGEST else None


@functools.lru_cache(8192)
def _number(text: str) -> Number | None:
    found = _address(text)
    return (found.version, int(found)) if found else None


@functools.lru_cache(8192)
def face_numbers(text: str) -> tuple[Number, ...]:
    """`number`, and the IPv4 addresses that an IPv6 address may stand for (NAT64, 6to4, ...)."""
    found = _address(text)
    return tuple((one.version, int(one)) for one in faces(found)) if found else ()


def _address(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


class NetworkTable[Value]:
    """Values by network."""

    def __init__(self, entries: Iterable[tuple[Network, Value]]) -> None:
        tables: dict[int, dict[int, dict[int, list[Value]]]] = {4: {}, 6: {}}
        for one, value in entries:
            shift = _BITS[one.version] - one.prefixlen
            prefixes = tables[one.version].setdefault(shift, defaultdict(list))
            prefixes[int(one.network_address) >> shift].append(value)
        self._tables = {version: tuple(table.items()) for version, table in tables.items()}

    def find(self, address: Number) -> Iterator[Value]:
        """The values of each network that has the address."""
        version, bits = address
        for shift, prefixes in self._tables[version]:
            if found := prefixes.get(bits >> shift):
                yield from found


class Networks:
    """A list of networks, as one question; false where the list is empty."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises ValueError for what is no network."""
        found = [network(one) for one in texts]
        four = ipaddress.collapse_addresses(one for one in found if isinstance(one, IPv4Network))
        six = ipaddress.collapse_addresses(one for one in found if isinstance(one, IPv6Network))
        self.all: tuple[Network, ...] = (*four, *six)
        self._table = NetworkTable((one, True) for one in self.all)

    def __bool__(self) -> bool:
        return bool(self.all)

    def __contains__(self, address: Number) -> bool:
        return any(self._table.find(address))

    def covers(self, other: Network) -> bool:
        """Whether the whole network is within these."""
        return any(one.version == other.version and other.subnet_of(one) for one in self.all)  # type: ignore[arg-type]

    def touches(self, other: Network) -> bool:
        """Whether any address is in both."""
        return any(one.overlaps(other) for one in self.all if one.version == other.version)
