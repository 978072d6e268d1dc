"""Requests that wait for a slot at a member: bounded, first come first served. One event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from hsm.errors import OverloadedError

MAX_WAITING = 1024
"""Beyond this a request is told at once that it cannot be served, instead of growing the line."""


class WaitingLine:
    """The requests for one key that found no free slot."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def wake(self) -> None:
        """Let the first look again."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                return

    async def wait(self, deadline: float, *, first: bool = False) -> None:
        """Until woken. `first` is for who was woken and found nothing: it keeps its place.

        Raises TimeoutError at `deadline` (CLOCK_MONOTONIC, seconds), OverloadedError where the line is full.
        """
        if len(self._waiting) >= MAX_WAITING and not first:
            raise OverloadedError(f"{MAX_WAITING} requests wait for the HSM already")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(place)
        else:
            self._waiting.append(place)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await place
        except BaseException:
            if place.done() and not place.cancelled():
                self.wake()  # it was woken in the same moment: the next one takes its turn
            elif place in self._waiting:
                self._waiting.remove(place)
            raise
