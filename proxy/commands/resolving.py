"""Where a host is, asked of this machine's resolver for an operator, and whether clients are kept away from there."""

from __future__ import annotations

import ipaddress
import queue
import threading
from collections.abc import Sequence

from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.resolver import system_lookup
from addons.edge.connecting.this_machine import is_local, listeners
from proxy.config.section import Address
from proxy.config.worker import WorkerConfig

LOOKUP_S = 5.0
"""So long a name server may take."""


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def resolved(host: str) -> tuple[tuple[str, ...], str]:
    """What this machine's resolver says, and why it says nothing. On a thread: getaddrinfo(3) knows no time limit."""
    if is_address(host):
        return (host,), ""
    answer: queue.SimpleQueue[tuple[tuple[str, ...], str]] = queue.SimpleQueue()

    def look() -> None:
        try:
            answer.put((tuple(str(one[1][0]) for one in system_lookup(host)), ""))
        except (OSError, UnicodeError) as error:
            answer.put(((), f"{host} has no address: {getattr(error, 'strerror', None) or error}"))

    threading.Thread(target=look, daemon=True).start()
    try:
        return answer.get(timeout=LOOKUP_S)
    except queue.Empty:
        return (), f"no name server has answered for {host} within {LOOKUP_S:g} s"


def denied(config: WorkerConfig, addresses: Sequence[str], port: int) -> str:
    """The entry of deny_destinations that keeps clients away from all of the addresses; "" where nothing does."""
    section = config.proxy
    ours = [Address.parse(section.listen), config.status_listen]
    places = listeners((one.host, one.port) for one in ours if one)
    destinations = Destinations(section.deny_destinations, section.allow_destinations, tuple(places), is_local)
    entries = [destinations.denied_by(ipaddress.ip_address(one.partition("%")[0]), port) for one in addresses]
    return entries[-1] or "" if entries and all(entries) else ""
