"""One end of an HTTP/2 connection, without I/O: bytes in and events out, messages in and bytes out (RFC 9113).

nghttp2 knows frames, HPACK, the states of streams and the rules for messages. Here are the bounds: what a header block
may inflate to, which frames cost us and not their sender, and that a window is given back when the other side of the
proxy has taken the bytes, and not when they have come.

Nothing here knows of mitmproxy; `http2_connection` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from addons.edge.http2 import nghttp2
from addons.edge.http2.body import Outgoing
from addons.edge.http2.nghttp2 import ffi
from addons.edge.http2.reception import HARD, Reception, callbacks, options, provider
from addons.edge.settings import Bounds

_FRAME_HEAD = 9


class Session(Reception):
    """One end. Every method but `close` may be called while the connection is open, from one thread."""

    def __init__(self, bounds: Bounds, *, client: bool, validate: bool = True) -> None:
        """`validate`: whether messages are held to RFC 9113 section 8; frames always are."""
        super().__init__(bounds)
        self._client = client
        self._library = nghttp2.load()
        self.failed: str | None = None
        """Why the connection cannot go on, if so."""
        self.said = (0, "")
        """Code and words of the GOAWAY that ended it; code 0: it ended as it should."""
        self.broken = False
        """Whether that is the peer's doing, and nghttp2 has no words of its own for it on the wire."""
        self._block_raw = 0
        self._leaving: list[Outgoing] = []
        self._out = ffi.new("const char **")
        self._handle = ffi.new_handle(self)
        made = ffi.new("void **")
        new = self._library.nghttp2_session_client_new2 if client else self._library.nghttp2_session_server_new2
        if new(made, callbacks(), self._handle, options(validate=validate)) != 0:
            raise MemoryError
        self._session = ffi.gc(made[0], self._library.nghttp2_session_del)
        self._start()

    def _start(self) -> None:
        bounds = self.bounds
        entries = [
            (nghttp2.INITIAL_WINDOW_SIZE, bounds.stream_window_bytes),
            (nghttp2.MAX_HEADER_LIST_SIZE, bounds.head_bytes),
            (nghttp2.ENABLE_PUSH, 0) if self._client else (nghttp2.MAX_CONCURRENT_STREAMS, bounds.http2_streams),
        ]
        self._library.nghttp2_submit_settings(
            self._session, 0, ffi.new("nghttp2_settings_entry[]", entries), len(entries)
        )
        self._library.nghttp2_session_set_local_window_size(self._session, 0, 0, bounds.connection_window_bytes)

    # What comes.

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer; `events`, `control`, `failed` and `flooded` tell what they did."""
        if self.failed is not None:
            return
        spanning = self.block
        taken = self._library.nghttp2_session_mem_recv(self._session, ffi.from_buffer("uint8_t[]", data), len(data))
        if self.flooded or taken == nghttp2.ERR_FLOODED:
            self.flooded = True
            self.terminate(nghttp2.ENHANCE_YOUR_CALM, "too much was asked for")
        elif taken < 0:
            self.failed, self.broken = nghttp2.reason(taken), True
        elif self.block is None or self.block != spanning:
            self._block_raw = 0
        else:  # CONTINUATION frames without end, which need not hold one field: from 1.61 on nghttp2 bounds them itself
            self._block_raw += len(data)
            if self._block_raw > HARD * self.bounds.head_bytes:
                self.flooded = True
                self.terminate(nghttp2.ENHANCE_YOUR_CALM, "a head without an end")

    def give_back(self, stream_id: int, size: int) -> None:
        """Let the peer send `size` bytes more of this stream, and of all: the other side has taken as many."""
        self._library.nghttp2_session_consume(self._session, stream_id, size)

    # What goes.

    def request(self, fields: Sequence[tuple[bytes, bytes]], *, ended: bool) -> int:
        """A new stream's number. It may wait for another to end; negative: no stream can be had any more."""
        if self.away:
            return nghttp2.ERR_START_STREAM_NOT_ALLOWED
        entries, number, alive = nghttp2.fields(fields)
        source = ffi.NULL if ended else provider()
        stream_id = self._library.nghttp2_submit_request(self._session, ffi.NULL, entries, number, source, ffi.NULL)
        del alive
        if stream_id > 0:
            self.streams.add(stream_id)
            self.outgoing[stream_id] = body = Outgoing()
            body.ended = body.finished = ended
        return int(stream_id)

    def respond(self, stream_id: int, fields: Sequence[tuple[bytes, bytes]], *, ended: bool) -> None:
        """The final response's head."""
        if stream_id not in self.streams or stream_id in self.outgoing:
            return
        entries, number, alive = nghttp2.fields(fields)
        self.outgoing[stream_id] = body = Outgoing()
        body.ended = body.finished = ended
        self._library.nghttp2_submit_response(
            self._session, stream_id, entries, number, ffi.NULL if ended else provider()
        )
        del alive

    def inform(self, stream_id: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """An informational response's head (RFC 9113 section 8.1)."""
        if stream_id in self.streams and stream_id not in self.outgoing:
            entries, number, alive = nghttp2.fields(fields)
            self._library.nghttp2_submit_headers(self._session, 0, stream_id, ffi.NULL, entries, number, ffi.NULL)
            del alive

    def send(self, stream_id: int, data: bytes) -> None:
        """Bytes of a message's body, behind those that wait."""
        body = self.outgoing.get(stream_id)
        if body is not None and not body.ended:
            body.add(data)
            self.backlog += len(data)
            self._resume(stream_id, body)

    def end(self, stream_id: int, trailers: Sequence[tuple[bytes, bytes]] | None = None) -> None:
        """The message is whole, with these trailers."""
        body = self.outgoing.get(stream_id)
        if body is not None and not body.ended:
            body.ended, body.trailers = True, trailers
            self._resume(stream_id, body)

    def reset(self, stream_id: int, code: int) -> None:
        """End a stream at once; what waits for it is dropped. Nothing is told of it."""
        if stream_id in self.streams:
            self.streams.discard(stream_id)
            self.drop(stream_id)
            self._library.nghttp2_submit_rst_stream(self._session, 0, stream_id, code)

    def reset_behind(self, stream_id: int, code: int) -> None:
        """As `reset`, when the last byte of the message has gone, should the peer's own not have ended by then."""
        body = self.outgoing.get(stream_id)
        if body is not None:
            if body.reset_behind is None:
                self._leaving.append(body)
            body.reset_behind = code

    def ping(self, opaque: bytes) -> None:
        """A PING with eight bytes."""
        self._library.nghttp2_submit_ping(self._session, 0, ffi.from_buffer("uint8_t[]", opaque))

    def leave(self) -> None:
        """Say that no further stream is taken; those that are open go on (RFC 9113 section 6.8)."""
        last = self._library.nghttp2_session_get_last_proc_stream_id(self._session)
        self._library.nghttp2_submit_goaway(self._session, 0, last, nghttp2.NO_ERROR, ffi.NULL, 0)

    def terminate(self, code: int, why: str) -> None:
        """Say that the connection is ended, and why; nothing is taken any more."""
        self.failed = self.failed or why
        self._library.nghttp2_session_terminate_session(self._session, code)

    def pull(self, limit: int) -> bytes:
        """What is to be sent now: whole frames, up to the one that goes beyond `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        library, session, out = self._library, self._session, self._out
        while size < limit:
            length = library.nghttp2_session_mem_send(session, out)
            if length <= 0:
                if length < 0:
                    self.failed = self.failed or nghttp2.reason(length)
                elif self._reset_left():
                    continue
                break
            parts.append(ffi.unpack(out[0], length))
            size += length
        pulled = parts[0] if len(parts) == 1 else b"".join(parts)
        if not library.nghttp2_session_want_read(session):
            self.said = parting(pulled) if pulled else self.said
            self.failed = self.failed or self.said[1] or "the connection is done with"
        return pulled

    def session_pointer(self) -> Any:
        """The pointer that nghttp2 knows this session by."""
        return self._session

    def waits(self, stream_id: int) -> int:
        """Bytes of this stream that the peer has not taken."""
        body = self.outgoing.get(stream_id)
        return 0 if body is None else body.size

    def whole(self, stream_id: int) -> bool:
        """Whether all of our message has been given, and its stream goes on."""
        body = self.outgoing.get(stream_id)
        return body is not None and body.ended

    def close(self) -> None:
        """Give its memory back."""
        if self._session is not None:
            ffi.release(self._session)
            self._session = None
            self._handle = None
            self.failed = self.failed or "closed"
            self.streams.clear()
            self.outgoing.clear()
            self.backlog = 0

    def _resume(self, stream_id: int, body: Outgoing) -> None:
        if body.deferred:
            body.deferred = False
            self._library.nghttp2_session_resume_data(self._session, stream_id)

    def _reset_left(self) -> bool:
        """Reset the streams whose message has gone and whose peer goes on sending; whether there were any."""
        if not self._leaving:
            return False
        leaving = [one for one in self.outgoing.items() if one[1].reset_behind is not None and one[1].finished]
        for stream_id, body in leaving:
            code, body.reset_behind = body.reset_behind, None
            self._leaving.remove(body)
            assert code is not None
            self.reset(stream_id, code)
        return bool(leaving)

    def drop(self, stream_id: int) -> None:
        """Forget what waits for a stream."""
        body = self.outgoing.get(stream_id)
        if body is not None and body.reset_behind is not None:
            self._leaving.remove(body)
        super().drop(stream_id)


def parting(frames: bytes) -> tuple[int, str]:
    """Code and words of the GOAWAY among whole frames (RFC 9113 section 6.8); 0 and nothing if there is none."""
    at = 0
    code, words = 0, ""
    while at + _FRAME_HEAD <= len(frames):
        length = int.from_bytes(frames[at : at + 3])
        if frames[at + 3] == nghttp2.GOAWAY:
            payload = frames[at + _FRAME_HEAD : at + _FRAME_HEAD + length]
            code = int.from_bytes(payload[4:8])
            words = payload[8:].decode(errors="replace") or (nghttp2.reason(code) if code else "")
        at += _FRAME_HEAD + length
    return code, words
