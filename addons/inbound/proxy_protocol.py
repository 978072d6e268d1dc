"""The header of the PROXY protocol, version 2: what a server is told of a connection before its first byte. No I/O.

Own code, as it is one struct; the library (proxy-protocol) brings servers and a parser. The text that it follows:
https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, section 2.2.
"""

from __future__ import annotations

import ipaddress
import struct

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_TCP = {4: 0x11, 6: 0x21}


def header(client: tuple[str, int], reached: tuple[str, int]) -> bytes:
    """28 bytes for IPv4, 52 for IPv6: the client's address and port, and those that it has connected to. Where one of
    the two is IPv6, both are."""
    source, destination = (ipaddress.ip_address(one[0].partition("%")[0]) for one in (client, reached))
    version = max(source.version, destination.version)
    packed = _packed(source, version) + _packed(destination, version) + struct.pack(">HH", client[1], reached[1])
    return _SIGNATURE + struct.pack(">BBH", _VERSION_2_PROXY, _TCP[version], len(packed)) + packed


def _packed(address: ipaddress.IPv4Address | ipaddress.IPv6Address, version: int) -> bytes:
    """RFC 4291 section 2.5.5.2, where an IPv4 address stands for an IPv6 one."""
    return address.packed if address.version == version else bytes(10) + b"\xff\xff" + address.packed
