"""HTTP/2 at one end of an exchange, by hyper-h2."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.exchanges.ends import End, Fields, compared, text
from tests.exchanges.ends1 import HOST

_STREAM = 1


class End2(End):
    """One connection, one exchange on its first stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
        self._http.initiate_connection()
        self._http.increment_flow_control_window(1 << 24)
        self._room = asyncio.Event()
        super().__init__(reader, writer, client=client)

    def _unsent(self) -> bytes:
        return self._http.data_to_send()

    def _take(self, data: bytes) -> None:
        if not data:
            self._saw("closed")
            return
        try:
            came = self._http.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._saw("broken")
            return
        for event in came:
            self._event(event)
        self._room.set()

    def _event(self, event: Any) -> None:
        match event:
            case h2.events.RequestReceived():
                fields = text(event.headers)
                named = dict(fields)
                rest = [field for field in fields if not field[0].startswith(":")]
                self._saw("head", (named[":method"], named[":path"], compared(rest)))
            case h2.events.InformationalResponseReceived():
                fields = text(event.headers)
                self._saw("interim", (int(fields[0][1]), compared(fields[1:])))
            case h2.events.ResponseReceived():
                fields = text(event.headers)
                self._saw("head", (int(fields[0][1]), compared(fields[1:])))
            case h2.events.DataReceived():
                if event.data:
                    self._saw("data", bytes(event.data))
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self._saw("trailers", compared(text(event.headers)))
            case h2.events.StreamEnded():
                self._saw("end")
            case h2.events.StreamReset():
                self._saw("reset", int(event.error_code))

    async def request(self, method: str, path: str, fields: Fields = (), *, ended: bool = False) -> None:
        """As End says it."""
        own = [(":method", method), (":scheme", "https"), (":path", path), (":authority", HOST)]
        self._http.send_headers(_STREAM, [*own, *fields], end_stream=ended)
        await self._flush()

    async def respond(self, status: int, fields: Fields = (), *, ended: bool = False) -> None:
        """As End says it."""
        self._http.send_headers(_STREAM, [(":status", str(status)), *fields], end_stream=ended)
        await self._flush()

    async def interim(self, status: int, fields: Fields = ()) -> None:
        """As End says it."""
        self._http.send_headers(_STREAM, [(":status", str(status)), *fields])
        await self._flush()

    async def data(self, content: bytes) -> None:
        """As End says it, at the pace of the peer's windows."""
        while content:
            most = min(self._http.local_flow_control_window(_STREAM), self._http.max_outbound_frame_size)
            if most <= 0:
                self._room.clear()
                await asyncio.wait_for(self._room.wait(), 20)
                continue
            self._http.send_data(_STREAM, content[:most])
            content = content[most:]
            await self._flush()

    async def finish(self, trailers: Fields = ()) -> None:
        """As End says it."""
        if trailers:
            self._http.send_headers(_STREAM, list(trailers), end_stream=True)
        else:
            self._http.end_stream(_STREAM)
        await self._flush()

    async def give_up(self) -> None:
        """The stream is reset, the connection goes on."""
        self._http.reset_stream(_STREAM, h2.errors.ErrorCodes.CANCEL)
        await self._flush()
