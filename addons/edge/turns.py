"""Whose name look-up is next: a bound for each client, one for all, and a share that shrinks as the whole fills up.

A look-up cannot be taken back (`resolver`), so a client whose names are never answered keeps its places for as long as
the name servers' patience lasts. It is in nobody's way: one client has `per_client` places; from half of all places
on a quarter of that, from three quarters on one. So even if dozens of clients do it together, a client that has no
look-up in progress gets a place at once. Who has used up its share waits in a line of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque

_WAITING = 4
"""Look-ups that wait, for each that a client may have in progress."""


class TooManyLookupsError(OSError):
    """A client has more look-ups in progress and waiting than it may."""


class Turns:
    """The places for look-ups of one event loop."""

    def __init__(self, per_client: int, places: int) -> None:
        """`places` are those of all clients together."""
        self._per_client = per_client
        self._places = places
        self._taken: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.in_progress = 0

    def _share(self) -> int:
        if self.in_progress < self._places // 2:
            return self._per_client
        if self.in_progress < self._places * 3 // 4:
            return max(1, self._per_client // 4)
        return 1 if self.in_progress < self._places else 0

    def _may_begin(self, client: str) -> bool:
        return self._taken[client] < self._share()

    async def take(self, client: str) -> None:
        """Return when `client` has a place; it is given back with `give_back`. Raises TooManyLookupsError where the
        client's line is full."""
        if client not in self._lines and self._may_begin(client):
            self._begin(client)
            return
        line = self._lines.setdefault(client, deque())
        if len(line) >= _WAITING * self._per_client:
            raise TooManyLookupsError("this client has too many name look-ups in progress; try again later")
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was our turn already
                self.give_back(client)
            else:
                self._leave(client, turn)
            raise

    def give_back(self, client: str) -> None:
        """A look-up of `client` is over: others may begin."""
        self.in_progress -= 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
        self._go_on()

    def _begin(self, client: str) -> None:
        self.in_progress += 1
        self._taken[client] += 1

    def _go_on(self) -> None:
        """Let those begin who may, one of each client in turn."""
        begun = True
        while begun:
            begun = False
            for client in list(self._lines):
                if self.in_progress >= self._places:
                    return
                if self._may_begin(client):
                    begun = True
                    self._begin(client)
                    line = self._lines[client]
                    line.popleft().set_result(None)
                    self._lines.move_to_end(client)
                    if not line:
                        del self._lines[client]

    def _leave(self, client: str, turn: asyncio.Future[None]) -> None:
        line = self._lines[client]
        line.remove(turn)
        if not line:
            del self._lines[client]
