"""The plain-HTTP origin behind the inbound sites: the same short answer to every request, one for each connection.

It is as small as an asyncio server can be, so that what is measured is the server in front of it.
"""

from __future__ import annotations

import asyncio
from typing import Self, cast

BODY = b"hello from the plain origin\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


class _Exchange(asyncio.Protocol):
    """One connection. Bodies of requests are not looked for: the bench sends GET."""

    def __init__(self) -> None:
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self._transport.write(_ANSWER)
            self._transport.close()


class PlainOrigin:
    """The server. Use it as an async context manager."""

    async def __aenter__(self) -> Self:
        """Listen on the loopback address, on a port of the kernel's choice."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(_Exchange, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Accept no more connections."""
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
