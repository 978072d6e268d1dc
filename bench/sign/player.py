"""A player: a process of the signing measurement that signs when its turn comes.

Which is `bench.sign.raw` or `bench.sign.caller`. Here is what it is asked to do, what it finds, and how both are told:
over its standard input and output, eight bytes of length and then one msgpack value.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO, Self

import msgspec
from msgspec import Struct

from bench.report.processes import ended
from hsm.errors import HsmitmError, MemberLostError, from_wire
from hsm.wire.member import Open

MOST_ERRORS = 20
"""That a turn tells."""
_END_S = 5.0


class Opening(Struct, frozen=True, kw_only=True):
    """What a player opens before its first turn: partitions with the environment of a process that opens them, or the
    signer's socket. `environment` of a process that opens its one partition itself is its own."""

    partitions: list[Open] = []
    environments: list[dict[str, str]] = []
    socket: str = ""

    def __repr__(self) -> str:
        """Without the PINs."""
        return f"Opening({len(self.partitions)} partitions, {self.socket!r})"


class Opened(Struct, frozen=True):
    """It is ready. `sessions` are those that it got: of each partition, the fewest."""

    sessions: int


class Load(Struct, frozen=True, kw_only=True):
    """Sign with `key` in `scheme` for `seconds`: `callers` at a time, each as soon as it has its answer; or with a
    `rate` each second, evenly spaced. `spki` is the key's public half; `seed` gives the digests."""

    key: str
    spki: bytes
    scheme: str
    callers: int
    seconds: float
    rate: float = 0.0
    seed: int = 1


class Taken(Struct, frozen=True):
    """What came of it. `signed` are those within the time; latencies are of all, in an open loop from when they were
    due, and `late_ms` by how much this process was late to ask. `verify_us` is what one verification takes, of those
    that found out."""

    signed: int
    latencies_ms: list[float]
    late_ms: list[float]
    errors: list[str]
    verify_us: float = 0.0


class Failed(Struct, frozen=True, tag=True):
    """An error of `hsm.errors`, by name."""

    kind: str
    message: str
    code: int


class _Answer(Struct, frozen=True):
    """What a player says: one of these."""

    opened: Opened | None = None
    taken: Taken | None = None
    failed: Failed | None = None


class Player:
    """A process that signs in its turns."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.sessions = 0
        self._process = process

    @classmethod
    async def start(cls, module: str, opening: Opening, environment: dict[str, str] | None = None) -> Self:
        """`python -m module`, with everything open. Raises what it raised."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | (environment or {}),
            start_new_session=True,  # a terminal's Ctrl-C is ours: the end of its input ends it
        )  # fmt: skip
        player = cls(process)
        try:
            opened = (await player._ask(opening)).opened
            assert opened is not None
            player.sessions = opened.sessions
        except BaseException:
            await player.end()
            raise
        return player

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def turn(self, load: Load) -> Taken:
        """Let it sign. Raises what it raised: single failed signatures are in the result."""
        taken = (await self._ask(load)).taken
        assert taken is not None
        return taken

    async def _ask(self, question: Struct) -> _Answer:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        encoded = msgspec.msgpack.encode(question)
        try:
            stdin.write(len(encoded).to_bytes(8) + encoded)
            await stdin.drain()
            answer = await stdout.readexactly(int.from_bytes(await stdout.readexactly(8)))
        except (OSError, EOFError) as error:
            raise MemberLostError(f"a process of the measurement ended with {await self._process.wait()}") from error
        decoded = msgspec.msgpack.decode(answer, type=_Answer)
        if decoded.failed is not None:
            raise from_wire(decoded.failed.kind, decoded.failed.message, decoded.failed.code)
        return decoded

    async def end(self) -> None:
        """Let it end; what does not within seconds is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await ended(self._process, _END_S)


# in the player


def read[T](kind: type[T], source: BinaryIO) -> T | None:
    """The next question; None where there are no more."""
    size = source.read(8)
    return msgspec.msgpack.decode(source.read(int.from_bytes(size)), type=kind) if size else None


def answer(given: Opened | Taken | HsmitmError) -> None:
    """Write it to our standard output, which `Player` reads."""
    match given:
        case Opened():
            said = _Answer(opened=given)
        case Taken():
            said = _Answer(taken=given)
        case _:
            said = _Answer(failed=Failed(type(given).__name__, str(given), given.code))
    encoded = msgspec.msgpack.encode(said)
    sys.stdout.buffer.write(len(encoded).to_bytes(8) + encoded)
    sys.stdout.buffer.flush()


def combined(parts: Sequence[Taken]) -> Taken:
    """What several players did at the same time."""
    return Taken(
        sum(one.signed for one in parts),
        [value for one in parts for value in one.latencies_ms],
        [value for one in parts for value in one.late_ms],
        [error for one in parts for error in one.errors],
        max(one.verify_us for one in parts),
    )
