"""Requests that wait for a slot at a member: bounded, and served by turns. One event loop.

Each asker (a worker's process) has a line of its own, first come first served; a free slot goes to the askers in turn.
So whoever floods the signer waits behind itself, and everybody else behind one request of it. Where all places are
taken, the longest line gives one up to an asker that has fewer.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque

from hsm.errors import OverloadedError

MAX_WAITING = 1024
"""Beyond this a request is told at once that it cannot be served, instead of growing the line."""

Asker = int
"""Who asks: the process id of a worker, 0 for the signer itself."""


class WaitingLine:
    """The requests for one key that found no free slot."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Asker, deque[asyncio.Future[None]]] = OrderedDict()
        """By asker, the one whose turn is next in front. None is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def askers(self) -> list[Asker]:
        """Who waits, the one whose turn it is in this line in front."""
        return list(self._waiting)

    def ahead(self, asker: Asker) -> int:
        """How many requests one more of `asker` would wait for, as far as is known now."""
        own = len(self._waiting.get(asker, ()))
        return own + sum(min(len(line), own + 1) for one, line in self._waiting.items() if one != asker)

    def wake(self, asker: Asker | None = None) -> None:
        """Let the first of the next asker look again, or of this one, whose turn it is for other reasons."""
        if asker is not None and asker in self._waiting:
            self._waiting.move_to_end(asker, last=False)
        while self._waiting:
            asker, line = self._waiting.popitem(last=False)
            first = line.popleft()
            if line:
                self._waiting[asker] = line
            if not first.done():
                first.set_result(None)
                return

    async def wait(self, deadline: float, asker: Asker = 0, *, first: bool = False) -> None:
        """Until woken. `first` is for who was woken and found nothing: it keeps its place.

        Raises TimeoutError at `deadline` (CLOCK_MONOTONIC, seconds), OverloadedError where there is no place for it, or
        where its place is given to another asker.
        """
        if not first and len(self) >= MAX_WAITING:
            self._make_room(asker)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._waiting.setdefault(asker, deque())
        if first:
            line.appendleft(place)
            self._waiting.move_to_end(asker, last=False)
        else:
            line.append(place)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await place
        except OverloadedError:
            raise
        except BaseException:
            if not place.done() or place.cancelled():
                self._leave(asker, place)
            elif place.exception() is None:
                self.wake()  # it was woken in the same moment: the next one takes its turn
            raise

    def _make_room(self, asker: Asker) -> None:
        """Take the newest place of the longest line. Raises OverloadedError where that would be the asker's own."""
        longest = max(self._waiting, key=lambda one: len(self._waiting[one]))
        if len(self._waiting[longest]) <= len(self._waiting.get(asker, ())) + 1:
            raise OverloadedError(f"{MAX_WAITING} requests wait for the HSM already")
        newest = self._waiting[longest].pop()
        if not newest.done():
            newest.set_exception(
                OverloadedError(f"{MAX_WAITING} requests wait for the HSM, most of them this worker's")
            )

    def _leave(self, asker: Asker, place: asyncio.Future[None]) -> None:
        line = self._waiting.get(asker)
        if line is not None and place in line:
            line.remove(place)
            if not line:
                del self._waiting[asker]
