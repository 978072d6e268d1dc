"""A client that opens connection after connection through the proxy, each to a host that nobody asked for before.

Each visit is CONNECT, a TLS handshake that verifies the minted leaf against the CA, one request and its answer. asyncio
and the standard library's ssl: a load generator of its own language would not verify for us what we must know, that no
certificate ever carries a bad signature.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct


class Visit(Struct, frozen=True):
    """One connection: when it began (CLOCK_MONOTONIC, seconds), how long it took, and what went wrong, if anything."""

    began: float
    seconds: float
    error: str = ""
    bad_signature: bool = False


class Visitors:
    """Concurrent clients. Use it as an async context manager: they visit until it is left."""

    def __init__(self, proxy: str, ca: Path, port: int, clients: int, pause_s: float = 0.0) -> None:
        """`port` is the origin's; `pause_s` is between two visits of one client."""
        host, _, proxy_port = proxy.rpartition(":")
        self.visits: list[Visit] = []
        self._proxy = host, int(proxy_port)
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._port, self._clients, self._pause_s = port, clients, pause_s
        self._leave = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []
        self._hosts: Iterator[str] = (f"host-{number}.bench.test" for number in itertools.count())

    async def __aenter__(self) -> Visitors:
        """Let the clients begin."""
        self._running = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the visits that were begun end."""
        self._leave.set()
        await asyncio.gather(*self._running)

    async def _client(self) -> None:
        while not self._leave.is_set():
            self.visits.append(await self._visit(next(self._hosts)))
            await asyncio.sleep(self._pause_s)

    async def _visit(self, host: str) -> Visit:
        began = time.monotonic()
        try:
            async with asyncio.timeout(30):
                await self._exchange(host)
        except ssl.SSLCertVerificationError as error:
            bad = "signature" in error.verify_message
            return Visit(began, time.monotonic() - began, f"{host}: {error.verify_message}", bad)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            return Visit(began, time.monotonic() - began, f"{host}: {type(error).__name__}: {error}")
        return Visit(began, time.monotonic() - began)

    async def _exchange(self, host: str) -> None:
        reader, writer = await asyncio.open_connection(*self._proxy)
        try:
            target = f"{host}:{self._port}"
            writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise ValueError(f"{head.partition(b'\r\n')[0].decode()}: {(await reader.read(500)).decode()}")
            await writer.start_tls(self._tls, server_hostname=host)
            writer.write(f"GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            if b" 200 " not in answer.partition(b"\r\n")[0] or host.encode() not in answer:
                raise ValueError(f"not the origin's answer: {answer[:200]!r}")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
