"""What nghttp2 calls back with, gathered as events and counted against the bounds."""

from __future__ import annotations

import functools
from typing import Any

from addons.edge.http2 import nghttp2
from addons.edge.http2.body import Outgoing
from addons.edge.http2.events import (
    Body,
    Ended,
    Event,
    Fields,
    GoAway,
    Head,
    Ignored,
    Invalid,
    Oversized,
    Reset,
    Settings,
)
from addons.edge.http2.nghttp2 import ffi
from addons.edge.settings import Bounds

HARD = 4
"""How far beyond its bounds a header block is read on, so that it can be answered, before the connection is ended."""
_CREDIT_PER_FRAME = 10
"""WINDOW_UPDATE and PING frames that a DATA frame of ours may bring about: some clients send two for each, and gRPC
measures round trips by PING. (Envoy allows as many.)"""
_CREDIT_PER_STREAM = 2
_CREDIT_MAX = 10_000
_OVERHEAD = 4
"""What a field takes in HTTP/1 beside its name and value, so that a head has one size in both."""
_MAX_REASON = 300
_SEND_HEADS_UP_TO = 16_777_216
"""What a script makes of a head is its own affair."""


class Reception:
    """What one end of a connection has been told, and what of it was not asked for."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.events: list[Event] = []
        """What has come about since this was last emptied; sending may bring about some, too."""
        self.streams: set[int] = set()
        """Which are open, at this end or the other."""
        self.control = 0
        """Frames that cost us and not their sender, since this was last set to 0."""
        self.flooded = False
        self.away = False
        """The peer takes no further streams."""
        self.outgoing: dict[int, Outgoing] = {}
        self.backlog = 0
        """Bytes of bodies that the peer's windows hold back."""
        self.why = ""
        """What nghttp2 found wrong last."""
        self._answered: set[int] = set()
        """The streams whose next header block is trailers. (A server's final response may be its third block.)"""
        self.block: int | None = None
        """The stream whose header block is being read."""
        self._fields: Fields = []
        self._left = 0
        self._trailers = False
        self._in_data = False
        self._credit = 100

    def begin(self, frame: Any) -> int:
        """A header block begins."""
        self.block = frame.hd.stream_id
        self._fields = []
        category = frame.headers.cat
        self._trailers = self.block in self._answered
        self._left = self.bounds.trailer_bytes if self._trailers else self.bounds.head_bytes
        if category == nghttp2.HCAT_REQUEST:
            self.streams.add(self.block)
            self._credit = min(self._credit + _CREDIT_PER_STREAM, _CREDIT_MAX)
        return 0

    def header(self, name: bytes, value: bytes) -> int:
        """A field of the block. Beyond the bounds no more are kept, and far beyond them nothing is read."""
        size = len(name) + len(value)
        fields = self._fields
        fields.append((name, value))
        self._left -= size + _OVERHEAD
        if self._left < 0 or size > self.bounds.field_bytes or len(fields) > self.bounds.fields:
            return self._beyond(size)
        return 0

    def _beyond(self, size: int) -> int:
        bounds = self.bounds
        if size > bounds.field_bytes or len(self._fields) > bounds.fields:
            self._left = min(self._left, -1)
        if self._left < -HARD * bounds.head_bytes or len(self._fields) > HARD * bounds.fields:
            self.flooded = True
            return nghttp2.ERR_PAUSE
        name, value = self._fields[-1]
        if len(value) > _MAX_REASON:
            self._fields[-1] = (name, value[:_MAX_REASON])
        return 0

    def frame(self, frame: Any) -> int:
        """A frame is whole, and valid."""
        head = frame.hd
        kind = head.type
        if kind == nghttp2.DATA:
            if head.flags & nghttp2.FLAG_END_STREAM:
                self.events.append(Ended(head.stream_id))
            elif not self._in_data:
                self.control += 1
                self.events.append(Body(head.stream_id, [b""]))
            self._in_data = False
        elif kind == nghttp2.HEADERS:
            self._head(head.stream_id, ended=bool(head.flags & nghttp2.FLAG_END_STREAM))
        elif kind in (nghttp2.WINDOW_UPDATE, nghttp2.PING):
            if self._credit:
                self._credit -= 1
            else:
                self.control += 1
        else:
            self._control(kind, frame)
        return 0

    def _control(self, kind: int, frame: Any) -> None:
        """A frame that is neither a message's nor one that is needed often."""
        head = frame.hd
        self.control += 1
        if kind == nghttp2.RST_STREAM:
            self.streams.discard(head.stream_id)
            self.events.append(Reset(head.stream_id, frame.rst_stream.error_code, by_peer=True))
        elif kind == nghttp2.SETTINGS:
            if not head.flags & nghttp2.FLAG_ACK:
                self.events.append(Settings())
        elif kind == nghttp2.GOAWAY:
            self.away = True
            away = frame.goaway
            detail = ffi.unpack(away.opaque_data, min(away.opaque_data_len, _MAX_REASON)) if away.opaque_data else b""
            self.events.append(GoAway(away.last_stream_id, away.error_code, detail))
        elif kind == nghttp2.ALTSVC:
            self.events.append(Ignored("Alt-Svc"))

    def _head(self, stream_id: int, *, ended: bool) -> None:
        fields, self._fields, self.block = self._fields, [], None
        if self._left < 0:
            what = "trailers" if self._trailers else "head"
            self.events.append(Oversized(stream_id, what, fields[: self.bounds.fields], ended))  # type: ignore[arg-type]
        else:
            if fields and fields[0][0] == b":status" and fields[0][1][:1] == b"1":
                self.control += 1  # an interim answer, of which there may be any number
            elif not self._trailers:
                self._answered.add(stream_id)
            self.events.append(Head(stream_id, fields, ended, self._trailers))
        if ended:
            self.events.append(Ended(stream_id))

    def data(self, stream_id: int, data: bytes) -> int:
        """Bytes of a body; what follows each other in one read becomes one event."""
        self._in_data = True
        events = self.events
        if events and type(last := events[-1]) is Body and last.stream_id == stream_id:
            last.chunks.append(data)
        else:
            events.append(Body(stream_id, [data]))
        return 0

    def invalid(self, frame: Any, error: int) -> int:
        """A frame that breaks its stream, or that asks for a stream too many. It costs as a reset: it is one."""
        self.control += 1
        self._fields, self.block = [], None
        self.streams.discard(frame.hd.stream_id)
        code = nghttp2.REFUSED_STREAM if error == nghttp2.ERR_REFUSED_STREAM else nghttp2.PROTOCOL_ERROR
        self.events.append(Invalid(frame.hd.stream_id, code, self.why or nghttp2.reason(error)))
        self.why = ""
        return 0

    def closed(self, stream_id: int, code: int) -> int:
        """A stream is gone, from both sides or by a reset."""
        self._answered.discard(stream_id)
        self.drop(stream_id)
        if stream_id in self.streams:  # else it has been told, or it was reset by ourselves
            self.streams.discard(stream_id)
            if code != nghttp2.NO_ERROR:
                self.control += code != nghttp2.REFUSED_STREAM  # who has us send resets has sent them
                self.events.append(Reset(stream_id, code, by_peer=False))
        return 0

    def drop(self, stream_id: int) -> None:
        """Forget what waits for a stream."""
        body = self.outgoing.pop(stream_id, None)
        if body is not None:
            self.backlog -= body.drop()

    def told(self, message: bytes) -> int:
        """nghttp2's own words for what is wrong."""
        self.why = message.decode("latin-1")
        return 0

    def fill(self, stream_id: int, memory: Any, room: int, flags: Any) -> int:
        """Give nghttp2 bytes of a body."""
        body = self.outgoing.get(stream_id)
        if body is None:
            return nghttp2.ERR_TEMPORAL
        before = body.size
        length = body.fill(memory, room, flags)
        self.backlog -= before - body.size
        if length >= 0 and self._credit < _CREDIT_MAX:
            self._credit += _CREDIT_PER_FRAME
        if body.finished and body.trailers is not None:
            entries, number, alive = nghttp2.fields(body.trailers)
            nghttp2.load().nghttp2_submit_trailer(self.session_pointer(), stream_id, entries, number)
            del alive
        return length

    def session_pointer(self) -> Any:
        """The pointer that nghttp2 knows this session by."""
        raise NotImplementedError


