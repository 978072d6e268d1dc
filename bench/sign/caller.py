"""The load generator of the depths `member` and `signer`: a process that asks as a signer or a worker does.

At the depth `member` it starts member processes, as the signer does, and sends them `wire.Sign` frames; at the depth
`signer` it is a worker: `hsm.wire.client.SignerClient` and `wire.TlsSign`. Its event loop is the workers', uvloop where
that is installed. `python -m bench.sign.caller`, started by `bench.sign.player.Player`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from addons.engine.loop import WorkerLoop
from bench.sign.player import MOST_ERRORS, Load, Opened, Opening, Taken, answer, read
from bench.sign.work import digests, verified
from hsm.errors import HsmitmError
from hsm.member.process import MemberProcess
from hsm.wire import member as member_wire
from hsm.wire.client import SignerClient
from hsm.wire.member import Signature
from hsm.wire.worker import TlsSign, TlsSigned

_CALL_S = 30.0
_START_S = 60.0

Sign = Callable[[str, str, bytes], Awaitable[bytes]]
"""A signature by a key in a scheme of a digest."""


async def _members(opening: Opening, stack: AsyncExitStack) -> tuple[Sign, int]:
    """Member processes that take turns, and the fewest sessions that one of them got."""
    channels, sessions = [], []
    for partition, environment in zip(opening.partitions, opening.environments, strict=True):
        process = await MemberProcess.spawn(environment)
        stack.push_async_callback(process.end)
        opened = await process.channel.call(partition, time.monotonic() + _START_S)
        assert isinstance(opened, member_wire.Opened)
        channels.append(process.channel)
        sessions.append(opened.sessions)
    turns = itertools.cycle(channels)

    async def sign(key: str, scheme: str, digest: bytes) -> bytes:
        signed = await next(turns).call(member_wire.Sign(key, scheme, digest), time.monotonic() + _CALL_S)
        assert isinstance(signed, Signature)
        return signed.signature

    return sign, min(sessions)


async def _signer(opening: Opening, stack: AsyncExitStack) -> Sign:
    client = await stack.enter_async_context(SignerClient(Path(opening.socket)))

    async def sign(key: str, scheme: str, digest: bytes) -> bytes:
        signed = await client.call(TlsSign(key, scheme, digest), _CALL_S)
        assert isinstance(signed, TlsSigned)
        return signed.signature

    return sign


class _Turn:
    """The calls of one turn."""

    def __init__(self, load: Load, sign: Sign) -> None:
        self._load, self._sign = load, sign
        self._digests = itertools.cycle(digests(load))
        self._until = 0.0
        self._signed = 0
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._errors: list[str] = []
        self._last = (b"", b"")

    async def run(self) -> Taken:
        """Sign until the time is over, and wait for what is still on its way."""
        self._until = time.monotonic() + self._load.seconds
        if self._load.rate:
            await self._open_loop()
        else:
            await asyncio.gather(*(self._caller() for _ in range(self._load.callers)))
        wrong = verified(self._load, *self._last) if self._latencies else []
        return Taken(
            self._signed,
            [1000 * value for value in self._latencies],
            [1000 * value for value in self._late],
            [*self._errors, *wrong][:MOST_ERRORS],
        )

    async def _caller(self) -> None:
        while (began := time.monotonic()) < self._until:
            await self._call(began)

    async def _call(self, since: float) -> None:
        digest = next(self._digests)
        try:
            signature = await self._sign(self._load.key, self._load.scheme, digest)
        except HsmitmError as error:
            self._errors.append(f"{type(error).__name__}: {error}")
            return
        ended = time.monotonic()
        self._latencies.append(ended - since)
        self._signed += ended <= self._until
        self._last = digest, signature

    async def _open_loop(self) -> None:
        """Calls when they are due. A thread watches the clock: the event loop's timers are a millisecond coarse."""
        loop, done, calls = asyncio.get_running_loop(), asyncio.Event(), set[asyncio.Task[None]]()
        begin, total = time.monotonic(), int(self._load.rate * self._load.seconds)

        def begin_call(due: float) -> None:
            self._late.append(time.monotonic() - due)
            task = loop.create_task(self._call(due))
            calls.add(task)
            task.add_done_callback(calls.discard)

        def watch() -> None:
            for number in range(total):
                due = begin + number / self._load.rate
                time.sleep(max(0.0, due - time.monotonic()))
                loop.call_soon_threadsafe(begin_call, due)
            loop.call_soon_threadsafe(done.set)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        await done.wait()
        while calls:
            await asyncio.wait(calls)


async def _play() -> None:
    async with AsyncExitStack() as stack:
        opening = await asyncio.to_thread(read, Opening, sys.stdin.buffer)
        assert opening is not None
        if opening.socket:
            sign, sessions = await _signer(opening, stack), 0
        else:
            sign, sessions = await _members(opening, stack)
        answer(Opened(sessions))
        while load := await asyncio.to_thread(read, Load, sys.stdin.buffer):
            answer(await _Turn(load, sign).run())


def main() -> None:
    """Turn after turn, until our standard input ends."""
    with asyncio.Runner(loop_factory=lambda: WorkerLoop(_START_S)) as runner:
        try:
            runner.run(_play())
        except HsmitmError as error:
            answer(error)


if __name__ == "__main__":
    main()
