"""A status page in this process, before a signer that says what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from bench.rig.port import free_port
from hsm.wire import status
from hsm.wire.channel import Channel
from hsm.wire.frames import Call
from hsm.wire.status import Look, Seen
from hsm.wire.worker import Family
from proxy.config.section import Address
from proxy.status.hosts import Hosts
from proxy.status.page import Page
from proxy.status.server import StatusServer
from proxy.status.sight import Sight

MINTS = Family("hsmitm_mints", "counter", "Leaves", [("hsmitm_mints_total", {"result": "minted"}, 7.0)])


class Spoken:
    """The signer's end: what it says, how often it was asked, and whether it answers."""

    def __init__(self) -> None:
        self.seen = Seen("", [MINTS])
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.channels: list[Channel[Look, Seen]] = []

    async def serve(self, _channel: Channel[Look, Seen], _call: Call[Look]) -> Seen:
        """One answer."""
        self.asked += 1
        await self.answering.wait()
        return self.seen

    def connected(self) -> Channel[Look, Seen]:
        """A connection's channel."""
        self.channels.append(Channel(status.CODEC, self.serve))
        return self.channels[-1]


@asynccontextmanager
async def speaking(path: Path) -> AsyncIterator[Spoken]:
    """A signer at `path`."""
    spoken = Spoken()
    server = await asyncio.get_running_loop().create_unix_server(spoken.connected, str(path))
    try:
        yield spoken
    finally:
        server.close()
        for channel in spoken.channels:
            channel.close()
        await server.wait_closed()


@asynccontextmanager
async def server_at(path: Path, *hosts: str) -> AsyncIterator[tuple[StatusServer, int]]:
    """A page whose signer is at `path`, and its port."""
    registry, sight = CollectorRegistry(), Sight(path)
    address = Address("127.0.0.1", free_port())
    server = StatusServer(Page(sight, Hosts(address, hosts), registry), registry)
    server.serve_at(address)
    try:
        yield server, address.port
    finally:
        server.stop()
        sight.close()
        for stream in list(server._open):
            stream.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def page_at(path: Path, *hosts: str) -> AsyncIterator[int]:
    """The port of a page whose signer is at `path`."""
    async with server_at(path, *hosts) as (_, port):
        yield port


async def exchange(port: int, request: bytes) -> bytes:
    """Everything that is answered to these bytes, until the page ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def asked(port: int, path: str, host: str = "localhost", method: str = "GET") -> tuple[int, str]:
    """Status and content of a plain request."""
    answer = await exchange(port, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head, _, content = answer.decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), content
