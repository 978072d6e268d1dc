"""Work of the signer's own loop, done by turns: one piece in a turn of the loop, each asker's in turn.

To build a leaf takes a third of a millisecond. A worker that sends a thousand requests at once must not have all of
them built before another worker's only one.
"""

from __future__ import annotations

import asyncio

from hsm.group.waiting_line import Asker, WaitingLine


class Turns:
    """The turns of one kind of work."""

    def __init__(self) -> None:
        self._line = WaitingLine()
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._line)

    async def take(self, asker: Asker, deadline: float) -> None:
        """Return when it is the asker's turn: what it does before it waits for anything else is its piece of work.

        Raises as `WaitingLine.wait`.
        """
        if self._taken:
            await self._line.wait(deadline, asker)
            return
        self._taken = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._taken = bool(self._line)
        if self._taken:
            self._line.wake()
            asyncio.get_running_loop().call_soon(self._next)
