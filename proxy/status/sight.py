"""What the signer told last. It is asked when somebody wants to know, and once a second at most.

A signer that hangs or is gone costs whoever asks TIMEOUT_S, and nobody anything else.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from hsm.errors import DeadlineError, HsmitmError, TryLaterError
from hsm.wire import status
from hsm.wire.channel import Channel
from hsm.wire.status import Look, Seen

FRESH_S = 1.0
TIMEOUT_S = 2.0
"""The signer answers within milliseconds; a monitor gives up after five to ten seconds."""


class Sight:
    """The signer, as the status page sees it."""

    def __init__(self, path: Path) -> None:
        """`path` is the signer's socket for this."""
        self._path = path
        self._channel: Channel[Look, Seen] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._seen: Seen | None = None
        self._why = ""
        self._fresh_until = 0.0

    async def look(self) -> Seen:
        """What it told, at most FRESH_S ago. Raises TryLaterError, in a sentence, where it tells nothing."""
        if self._asking is None and time.monotonic() >= self._fresh_until:
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            await asyncio.wait([self._asking])  # whoever leaves meanwhile does not take the answer from the others
        if self._seen is None:
            raise TryLaterError(self._why)
        return self._seen

    async def _ask(self) -> None:
        self._seen = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._seen = await self._answer(time.monotonic() + TIMEOUT_S)
        except (TimeoutError, DeadlineError):
            self._forget(f"the signer has not answered within {TIMEOUT_S:g} s")
        except OSError as error:
            self._forget(f"the signer is not there (cannot connect to {self._path}: {error.strerror or error})")
        except HsmitmError as error:
            self._forget(f"the signer does not answer: {error}")
        finally:
            self._fresh_until = time.monotonic() + FRESH_S
            self._asking = None

    async def _answer(self, deadline: float) -> Seen:
        if self._channel is None or not self._channel.connected:
            loop = asyncio.get_running_loop()
            _, self._channel = await loop.create_unix_connection(lambda: Channel(status.CODEC), str(self._path))
        return await self._channel.call(Look(), deadline)

    def _forget(self, why: str) -> None:
        self._why = why
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
