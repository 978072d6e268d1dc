"""Whose turn it is where there are only so many places: a bound for each client, one for all, and a share that shrinks
as the whole fills up. No I/O.

Made for what cannot be taken back once it has begun: look-ups of names, signatures. A client that has begun as much as
it may is in nobody's way: it has `per_client` places; from half of all places on a quarter of that, from three quarters
on one. So even if dozens of clients do it together, a client that has nothing in progress gets a place at once. Who has
used up its share waits in a line of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque


class LineFullError(Exception):
    """A client has more in progress and waiting than it may."""


class Turns:
    """The places of one event loop."""

    def __init__(self, per_client: int, places: int, line: int) -> None:
        """`places` are those of all clients together; `line` is how many may wait of one client."""
        self._per_client = per_client
        self._places = places
        self._longest = line
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

    def take_at_once(self, client: str) -> bool:
        """Give `client` a place, as `take` does, if it need not wait for one; whether it has one now."""
        if client in self._lines or not self._may_begin(client):
            return False
        self._begin(client)
        return True

    async def take(self, client: str) -> None:
        """Return when `client` has a place; it is given back with `give_back`. Raises LineFullError."""
        if self.take_at_once(client):
            return
        line = self._lines.setdefault(client, deque())
        if len(line) >= self._longest:
            raise LineFullError
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
        """What `client` had begun is over: others may begin."""
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