def _of(handle: Any) -> Reception:
    reception: Reception = ffi.from_handle(handle)
    return reception


@nghttp2.callback("nghttp2_on_begin_headers_callback", error=nghttp2.ERR_CALLBACK)
def _begin(_session: Any, frame: Any, handle: Any) -> int:
    return _of(handle).begin(frame)


@nghttp2.callback("nghttp2_on_header_callback", error=nghttp2.ERR_CALLBACK)
def _header(
    _session: Any, _frame: Any, name: Any, namelen: int, value: Any, valuelen: int, _flags: int, handle: Any
) -> int:
    return _of(handle).header(ffi.unpack(name, namelen), ffi.unpack(value, valuelen))


@nghttp2.callback("nghttp2_on_invalid_header_callback", error=nghttp2.ERR_CALLBACK)
def _invalid_header(_session: Any, _frame: Any, *_: Any) -> int:
    return nghttp2.ERR_TEMPORAL  # without this, the field alone would be left out, and the rest be believed


@nghttp2.callback("nghttp2_on_frame_recv_callback", error=nghttp2.ERR_CALLBACK)
def _frame(_session: Any, frame: Any, handle: Any) -> int:
    return _of(handle).frame(frame)


@nghttp2.callback("nghttp2_on_data_chunk_recv_callback", error=nghttp2.ERR_CALLBACK)
def _data(_session: Any, _flags: int, stream_id: int, data: Any, length: int, handle: Any) -> int:
    return _of(handle).data(stream_id, ffi.unpack(data, length))


