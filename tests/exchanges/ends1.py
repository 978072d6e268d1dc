"""HTTP/1.1 at one end of an exchange, by h11."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, TextMessage

from tests.exchanges.ends import End, Fields, compared, text

HOST = "exchange.test"
_SWITCHING = 101


class End1(End):
    """One connection, one exchange."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self._http = h11.Connection(h11.CLIENT if client else h11.SERVER)
        self._out = b""
        self._websocket: Connection | None = None
        super().__init__(reader, writer, client=client)

    def _unsent(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def _take(self, data: bytes) -> None:
        if self._websocket is not None:
            self._take_frames(data)
            return
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                    break
                self._event(event)
        except h11.RemoteProtocolError:
            self._saw("broken")
            return
        if not data:
            self._saw("closed")

    def _event(self, event: Any) -> None:
        match event:
            case h11.Request():
                fields = compared(text(event.headers.raw_items()))
                self._saw("head", (event.method.decode(), event.target.decode(), fields))
            case h11.InformationalResponse() if event.status_code == _SWITCHING:
                self._saw("head", (_SWITCHING, []))
                self._switch()
            case h11.InformationalResponse():
                self._saw("interim", (event.status_code, compared(text(event.headers.raw_items()))))
            case h11.Response():
                self._saw("head", (event.status_code, compared(text(event.headers.raw_items()))))
            case h11.Data():
                self._saw("data", bytes(event.data))
            case h11.EndOfMessage():
                if event.headers:
                    self._saw("trailers", compared(text(event.headers.raw_items())))
                self._saw("end")

    def _switch(self) -> None:
        self._websocket = Connection(ConnectionType.CLIENT if self.client else ConnectionType.SERVER)

    def _take_frames(self, data: bytes) -> None:
        assert self._websocket is not None
        if not data:
            self._saw("closed")
            return
        self._websocket.receive_data(data)
        for event in self._websocket.events():
            match event:
                case TextMessage() | BytesMessage():
                    self._saw("message", (event.data, event.message_finished))
                case CloseConnection():
                    self._saw("end", event.code)

    async def say(self, message: str | bytes) -> None:
        """A WebSocket's message."""
        await self._say(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def leave(self, code: int) -> None:
        """End the WebSocket."""
        await self._say(CloseConnection(code))

    async def _say(self, event: Event) -> None:
        assert self._websocket is not None
        self._out += self._websocket.send(event)
        await self._flush()

    async def _send(self, event: Any) -> None:
        self._out += self._http.send(event) or b""
        await self._flush()

    async def request(self, method: str, path: str, fields: Fields = (), *, ended: bool = False) -> None:
        """As End says it. Without a length, content is in chunks."""
        own = [("Host", HOST)]
        if not ended and "upgrade" not in dict(fields) and "content-length" not in dict(fields):
            own.append(("Transfer-Encoding", "chunked"))
        await self._send(h11.Request(method=method, target=path, headers=[*own, *fields]))
        if ended:
            await self._send(h11.EndOfMessage())

    async def respond(self, status: int, fields: Fields = (), *, ended: bool = False) -> None:
        """As End says it."""
        framed = ended or "content-length" in dict(fields) or "connection" in dict(fields)
        own = [] if framed else [("Transfer-Encoding", "chunked")]
        await self._send(h11.Response(status_code=status, headers=[*fields, *own], reason=b"Whatever"))
        if ended:
            await self._send(h11.EndOfMessage())

    async def interim(self, status: int, fields: Fields = ()) -> None:
        """As End says it."""
        await self._send(h11.InformationalResponse(status_code=status, headers=list(fields), reason=b"Whatever"))
        if status == _SWITCHING:
            self._switch()

    async def data(self, content: bytes) -> None:
        """As End says it."""
        await self._send(h11.Data(content))

    async def finish(self, trailers: Fields = ()) -> None:
        """As End says it."""
        await self._send(h11.EndOfMessage(headers=list(trailers)))

    async def give_up(self) -> None:
        """The connection is cut."""
        await self.cut()
