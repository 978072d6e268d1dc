"""Whether an address is this machine's: what a listener on every address can be reached by.

The kernel's routing table is asked (rtnetlink(7), RTM_GETROUTE): it knows secondary addresses, those that came since we
started, and whole networks that are local (`ip route add local`). Addresses of interfaces alone would miss the last,
and a trial bind finds every address local where net.ipv4.ip_nonlocal_bind is set, as with keepalived.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from addons.edge.connecting.destinations import Listener

_RTM_GETROUTE, _RTM_NEWROUTE, _NLM_F_REQUEST, _RTA_DST, _RTN_LOCAL = 26, 24, 1, 1, 2
_HEADER = struct.Struct("=LHHLL")  # struct nlmsghdr
_ROUTE = struct.Struct("=BBBBBBBBL")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_WAIT_S = 1.0
"""The kernel answers at once; whatever it is, the event loop must not stand still."""


def is_local(address: IPv4Address | IPv6Address) -> bool:
    """Whether a connection to `address` ends on this machine. A kernel that does not say counts as yes."""
    if address.is_loopback:
        return True
    try:
        return _route_type(address) == _RTN_LOCAL
    except OSError:
        return _has_it_as_source(address)


def _route_type(address: IPv4Address | IPv6Address) -> int:
    """The type of the route to `address` (RTN_...); 0 where there is none. Raises OSError."""
    packed = address.packed
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_WAIT_S)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body)
        answer = kernel.recv(65536)
    if _HEADER.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return 0  # an error: unreachable
    return int(_ROUTE.unpack_from(answer, _HEADER.size)[7])


def _has_it_as_source(address: IPv4Address | IPv6Address) -> bool:
    """Where netlink is not allowed: a datagram socket that is connected to a local address has that as its own."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except OSError:
        return True


def listeners(places: Iterable[tuple[str, int]]) -> Iterator[Listener]:
    """What `Destinations` has to know of listeners at these hosts and ports; an empty host is every address.

    Names are looked up: at the start of a worker, which has nobody waiting.
    """
    for host, port in places:
        if not port:
            continue  # the kernel's choice, and not known here
        if not host:
            yield Listener(None, port)
            continue
        for address in {ipaddress.ip_address(one[4][0]) for one in socket.getaddrinfo(host, port)}:
            yield Listener(None if address.is_unspecified else address, port)
