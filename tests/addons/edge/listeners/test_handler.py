"""The door of each connection: who may come in, what a full worker says, and when nothing more is read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from mitmproxy import connection
from mitmproxy.proxy import commands, events, mode_specs
from mitmproxy.proxy.server import ConnectionIO
from mitmproxy.test import taddons
from prometheus_client import CollectorRegistry

from addons.edge.listeners.handler import EdgeHandler
from addons.edge.listeners.listeners import Listeners
from addons.edge.settings import Bounds
from tests.waiting import until


class _Door:
    """A real socket's connection, and its handler."""

    def __init__(self, **bounds: int) -> None:
        self.listeners = Listeners(Bounds(**bounds), CollectorRegistry())
        self.tctx = taddons.context(self.listeners)
        self.handlers: list[EdgeHandler] = []

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = EdgeHandler(
            self.tctx.master, reader, writer, self.tctx.options, mode_specs.ProxyMode.parse("regular")
        )
        self.handlers.append(handler)
        handler.layer = SimpleNamespace(  # takes what comes and does nothing
            handle_event=lambda _: (), context=SimpleNamespace(client=handler.client)
        )
        await handler.handle_client()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """One that connects."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            server.close()
            for handler in self.handlers:
                handler.cut("over")
            await until(lambda: not self.listeners.limits.clients, "it is gone")


@pytest.fixture
async def door() -> _Door:
    """A worker with the usual bounds."""
    return _Door()


async def test_a_client_beyond_the_bound_is_closed(door: _Door) -> None:
    """It sees an orderly end, nothing is left of it, and no hook has heard of it."""
    door.listeners.limits.most = 0
    async with door.client() as (reader, _):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    assert not door.handlers[0].transports


async def test_a_client_that_is_cut_is_closed(door: _Door) -> None:
    """Who is let go sees the end of its connection."""
    async with door.client() as (reader, _):
        await until(lambda: bool(door.listeners.limits.clients), "it is in")
        await until(lambda: door.handlers[0].transports[door.handlers[0].client].handler is not None, "it is read from")
        door.handlers[0].cut("idle")
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_what_comes_too_early_is_not_read(door: _Door) -> None:
    """While a connection to a server is still to come, little of what a client sends is taken in."""
    async with door.client() as (_, writer):
        await until(lambda: bool(door.listeners.limits.clients), "it is in")
        handler = door.handlers[0]
        connecting = asyncio.create_task(asyncio.Event().wait())
        server = connection.Server(address=("192.0.2.1", 443))
        handler.transports[server] = ConnectionIO(handler=connecting)
        writer.write(bytes(64_000_000))
        await until(lambda: handler._early > 262_144, "it has read what it reads")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)
        assert handler._early < 1_000_000
        del handler.transports[server]
        connecting.cancel()
        await asyncio.wait_for(writer.drain(), 20)


async def test_without_room_a_server_is_not_connected_to(door: _Door) -> None:
    """Where the last descriptors are in use a client is told, as for any server that cannot be connected to."""
    async with door.client():
        await until(lambda: bool(door.listeners.limits.clients), "it is in")
        handler = door.handlers[0]
        seen: list[events.Event] = []
        handler.layer = SimpleNamespace(
            handle_event=lambda event: seen.append(event) or (), context=SimpleNamespace(client=handler.client)
        )
        door.listeners.limits.descriptors = 1
        command = commands.OpenConnection(connection.Server(address=("192.0.2.1", 443)))
        await handler.open_connection(command)
        (answer,) = seen
        assert isinstance(answer, events.OpenConnectionCompleted)
        assert answer.reply is not None
        assert "too many connections" in answer.reply
        assert door.listeners.limits.servers == 0
