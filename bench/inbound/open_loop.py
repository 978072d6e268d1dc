"""New connections at a steady rate, whatever the server does: a process of its own, `python -m
bench.inbound.open_loop`.

Each connection is a full handshake that verifies the site's certificate, one GET, and the close. It begins when its
time has come and not when an earlier one has ended, and its latency counts from the time when it was due: a server that
stops for a second is not excused by a client that waited for it. The rates are low (half of what a closed loop got), so
asyncio and the standard library's ssl will do; how late it was and what it used is in the result.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from contextlib import suppress

import msgspec
from msgspec import Struct

_LIMIT_S = 30.0


class Pace(Struct, frozen=True):
    """What to do: `rate` connections each second for `seconds`, to `address`, whose SNI is `host`."""

    address: str
    host: str
    ca: str
    tls: str
    rate: float
    seconds: float


class Paced(Struct, frozen=True):
    """What came of it. `late_ms` says by how much this process was late to begin each connection."""

    latencies_ms: list[float]
    late_ms: list[float]
    cpu_s: float
    errors: list[str]


async def start(pace: Pace) -> asyncio.Task[Paced]:
    """Start the process; the task ends with its result. Cancelled, it ends the process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "bench.inbound.open_loop", msgspec.json.encode(pace).decode(),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readexactly(1)  # it has loaded and begins

    async def result() -> Paced:
        try:
            out, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        return msgspec.json.decode(out, type=Paced)

    return asyncio.create_task(result())


class _Clients:
    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._tls = ssl.create_default_context(cafile=pace.ca)
        version = ssl.TLSVersion.TLSv1_2 if pace.tls == "1.2" else ssl.TLSVersion.TLSv1_3
        self._tls.minimum_version = self._tls.maximum_version = version
        self._latencies_ms: list[float] = []
        self._late_ms: list[float] = []
        self._errors: list[str] = []

    async def run(self) -> Paced:
        begin = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(int(self._pace.rate * self._pace.seconds)):
                due = begin + number / self._pace.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self._late_ms.append(1000 * (time.monotonic() - due))
                tasks.create_task(self._visit(due))
        return Paced(self._latencies_ms, self._late_ms, time.process_time(), self._errors)

    async def _visit(self, due: float) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self._exchange()
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self._errors.append(f"{self._pace.host}: {type(error).__name__}: {error}")
        else:
            self._latencies_ms.append(1000 * (time.monotonic() - due))

    async def _exchange(self) -> None:
        address, _, port = self._pace.address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            address, int(port), ssl=self._tls, server_hostname=self._pace.host
        )
        try:
            writer.write(f"GET / HTTP/1.1\r\nHost: {self._pace.host}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            if b" 200 " not in answer.partition(b"\r\n")[0]:
                raise ValueError(f"not the origin's answer: {answer[:200]!r}")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


if __name__ == "__main__":
    clients = _Clients(msgspec.json.decode(sys.argv[1], type=Pace))
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(clients.run())))
