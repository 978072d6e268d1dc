"""The turn to have one's sessions built anew: one member of a group has it at a time, in the order of asking.

Whoever builds new sessions beside old ones holds it: an operator's reset, a reload, keys to be looked for, a member
that replaces itself. Otherwise two members could be busy starting at once, and an HSM that two of them are partitions
of would be asked for twice the sessions. A start because a member is *down* needs no turn: there is nothing to keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """The turn of one group. Whoever holds it keeps it no longer than the member's start timeout and its drain, and
    takes no other lock before: so nobody waits in a circle."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._wanted = 0

    @property
    def free(self) -> bool:
        """Whether nobody has it or waits for it: it can be taken without waiting."""
        return not self._wanted

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for it, and hold it."""
        self._wanted += 1
        try:
            async with self._lock:
                yield
        finally:
            self._wanted -= 1
