"""What an HTTP/2 peer has done, as `http2_session` tells it: no bytes, no frames, no mitmproxy."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Fields = list[tuple[bytes, bytes]]


class Head(Struct, gc=False):
    """A header block within its bounds: a request, a response, an informational response, or trailers."""

    stream_id: int
    fields: Fields
    ended: bool
    trailers: bool = False


class Oversized(Struct, gc=False):
    """A header block beyond its bounds; what of it came first. Nothing of it is valid or invalid yet."""

    stream_id: int
    what: Literal["head", "trailers"]
    fields: Fields
    ended: bool


class Body(Struct, gc=False):
    """Bytes of a message; what came of one stream in one read is one event."""

    stream_id: int
    chunks: list[bytes]


class Ended(Struct, gc=False):
    """The peer's message is whole."""

    stream_id: int


class Invalid(Struct, gc=False):
    """A stream is broken by a frame that is not valid (RFC 9113 section 5.4.2). It is being reset."""

    stream_id: int
    code: int
    why: str


class Reset(Struct, gc=False):
    """The peer has reset a stream, or our end has (a length that does not fit, for one): it is gone."""

    stream_id: int
    code: int
    by_peer: bool


class Settings(Struct, gc=False):
    """The peer's settings have come."""


class GoAway(Struct, gc=False):
    """The peer takes no further streams than those up to `last_stream_id` (RFC 9113 section 6.8)."""

    last_stream_id: int
    code: int
    detail: bytes


class Ignored(Struct, gc=False):
    """A frame that is read and not forwarded."""

    what: str


Event = Head | Oversized | Body | Ended | Invalid | Reset | Settings | GoAway | Ignored
