"""How late a machine is: what a test cannot hold a request to that only had to wait for the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

_EVERY_S = 0.01


@dataclass
class Lateness:
    """The longest that a timer of this event loop came after its time, in seconds."""

    worst_s: float = 0.0


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Watch this event loop's timers: one that is late was held up by the machine, or by what else runs on the loop."""
    seen = Lateness()

    async def look() -> None:
        while True:
            due = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            seen.worst_s = max(seen.worst_s, time.monotonic() - due)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
