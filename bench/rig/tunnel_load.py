"""The load generator that has many tunnels: `python -m bench.rig.tunnel_load`, a process of its own with threads.

Each thread is a client that has one connection at a time. There is no program to use in its place: ab's CONNECT has no
TLS inside it, wrk and h2load have no CONNECT, curl starts anew for each set of names. So what this one can do is
measured beside every server: its own CPU time is in each result, and its rate without a proxy in the report.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
import time
from typing import Literal, Self

import msgspec
from msgspec import Struct

from bench.rig.tunnel import Route, Tunnel, TunnelError

_MOST_ERRORS = 20

Kind = Literal["new", "kept", "idle"]


class Job(Struct, frozen=True, kw_only=True):
    """What to do, with so many `clients` at a time, for `seconds`.

    new   connection after connection, each with one request
    kept  request after request, each client on a connection of its own that is opened before the clock runs
    idle  `clients` connections, each with one request, and then nothing until the process is told to end

    `path` is what is asked for. Hosts are `host % number` with `count` numbers from `first` on, in turn; with `once` it
    ends where each was visited.
    """

    kind: Kind
    route: Route
    clients: int
    seconds: float
    host: str
    first: int
    count: int
    path: str = "/"
    once: bool = False


class Done(Struct, frozen=True):
    """What came of it: milliseconds of each connection (new) or request (kept), bytes of bodies, the process's CPU."""

    latencies_ms: list[float]
    seconds: float
    body_bytes: int
    cpu_s: float
    failed: int
    errors: list[str]


class Generator:
    """The process. Use it as an async context manager: inside, it is ready (kept, idle: connected) and waits."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start the process, and wait until it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bench.rig.tunnel_load", msgspec.json.encode(self._job).decode(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        try:
            await self._process.stdout.readexactly(1)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def run(self) -> Done:
        """Let it go, and wait for its end."""
        assert self._process is not None
        out, _ = await self._process.communicate(b"\n")
        return msgspec.json.decode(out, type=Done)

    async def __aexit__(self, *_: object) -> None:
        """End it, whatever it does."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class _Clients:
    """The threads and what they share. A list's append and an iterator's next are atomic."""

    def __init__(self, job: Job) -> None:
        self._job, self._tls = job, job.route.tls()
        numbers = range(job.first, job.first + job.count)
        self._turn, self._lock = 0, threading.Lock()
        self._hosts = [job.host % number for number in numbers]
        self._latencies_ms: list[float] = []
        self._bytes: list[int] = []
        self._errors: list[str] = []
        self._go = threading.Event()
        self._until = 0.0
        self._ready = threading.Semaphore(0)

    def run(self) -> Done:
        client = {"new": self._new, "kept": self._kept, "idle": self._idle}[self._job.kind]
        threads = [threading.Thread(target=self._guarded, args=(client,)) for _ in range(self._job.clients)]
        for one in threads:
            one.start()
            if self._job.kind != "new":
                # One after another: whoever opens five hundred at once measures the listen queue.
                self._ready.acquire()
                if self._errors:
                    threads = [thread for thread in threads if thread.ident is not None]
                    break  # the others would fail as well, each after its time
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        sys.stdin.read()
        cpu_before, begin = time.process_time(), time.monotonic()
        self._until = begin + self._job.seconds
        self._go.set()
        for one in threads:
            one.join()
        return Done(
            self._latencies_ms, time.monotonic() - begin, sum(self._bytes), time.process_time() - cpu_before,
            len(self._errors), self._errors[:_MOST_ERRORS],
        )  # fmt: skip

    def _guarded(self, client: object) -> None:
        assert callable(client)
        try:
            client()
        except (OSError, TunnelError, ValueError) as error:
            self._fail(self._job.host, error)
        finally:
            self._ready.release()

    def _next(self) -> str | None:
        with self._lock:
            turn, self._turn = self._turn, self._turn + 1
        if self._job.once and turn >= len(self._hosts):
            return None
        return self._hosts[turn % len(self._hosts)]

    def _new(self) -> None:
        self._go.wait()
        while time.monotonic() < self._until and (host := self._next()) is not None:
            began = time.monotonic()
            try:
                tunnel = Tunnel(self._job.route, self._tls, host)
                try:
                    self._bytes.append(tunnel.get(self._job.path, last=True))
                finally:
                    tunnel.close()
            except (OSError, TunnelError, ValueError) as error:
                self._fail(host, error)
            else:
                self._latencies_ms.append(1000 * (time.monotonic() - began))

    def _kept(self) -> None:
        host = self._next()
        assert host is not None
        tunnel = Tunnel(self._job.route, self._tls, host)
        tunnel.get("/")
        self._ready.release()
        self._go.wait()
        while time.monotonic() < self._until:
            began = time.monotonic()
            self._bytes.append(tunnel.get(self._job.path))
            self._latencies_ms.append(1000 * (time.monotonic() - began))
        tunnel.close()

    def _idle(self) -> None:
        host = self._next()
        assert host is not None
        tunnel = Tunnel(self._job.route, self._tls, host)
        self._bytes.append(tunnel.get("/"))
        self._ready.release()
        self._go.wait()
        self._latencies_ms.append(0.0)
        tunnel.close()

    def _fail(self, host: str, error: Exception) -> None:
        told = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
        self._errors.append(f"{host}: {type(error).__name__}: {told}")


if __name__ == "__main__":
    clients = _Clients(msgspec.json.decode(sys.argv[1], type=Job))
    sys.stdout.buffer.write(msgspec.json.encode(clients.run()))
