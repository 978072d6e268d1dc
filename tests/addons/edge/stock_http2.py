"""HTTP/2 for mitmproxy's own layer tests: our layers behind what those tests take for granted.

They compare bytes with those of hyper-h2 and hpack, and their peers leave out the SETTINGS that begin a connection (RFC
9113 section 3.4). So a peer's preface is made whole here, and what we send is spelled as those libraries spell it: the
same frames, with other bytes for the same fields, and the end of a stream in a frame of its own.
"""

from __future__ import annotations

from typing import Any

import hpack
from hyperframe.frame import DataFrame, Frame, HeadersFrame
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context

from addons.edge.http2.client import Http2Client
from addons.edge.http2.connection import Http2Connection
from addons.edge.http2.server import Http2Server
from addons.edge.refusal import EdgeRefusedHook
from addons.engine import backpressure
from addons.engine.leaving import WhenLeaving
from tests.addons.edge.wire2 import MAGIC, settings

_HEAD = 9
_SETTINGS = 4


class _Spelling:
    """One direction's bytes, spelled as hyper-h2 would."""

    def __init__(self) -> None:
        self._decoder, self._encoder = hpack.Decoder(), hpack.Encoder()
        self.swallow_ack = False

    def spell(self, data: bytes) -> bytes:
        """Whole frames."""
        out = data[: len(MAGIC)] if data.startswith(MAGIC) else b""
        data = data[len(out) :]
        while data:
            frame, length = Frame.parse_frame_header(memoryview(data[:_HEAD]))
            raw, data = data[: _HEAD + length], data[_HEAD + length :]
            if self.swallow_ack and raw == settings(ack=True):
                self.swallow_ack = False
                continue
            frame.parse_body(memoryview(raw[_HEAD:]))
            out += self._spell(frame, raw)
        return out

    def _spell(self, frame: Frame, raw: bytes) -> bytes:
        if isinstance(frame, HeadersFrame):
            frame.data = self._encoder.encode(self._decoder.decode(frame.data, raw=True))
            return frame.serialize()
        if isinstance(frame, DataFrame) and frame.data and "END_STREAM" in frame.flags:
            whole = DataFrame(frame.stream_id, frame.data).serialize()
            return whole + DataFrame(frame.stream_id, b"", flags=["END_STREAM"]).serialize()
        return raw


class _Stock(Http2Connection):
    """What the tests' peers leave out, and turns that end with each event."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)  # type: ignore[call-arg]  # of the class beside this one
        self._spelling = _Spelling()
        self._greeted = False
        self._until_taken: list[backpressure.WhenTaken] = []
        self._inner: Any = super()._handle_event
        self.__dict__["_handle_event"] = self._whole_turn

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__("_inner" if name == "_handle_event" else name, value)

    def _whole_turn(self, event: events.Event) -> layer.CommandGenerator[None]:
        waiting: list[events.Event] = [self._greeting(event)]
        while waiting:
            for command in self._inner(waiting.pop(0)):
                if isinstance(command, WhenLeaving):
                    continue
                if isinstance(command, backpressure.WhenTaken):
                    self._until_taken.append(command)
                elif isinstance(command, backpressure.EndOfTurn | backpressure.WhenDrained) or (
                    isinstance(command, commands.RequestWakeup) and not command.delay
                ):
                    waiting.append(events.Wakeup(command))
                elif isinstance(command, commands.SendData) and command.connection is self.conn:
                    command.data = self._spelling.spell(command.data)
                    if command.data:
                        yield command
                elif not self._unknown(command):
                    yield command
            for taken in [one for one in self._until_taken if not waiting and one.ready()]:
                self._until_taken.remove(taken)
                waiting.append(events.Wakeup(taken))

    def _unknown(self, command: commands.Command) -> bool:
        """Whether mitmproxy has no such thing: refusals, readers that stop, times without a request, farewells."""
        idle = isinstance(command, commands.RequestWakeup) and command.delay == self.bounds.idle_s
        return idle or isinstance(command, EdgeRefusedHook | backpressure.Stop)

    def _greeting(self, event: events.Event) -> events.Event:
        if self._greeted or not isinstance(event, events.DataReceived):
            return event
        magic = event.data[: len(MAGIC)] if event.data.startswith(MAGIC) else b""
        data = event.data[len(magic) :]
        if data and len(data) < _HEAD:
            return event
        self._greeted = True
        if data[3:4] == bytes([_SETTINGS]) and not data[4] & 1:
            return event
        self._spelling.swallow_ack = True
        return events.DataReceived(event.connection, magic + settings() + data)


class StockHttp2Server(_Stock, Http2Server):
    """Stands in for mitmproxy's Http2Server in its tests."""


class StockHttp2Client(_Stock, Http2Client):
    """Stands in for mitmproxy's Http2Client in its tests."""
