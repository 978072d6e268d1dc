"""Frames between processes: four bytes of length (big endian), then one msgpack value. No I/O, no clock.

Both directions of a connection carry the same envelopes. What may stand in them is another thing for each conversation,
and each has a `Codec` of its own (`member`, `worker`, `admin`): what a socket must not carry cannot be decoded on it,
and the end that serves decodes no answers. A deadline is absolute on CLOCK_MONOTONIC, which all processes of one host
share, so it travels without conversion. msgspec decodes straight into the types and refuses what it does not know:
nothing is checked again inside.

Processes of two versions meet while one is restarted. So fields are added at the end, with a default; a tag is never
given to another type; and a new request is sent only where its absence does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from hsm.errors import HsmitmError

MAX_FRAME = 1 << 20
"""Bytes. A mint is below 16 KiB; a telemetry report of a busy worker below 64 KiB."""
_TOLD = 80
"""Characters that are told of a frame that is none."""


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """Can a mint succeed now? -> `Done`, or a fault that says why not. Workers and the command line ask."""


class Done(Struct, frozen=True, array_like=True, tag="done"):
    """Nothing to say but that it was done."""


class Decrypted(Struct, frozen=True, array_like=True, tag="decrypted"):
    """The plaintext. From a member it is empty where the padding was wrong; the signer tells workers no such thing."""

    plaintext: bytes


class Call[Q](Struct, frozen=True, tag="call", tag_field="t"):
    """A request. `deadline` is seconds on CLOCK_MONOTONIC; an answer after it is of no use."""

    id: int
    deadline: float
    body: Q


class Cancel(Struct, frozen=True, tag="cancel", tag_field="t"):
    """Nobody waits any more for the answer to the call of that id. There is no answer to this."""

    id: int


class Answer[A](Struct, frozen=True, tag="answer", tag_field="t"):
    """The reply to the call of the same id."""

    id: int
    body: A


class Fault(Struct, frozen=True, tag="fault", tag_field="t"):
    """The call failed: a class name of `hsm.errors`, its message, the PKCS#11 return code behind it or 0, and what that
    calls for where its member knows better than the standard's table (a `hsm.codes.Kind`)."""

    id: int
    kind: str
    message: str
    code: int = 0
    calls_for: str = ""


def fault(call_id: int, error: HsmitmError) -> Fault:
    """`error` as the answer to a call."""
    return Fault(call_id, type(error).__name__, str(error), error.code, error.calls_for)


Frame = Call[Any] | Cancel | Answer[Any] | Fault


class Codec[Q, A]:
    """One conversation: what is asked in it and what is answered."""

    def __init__(self, requests: Any, replies: Any) -> None:
        """Both are unions of tagged types."""
        self._asked = msgspec.msgpack.Decoder(Call[requests] | Cancel)
        self._answered = msgspec.msgpack.Decoder(Answer[replies] | Fault)

    def asked(self) -> Framer[Call[Q] | Cancel]:
        """What arrives at the end that serves."""
        return Framer(self._asked)

    def answered(self) -> Framer[Answer[A] | Fault]:
        """What arrives at the end that asks."""
        return Framer(self._answered)


_encoder = msgspec.msgpack.Encoder()


def encode(frame: Frame) -> bytes:
    """`frame` as bytes with its length in front. Raises ValueError above MAX_FRAME."""
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes; at most {MAX_FRAME} are sent")
    return len(body).to_bytes(4) + body


class Framer[F]:
    """Bytes in, whole frames out. Feed it whatever a socket gives."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[F]) -> None:
        """`decoder` is a codec's."""
        self._decoder = decoder
        self._buffer = bytearray()
        self.frames = 0
        """How many came so far."""

    @property
    def held(self) -> int:
        """Bytes that are no whole frame yet, or were not asked for."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[F]:
        """The frames that `data` completes. Raises ValueError for what is not a frame: end the connection then."""
        self._buffer += data
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4])
            if end - 4 > MAX_FRAME:
                raise ValueError(f"a frame of {end - 4} bytes; at most {MAX_FRAME} are accepted")
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[4:end])
            del self._buffer[:end]
            self.frames += 1
            try:
                yield self._decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                # It quotes the peer, and is logged: one that is taken over gets one short line of the log, and no more.
                told = str(error)[:_TOLD].encode("unicode_escape").decode()
                raise ValueError(f"not a frame of ours: {told}") from error
