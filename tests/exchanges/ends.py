"""The two ends of an exchange, and what each of them saw: one stream of one connection, whatever version of HTTP."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_STUCK_S = 5.0
"""What has not come by then does not come."""
Fields = Sequence[tuple[str, str]]
_OURS_TO_SAY = {
    "host", "connection", "transfer-encoding", "keep-alive", "forwarded", "via", ":authority", ":scheme",
}  # fmt: skip
"""Fields that are each connection's own, or that say who passed the message on."""


@dataclass(frozen=True)
class Seen:
    """What came to one end."""

    what: str
    """head, interim, data, trailers, end, reset (HTTP/2), closed, broken."""
    value: Any = None
    at_s: float = field(default=0.0, compare=False)


class End(abc.ABC):
    """One end. What it is told by its peer is in `seen`, as it came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self._reader, self._writer, self.client = reader, writer, client
        self.seen: list[Seen] = []
        self._more = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await self.reads.wait()
                try:
                    data = await self._reader.read(65536)
                except OSError:
                    data = b""
                self._take(data)
                await self._flush()
                if not data:
                    return

    async def _flush(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(self._unsent())
            await self._writer.drain()

    def _saw(self, what: str, value: Any = None) -> None:
        self.seen.append(Seen(what, value, time.monotonic()))
        self._more.set()

    def fail(self, error: Exception) -> None:
        """The exchange did not come to its end."""
        self._saw("failed", type(error).__name__)

    async def until(self, what: str, times: int = 1) -> Any:
        """Wait until this has come so often. The value of the last; what ends all ends the wait, too."""
        while True:
            found = [one for one in self.seen if one.what == what]
            if len(found) >= times:
                return found[times - 1].value
            if self.seen and self.seen[-1].what in ("closed", "broken"):
                return None
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), _STUCK_S)

    async def until_bytes(self, size: int) -> None:
        """Wait until so many bytes of content have come."""
        while sum(len(one.value) for one in self.seen if one.what == "data") < size:
            if self.seen and self.seen[-1].what in ("closed", "broken", "reset", "end"):
                return
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), _STUCK_S)

    async def close(self) -> None:
        """Leave."""
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def cut(self) -> None:
        """Leave without a word."""
        self._reading.cancel()
        self._writer.transport.abort()

    @abc.abstractmethod
    def _take(self, data: bytes) -> None:
        """Bytes from the peer; none: it has gone."""

    @abc.abstractmethod
    def _unsent(self) -> bytes:
        """Bytes for the peer."""

    @abc.abstractmethod
    async def request(self, method: str, path: str, fields: Fields = (), *, ended: bool = False) -> None:
        """A request's head."""

    @abc.abstractmethod
    async def respond(self, status: int, fields: Fields = (), *, ended: bool = False) -> None:
        """An answer's head."""

    @abc.abstractmethod
    async def interim(self, status: int, fields: Fields = ()) -> None:
        """A 1xx."""

    @abc.abstractmethod
    async def data(self, content: bytes) -> None:
        """Content."""

    @abc.abstractmethod
    async def finish(self, trailers: Fields = ()) -> None:
        """The message's end."""

    @abc.abstractmethod
    async def give_up(self) -> None:
        """End the exchange before its end, as this version of HTTP does it."""


def compared(fields: Fields) -> list[tuple[str, str]]:
    """Of a head's fields those that must arrive as they were sent."""
    return [
        (name.lower(), value)
        for name, value in fields
        if name.lower() not in _OURS_TO_SAY and not name.lower().startswith("x-forwarded")
    ]


def text(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Fields as they came from a library."""
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in fields]
