"""WebSockets within bounds: what a message inflates to, what is kept of it, and how long others wait for it.

mitmproxy inflates a frame in one go, collects the whole message, compresses it again, and keeps every message until the
end; and 600 kB may inflate to 600 MB (RFC 7692 section 8 leaves the bound to us). Here a message beyond the bound ends
the connection with 1009 (RFC 6455 section 7.4.1) and inflating stops there; after each mebibyte others have their turn.
Where nobody looks at messages, frames go on as they come and nothing is kept. With a user's scripts messages are whole
and stay in the flow, as mitmproxy has them.

The frames are wsproto's, which mitmproxy brings; it has no bounds to set, so its parts are put under some.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from mitmproxy import connection, http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import websocket
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Event, Message, Ping, Pong
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode

from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.engine.backpressure import Stop
from addons.engine.onlookers import looked_at

_TURN = 1_048_576
"""Bytes after which others have their turn (compressing them takes 40 ms where they are random), and the largest frame
that is passed on as it is: servers that take no continuation frames get none below that."""
_PIECE = 1024
"""Bytes of the wire that are inflated at a time: deflate makes at most 1,032 bytes of one (RFC 1951), a mebibyte of
them all."""
_TAIL = b"\x00\x00\xff\xff"
"""What a compressed message is sent without (RFC 7692 section 7.2.2)."""


@dataclass
class EdgeTurnHook(commands.StartHook):
    """Others have their turn. Blocking: this connection goes on in the loop's next round."""

    client: connection.Client


class Turns:
    """The addon that lets others have theirs."""

    async def edge_turn(self, _client: connection.Client) -> None:
        """Go on in the loop's next round."""
        await asyncio.sleep(0)


class Deflate(PerMessageDeflate):
    """Inflates a message up to the bound and no further."""

    most: ClassVar[int] = Bounds().websocket_message_bytes
    _inflated = 0

    def finalize(self, offer: str) -> None:
        """As wsproto's. Parameters that are none leave it off: a compressed message then ends the connection."""
        with suppress(ValueError):
            super().finalize(offer)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Bytes of a frame, inflated; MESSAGE_TOO_BIG once its message has become larger than the bound."""
        if self._inbound_compressed and self._inbound_is_compressible:
            return self._inflate(data)
        return data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """What the end of a compressed message still brings forth, within the same bound."""
        if not (fin and self._inbound_compressed and self._inbound_is_compressible):
            return super().frame_inbound_complete(proto, fin)
        last = self._inflate(_TAIL)
        self._inflated, self._inbound_compressed = 0, None
        if self.server_no_context_takeover if proto.client else self.client_no_context_takeover:
            self._decompressor = None
        return last

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        assert self._decompressor is not None
        try:
            made: bytes = self._decompressor.decompress(data, self.most - self._inflated + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._inflated += len(made)
        return CloseReason.MESSAGE_TOO_BIG if self._inflated > self.most else made


class Connection(websocket.WebsocketConnection):
    """One side of a WebSocket. Its messages are counted, and its frames are whole where they have up to a mebibyte."""

    most: ClassVar[int] = Bounds().websocket_message_bytes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.too_big = False
        self._size = 0
        self._frame: list[Any] = []  # of one type, str or bytes
        self._frame_size = 0
        self.worked = 0
        """Bytes of messages that came of what was received, inflated, since somebody last asked."""
        super().__init__(*args, **kwargs)

    @property
    def deflates(self) -> bool:
        """Whether messages may be compressed."""
        return bool(self._proto.extensions)

    def events(self) -> Generator[Event, None, None]:
        """As wsproto's, a message beyond the bound being the end of the connection."""
        for event in super().events():
            if isinstance(event, Message):
                self._size += len(event.data)
                self.worked += len(event.data)
                if self._size > self.most:
                    self.too_big = True
                    yield CloseConnection(CloseReason.MESSAGE_TOO_BIG, "the message is too big")
                    return
                yield from self._framed(event)
            else:
                self.too_big |= isinstance(event, CloseConnection) and event.reason == "error in extension"
                yield event

    def _framed(self, event: Message[Any]) -> Iterator[Event]:
        """`event` with what came of its frame before, once that is complete or has a mebibyte."""
        self._frame.append(event.data)
        self._frame_size += len(event.data)
        if event.frame_finished or self._frame_size >= _TURN:
            data = type(event.data)().join(self._frame)
            self._frame, self._frame_size = [], 0
            if event.message_finished:
                self._size = 0
            yield type(event)(data=data, frame_finished=True, message_finished=event.message_finished)


