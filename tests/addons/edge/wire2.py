"""HTTP/2 by hand, for the tests of what speaks it: frames that no library would make, and two ends in memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import hpack

from addons.edge.http2.session import Session

MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"localhost")]
POST = [(b":method", b"POST"), *REQUEST[1:]]
OK = [(b":status", b"200"), (b"content-type", b"text/plain")]


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """One frame (RFC 9113 section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(
    fields: Sequence[tuple[bytes, bytes]], stream: int, *, flags: int = END_STREAM, encoder: Any = None
) -> bytes:
    """A header block in one frame; without an encoder of its own it touches no table."""
    if encoder is None:
        block = b"".join(
            b"\x10" + _number(len(name), 7) + name + _number(len(value), 7) + value for name, value in fields
        )
    else:
        block = encoder.encode(fields)
    return frame(HEADERS, block, flags=flags | END_HEADERS, stream=stream)


def _number(value: int, bits: int) -> bytes:
    """An integer of HPACK (RFC 7541 section 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    value -= most
    out = bytearray([most])
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def window_update(size: int, stream: int = 0) -> bytes:
    """Room for so many bytes more."""
    return frame(WINDOW_UPDATE, struct.pack(">I", size), stream=stream)


def settings(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    """SETTINGS, or what acknowledges them."""
    return frame(SETTINGS, b"".join(struct.pack(">HI", *pair) for pair in pairs), flags=ACK if ack else 0)


def frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame in `data`, behind the preface if it is there."""
    data = data.removeprefix(MAGIC)
    while data:
        length = int.from_bytes(data[:3])
        yield data[3], data[4], int.from_bytes(data[5:9]) & 0x7FFFFFFF, data[9 : 9 + length]
        data = data[9 + length :]


def decoded(data: bytes, decoder: hpack.Decoder | None = None) -> list[tuple[int, list[tuple[bytes, bytes]]]]:
    """Stream and fields of each header block in `data`."""
    decoder = decoder or hpack.Decoder()
    return [
        (stream, [(bytes(name), bytes(value)) for name, value in decoder.decode(payload, raw=True)])
        for kind, _flags, stream, payload in frames(data)
        if kind == HEADERS
    ]


def exchange(one: Session, other: Session) -> None:
    """Carry bytes between two ends until neither has any."""
    while True:
        there, back = one.pull(1 << 30), other.pull(1 << 30)
        if not there and not back:
            return
        if there:
            other.receive(there)
        if back:
            one.receive(back)