@nghttp2.callback("nghttp2_on_invalid_frame_recv_callback", error=nghttp2.ERR_CALLBACK)
def _invalid(_session: Any, frame: Any, code: int, handle: Any) -> int:
    return _of(handle).invalid(frame, code)


@nghttp2.callback("nghttp2_on_stream_close_callback", error=nghttp2.ERR_CALLBACK)
def _closed(_session: Any, stream_id: int, code: int, handle: Any) -> int:
    return _of(handle).closed(stream_id, code)


@nghttp2.callback("nghttp2_error_callback2", error=nghttp2.ERR_CALLBACK)
def _told(_session: Any, _code: int, message: Any, length: int, handle: Any) -> int:
    return _of(handle).told(ffi.unpack(message, min(length, _MAX_REASON)))


@nghttp2.callback("nghttp2_data_source_read_callback", error=nghttp2.ERR_CALLBACK)
def _read(_session: Any, stream_id: int, memory: Any, room: int, flags: Any, _source: Any, handle: Any) -> int:
    return _of(handle).fill(stream_id, memory, room, flags)


@functools.cache
def callbacks() -> Any:
    """A `nghttp2_session_callbacks *`, the same for every session."""
    library = nghttp2.load()
    made = ffi.new("void **")
    if library.nghttp2_session_callbacks_new(made) != 0:
        raise MemoryError
    library.nghttp2_session_callbacks_set_on_begin_headers_callback(made[0], _begin())
    library.nghttp2_session_callbacks_set_on_header_callback(made[0], _header())
    library.nghttp2_session_callbacks_set_on_invalid_header_callback(made[0], _invalid_header())
    library.nghttp2_session_callbacks_set_on_frame_recv_callback(made[0], _frame())
    library.nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made[0], _data())
    library.nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(made[0], _invalid())
    library.nghttp2_session_callbacks_set_on_stream_close_callback(made[0], _closed())
    library.nghttp2_session_callbacks_set_error_callback2(made[0], _told())
    return made[0]


@functools.cache
def options(*, validate: bool) -> Any:
    """A `nghttp2_option *`, the same for every session."""
    library = nghttp2.load()
    made = ffi.new("void **")
    if library.nghttp2_option_new(made) != 0:
        raise MemoryError
    library.nghttp2_option_set_no_auto_window_update(made[0], 1)
    library.nghttp2_option_set_peer_max_concurrent_streams(made[0], 2**31 - 1)
    library.nghttp2_option_set_no_closed_streams(made[0], 1)
    library.nghttp2_option_set_max_send_header_block_length(made[0], _SEND_HEADS_UP_TO)
    library.nghttp2_option_set_builtin_recv_extension_type(made[0], nghttp2.ALTSVC)
    if not validate:
        library.nghttp2_option_set_no_http_messaging(made[0], 1)
    return made[0]


@functools.cache
def provider() -> Any:
    """A `nghttp2_data_provider *` that reads from the session's outgoing bodies."""
    return ffi.new("nghttp2_data_provider *", {"read_callback": _read()})
