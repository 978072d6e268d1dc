"""HTTP/2 as attackers write it (RFC 9113, RFC 7541): frames by hand, for no library would send these."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW_SIZE = 4
_KEPT = 1 << 16
_LIMIT_S, _PIECE = 20.0, 16384
_NOT_NOW = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)
_ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
)  # fmt: skip


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def field(name: bytes, value: bytes) -> bytes:
    """A literal field without indexing, both below 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(host: str, *, path: bytes = b"/", method: bytes = b"GET", extra: bytes = b"") -> bytes:
    """The block of a request's fields."""
    start = b"\x82" if method == b"GET" else field(b":method", method)
    where = b"\x84" if path == b"/" else field(b":path", path)
    return start + b"\x87" + where + field(b":authority", host.encode()) + extra


def setting(number: int, value: int) -> bytes:
    """One parameter of a SETTINGS frame."""
    return number.to_bytes(2) + value.to_bytes(4)


class Peer:
    """One end of an HTTP/2 connection that answers nothing, and reads on a thread what the other end says.

    `last` is the error of the other's GOAWAY or, without one, of its last RST_STREAM; `heads` and `data` are bytes of
    field blocks and of bodies."""

    def __init__(self, connection: socket.socket, settings: bytes = b"", *, client: bool = True) -> None:
        """A client begins with the preface; both send their SETTINGS."""
        self.connection = connection
        self.last, self.closed, self.heads, self.data = "", False, 0, 0
        self._reset = ""
        self.blocks: list[tuple[int, bytes]] = []
        connection.sendall((PREFACE if client else b"") + frame(SETTINGS, payload=settings))
        self._limit_s = connection.gettimeout() or _LIMIT_S
        connection.setblocking(False)
        self._one = threading.Lock()  # OpenSSL's objects are for one thread at a time
        self._skip = 0 if client else len(PREFACE)
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, *frames: bytes) -> None:
        """Send frames, all at once. Raises OSError where the other end does not take them in time."""
        left, end = memoryview(b"".join(frames)), time.monotonic() + self._limit_s
        while left:
            with self._one, suppress(*_NOT_NOW):
                left = left[self.connection.send(left[:_PIECE]) :]
                continue
            if time.monotonic() > end:
                raise TimeoutError("the other end takes nothing")
            select.select([], [self.connection], [], 0.1)

    def until(self, limit_s: float, *, data: int = 0, heads: int = 0) -> bool:
        """Wait for so many bytes, or for the end; whether they came."""
        end = time.monotonic() + limit_s
        with self._changed:
            while not (met := self.data >= data and self.heads >= heads) and not self.closed and not self.last:
                if not self._changed.wait(end - time.monotonic()) and time.monotonic() > end:
                    break
        return met

    def outcome(self) -> str:
        """What the other end said at last."""
        self.until(1.0, data=1 << 60)
        if self.last:
            return f"GOAWAY {self.last}"
        if self._reset:
            return f"RST_STREAM {self._reset}"
        return "closed" if self.closed else "goes on"

    def _read(self) -> None:
        came = bytearray()
        with suppress(OSError, ValueError):
            while (data := self._some()) != b"":
                came += data or b""
                if self._skip and len(came) >= self._skip:
                    del came[: self._skip]
                    self._skip = 0
                while not self._skip and len(came) >= 9 and len(came) >= (end := 9 + int.from_bytes(came[:3])):
                    self._take(came[3], int.from_bytes(came[5:9]), bytes(came[9:end]))
                    del came[:end]
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _some(self) -> bytes | None:
        """What has come, b"" at the end, None where nothing has yet."""
        with self._one, suppress(*_NOT_NOW):
            return self.connection.recv(65536)
        select.select([self.connection], [], [], 0.1)
        return None

    def _take(self, kind: int, stream: int, payload: bytes) -> None:
        with self._changed:
            match kind:
                case 0:
                    self.data += len(payload)
                case 1 | 9:
                    self.heads += len(payload)
                    if len(self.blocks) < _KEPT:
                        self.blocks.append((stream, payload))
                case 3:
                    self._reset = _name(payload[:4])
                case 7:
                    self.last = _name(payload[4:8])
            self._changed.notify_all()


def _name(code: bytes) -> str:
    number = int.from_bytes(code)
    return _ERRORS[number] if number < len(_ERRORS) else str(number)
