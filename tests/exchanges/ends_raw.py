"""A protocol that is not HTTP at one end of an exchange: a line that names the kind, then bytes both ways."""

from __future__ import annotations

import asyncio

from tests.exchanges.ends import End, Fields


class EndRaw(End):
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self._line: bytes | None = None if client else b""
        super().__init__(reader, writer, client=client)

    def _unsent(self) -> bytes:
        return b""

    async def _flush(self) -> None:
        """Nothing: what is said has gone, and behind the end of a direction nothing may."""

    def _take(self, data: bytes) -> None:
        if not data:
            self._saw("closed")
            return
        if self._line is not None:
            self._line += data
            line, ended, data = self._line.partition(b"\n")
            if not ended:
                return
            self._line = None
            self._saw("head", ("", line.decode(), []))
        if data:
            self._saw("data", data)

    async def request(self, method: str, path: str, fields: Fields = (), *, ended: bool = False) -> None:
        """The line."""
        del method, fields, ended
        await self.data(path.encode() + b"\n")

    async def respond(self, status: int, fields: Fields = (), *, ended: bool = False) -> None:
        """Nothing: there are no heads."""

    async def interim(self, status: int, fields: Fields = ()) -> None:
        """Nothing."""

    async def data(self, content: bytes) -> None:
        """As End says it."""
        self._writer.write(content)
        await self._writer.drain()

    async def finish(self, trailers: Fields = ()) -> None:
        """Say no more, and listen on (TCP's half-close)."""
        del trailers
        self._writer.write_eof()

    async def give_up(self) -> None:
        """The connection is cut."""
        await self.cut()
