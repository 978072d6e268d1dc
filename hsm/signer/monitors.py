"""The status page's process, as far as the signer is concerned: few connections, seldom answered.

It stands beside the network, so that whatever becomes of it must not cost a signature: who is admitted here can have
two answers a second on each of four connections; what it does not read ends its connection (`hsm.wire.pressure`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hsm.errors import TryLaterError
from hsm.wire import status
from hsm.wire.channel import Channel
from hsm.wire.frames import Call
from hsm.wire.status import Look, Seen

logger = logging.getLogger("hsmitm.signer")

MonitorChannel = Channel[Look, Seen]

MAX_CONNECTIONS = 4
"""One for the status page; one more while it is replaced; and who looks at the socket by hand."""
EVERY_S = 0.5
"""The page asks once a second at most."""


class Monitors:
    """Every connection on the status page's socket."""

    def __init__(self, look: Callable[[], Seen]) -> None:
        """`look` makes an answer; it is called twice a second at most."""
        self._look = look
        self._answered: dict[MonitorChannel, float] = {}
        """When each connection may have its next answer, the oldest connection first."""
        self._seen: Seen | None = None
        self._fresh_until = 0.0

    def join(self, pid: int) -> MonitorChannel:
        """A process has connected; the oldest connection makes room for it where there are too many."""
        channel = MonitorChannel(status.CODEC, self._serve, self._leave)
        if len(self._answered) >= MAX_CONNECTIONS:
            logger.warning(
                "more than %d connections of status pages (pid %d): closing the oldest", MAX_CONNECTIONS, pid
            )
            oldest = next(iter(self._answered))
            del self._answered[oldest]
            oldest.close()
        self._answered[channel] = 0.0
        return channel

    def _leave(self, channel: MonitorChannel) -> None:
        self._answered.pop(channel, None)

    def close(self) -> None:
        """End their connections: the signer leaves."""
        for channel in self._answered:
            channel.close()

    async def _serve(self, channel: MonitorChannel, call: Call[Look]) -> Seen:
        now = time.monotonic()
        if now < self._answered.get(channel, now + 1):
            raise TryLaterError(f"asked again within {EVERY_S} s")
        self._answered[channel] = now + EVERY_S
        if self._seen is None or now >= self._fresh_until:
            self._seen, self._fresh_until = self._look(), now + EVERY_S
        return self._seen
