"""Who is connected to a socket, and how many may be: in all, of one user, of one process. No I/O.

A process is what the kernel says of a connection's other end (SO_PEERCRED). One that is taken over must not have all
descriptors of the end that serves: it needs some for the command line's socket, and to start a member anew.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct


class Limits(Struct, frozen=True):
    """How many connections there may be."""

    process: int
    user: int
    all: int

    def within(self, descriptors: int) -> Limits:
        """These limits, and no more than half of so many descriptors, which other sockets and members need, too."""
        most = max(4, min(self.all, descriptors // 2))
        return Limits(min(self.process, most), min(self.user, max(3, most * self.user // self.all)), most)


WORKERS = Limits(process=16, user=384, all=512)
"""A worker has one connection, and there are up to 256 workers; one that is made for each call is there for a moment
longer than the call. Users are few: workers' own, ours, root."""
COMMANDS = Limits(process=16, user=48, all=64)
"""Of the command line and whoever shows a status: our own user, and root, who finds room when the other has none."""

MONITORS = Limits(process=8, user=12, all=16)
"""Of status pages: one, another one while it is replaced, and who looks at the socket by hand."""


class Census:
    """The connections of one socket, or of several that share the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._processes: Counter[int] = Counter()
        self._users: Counter[int] = Counter()

    def full(self, process: int, user: int) -> str:
        """Why one more connection of this process is one too many; empty where it is not."""
        limits = self._limits
        if self._processes[process] >= limits.process:
            return f"it has {limits.process} connections already"
        if self._users[user] >= limits.user:
            return f"its user has {limits.user} connections already"
        return f"there are {limits.all} connections already" if self._users.total() >= limits.all else ""

    def join(self, process: int, user: int) -> None:
        """There is one more."""
        self._processes[process] += 1
        self._users[user] += 1

    def leave(self, process: int, user: int) -> None:
        """There is one less."""
        for counts, one in ((self._processes, process), (self._users, user)):
            counts[one] -= 1
            if not counts[one]:
                del counts[one]
