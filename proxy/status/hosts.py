"""By which names the status page may be asked for.

A page in a browser inside may have a name that its owner lets resolve to this address (DNS rebinding), and then read
what is served here as its own. It cannot forge the name that its browser sends as Host (RFC 9110 section 7.2).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from proxy.config.section import Address

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]*)?")
"""uri-host and an optional port (RFC 3986 section 3.2); the port is whatever stands in front of this address."""


class Hosts:
    """Addresses, localhost, this machine's name, the name that is listened on, and what the configuration lists."""

    def __init__(self, listen: Address, listed: Iterable[str]) -> None:
        """`listed` are [status] hosts."""
        self._names = {one.lower().rstrip(".") for one in ("localhost", socket.gethostname(), listen.host, *listed)}

    def admit(self, authority: str) -> bool:
        """Whether a Host header, or the authority of a request's target, is one of ours."""
        found = _AUTHORITY.fullmatch(authority.strip(" \t"))
        if not found:
            return False
        name = (found[1] or found[2]).lower().rstrip(".")
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