class Websocket(websocket.WebsocketLayer):
    """Stands where mitmproxy's layer would."""

    watched: ClassVar[bool] = True
    """Whether somebody may look at messages."""
    _working = False

    def __init__(self, context: Context, flow: http.HTTPFlow) -> None:
        super().__init__(context, flow)
        self.whole = self.watched and looked_at("websocket_message", "websocket_end")
        """Whether somebody does: then each is collected, and all are kept."""

    def relay_messages(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Pass on what `event` brings, a piece at a time, with turns for others; meanwhile no more is read."""
        self._working, done = True, 0
        for piece in self._pieces(event):
            for command in super().relay_messages(piece) if self.whole else self._passed_on(piece):
                yield command
                if isinstance(command, commands.SendData):
                    done += len(command.data)
                if done > _TURN:
                    done = 0
                    yield from self._turn(event)
            if self._handle_event == self.done:  # it is closed: what comes behind that is for nobody
                break
            done += self._worked()
            if done > _TURN:
                done = 0
                yield from self._turn(event)
        self._working = False
        for side, name in ((self.client_ws, "client"), (self.server_ws, "server")):
            assert isinstance(side, Connection)
            if side.too_big and self._handle_event == self.done:
                detail = f"a WebSocket message of the {name} has more than {side.most} bytes"
                yield EdgeRefusedHook(EdgeRefusal(self.context.client, "oversized-message", detail))

    def _turn(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.ConnectionEvent):
            yield Stop(event.connection, lambda: not self._working)
        yield EdgeTurnHook(self.context.client)

    def _worked(self) -> int:
        done = 0
        for side in (self.client_ws, self.server_ws):
            assert isinstance(side, Connection)
            done += side.worked
            side.worked = 0
        return done

    def _pieces(self, event: events.Event) -> Iterator[events.Event]:
        if isinstance(event, events.DataReceived) and self._side(event).deflates:
            for start in range(0, len(event.data), _PIECE):
                yield events.DataReceived(event.connection, event.data[start : start + _PIECE])
        else:
            yield event

    def _side(self, event: events.ConnectionEvent) -> Connection:
        side = self.client_ws if event.connection == self.context.client else self.server_ws
        assert isinstance(side, Connection)
        return side

    def _passed_on(self, event: events.Event) -> layer.CommandGenerator[None]:
        """As mitmproxy's way, without a message that is whole: nobody is shown any."""
        if isinstance(event, websocket.WebSocketMessageInjected):
            target = self.server_ws if event.message.from_client else self.client_ws
            message = event.message
            for part in websocket.Fragmentizer([], message.type is Opcode.TEXT)(message.content):
                yield target.send2(part)
            return
        assert isinstance(event, events.ConnectionEvent)
        source = self._side(event)
        target = self.server_ws if source is self.client_ws else self.client_ws
        source.receive_data(event.data if isinstance(event, events.DataReceived) else None)
        for one in source.events():
            if isinstance(one, Message | Ping | Pong):
                yield target.send2(one)
            elif isinstance(one, CloseConnection):
                yield from self._closed(one, by_client=source is self.client_ws)
                return

    def _closed(self, event: CloseConnection, *, by_client: bool) -> layer.CommandGenerator[None]:
        """Both sides are told, and the flow's record of it is complete (RFC 6455 section 7)."""
        record = self.flow.websocket
        assert record is not None
        record.timestamp_end, record.closed_by_client = time.time(), by_client
        record.close_code, record.close_reason = event.code, event.reason
        for side in (self.server_ws, self.client_ws):
            if side.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                yield side.send2(event)
            yield commands.CloseConnection(side.conn)
        yield websocket.WebsocketEndHook(self.flow)
        self.flow.live = False
        self._handle_event = self.done
