"""How many connections and handshakes there may be, in all and of one client address. No I/O, no clock.

A client's connection needs a descriptor, and as a rule one more for its server; so clients have at most half of what a
worker may open, less a tenth or what the worker itself needs, and servers what is left of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from addons.account import account
from addons.edge.settings import Bounds

Refused = Literal["too-many-connections", "too-many-of-client", "too-many-handshakes"]

_OURS = 64
"""Descriptors: the loop's, the signer's socket, name servers', files."""


class Limits:
    """The counts of one worker."""

    def __init__(self, bounds: Bounds, descriptors: int) -> None:
        """`descriptors` is how many the worker may have open. A bound that they do not carry is lowered to what they
        do."""
        self.descriptors = max(2, min(descriptors * 9 // 10, descriptors - _OURS))
        self.most = min(bounds.connections or self.descriptors, self.descriptors // 2)
        self.lowered = bool(bounds.connections) and self.most < bounds.connections
        self.clients = 0
        self.servers = 0
        self._per_client = bounds.connections_per_client
        self._handshakes_per_client = bounds.handshakes_per_client
        self._of_client: Counter[str] = Counter()
        self._handshakes: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        """Whether the next client is turned away."""
        return self.clients >= self.most or self.clients + self.servers + 2 > self.descriptors

    def refusal(self, address: str) -> Refused | None:
        """Why one more connection from this address is one too many."""
        if self.full:
            return "too-many-connections"
        return "too-many-of-client" if self._of_client[account(address)] >= self._per_client else None

    def join(self, address: str) -> None:
        """There is one more client."""
        self.clients += 1
        self._of_client[account(address)] += 1

    def leave(self, address: str) -> None:
        """There is one less."""
        self.clients -= 1
        _less(self._of_client, account(address))

    def open_server(self) -> bool:
        """Count one more connection to a server, if there is room for it."""
        if self.clients + self.servers >= self.descriptors:
            return False
        self.servers += 1
        return True

    def close_server(self) -> None:
        """There is one less."""
        self.servers -= 1

    def begin_handshake(self, address: str) -> bool:
        """Count one more handshake in progress, if this address may have it."""
        who = account(address)
        if self._handshakes[who] >= self._handshakes_per_client:
            return False
        self._handshakes[who] += 1
        return True

    def end_handshake(self, address: str) -> None:
        """One that was counted is over."""
        _less(self._handshakes, account(address))


def _less(counts: Counter[str], who: str) -> None:
    counts[who] -= 1
    if not counts[who]:
        del counts[who]
