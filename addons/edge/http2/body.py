"""A message's body on its way out: what a peer's window has not let through yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from addons.edge.http2 import nghttp2


class Outgoing:
    """One stream's. Bytes go in as they come and out as frames are made of them."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._offset = 0
        self.size = 0
        """Bytes that wait."""
        self.ended = False
        self.trailers: Sequence[tuple[bytes, bytes]] | None = None
        self.deferred = False
        """nghttp2 was told that nothing is there; it has to be told when there is."""
        self.finished = False
        """The last frame has been made."""
        self.reset_behind: int | None = None
        """With which code the stream is reset as soon as that frame has gone: nobody reads the rest of the request."""

    def add(self, data: bytes) -> None:
        """Behind what is there. An empty chunk becomes an empty frame."""
        self._chunks.append(data)
        self.size += len(data)

    def fill(self, memory: Any, room: int, flags: Any) -> int:
        """Put up to `room` bytes into `memory`: how many, or nghttp2's 'later'. `flags` say when it is all."""
        done = 0
        chunks = self._chunks
        while chunks and done < room:
            chunk = chunks[0]
            length = min(len(chunk) - self._offset, room - done)
            if not chunk and done:
                break  # a frame of its own
            nghttp2.ffi.memmove(memory + done, memoryview(chunk)[self._offset : self._offset + length], length)
            done += length
            if self._offset + length < len(chunk):
                self._offset += length
                break
            chunks.popleft()
            self._offset = 0
            if not chunk:
                break
        else:
            if not done and not self.ended and room:
                self.deferred = True
                return nghttp2.ERR_DEFERRED
        self.size -= done
        if self.ended and not chunks:
            self.finished = True
            flags[0] = nghttp2.DATA_EOF | (nghttp2.DATA_NO_END_STREAM if self.trailers is not None else 0)
        return done

    def drop(self) -> int:
        """Forget what waits; how many bytes that was."""
        dropped, self.size = self.size, 0
        self._chunks.clear()
        return dropped
