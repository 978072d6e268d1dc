"""mitmproxy's handler of one client's connection and those to its servers, with a door and bounds.

Who is too much is closed at once, before any layer or hook sees it. While a client's handshake or its server's
connection is still to come, little is read of what comes meanwhile: mitmproxy's layers would keep all of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from mitmproxy import ctx
from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import commands, events, server_hooks
from mitmproxy.proxy.server import ConnectionIO, TimeoutWatchdog

from addons.edge.listeners.bypass import HandOver
from addons.edge.listeners.listeners import Listeners
from addons.edge.listeners.relay import Relay
from addons.engine.master import LeanConnectionHandler
from addons.records.connections import Connections, facts_of

_EARLY_BYTES = 262_144
"""Of what comes before it can be used."""
_LOOK_AGAIN_S = 0.05


class Activity(TimeoutWatchdog):
    """mitmproxy's watchdog without its task and timer: `Listeners` looks at all connections."""

    def __init__(self) -> None:
        self.last_activity = time.monotonic()
        self.blocker = 0

    def register_activity(self) -> None:
        """Something was read, or a hook has come to its end."""
        self.last_activity = time.monotonic()

    async def watch(self) -> None:
        """Nothing to do."""

    @contextmanager
    def disarm(self) -> Iterator[None]:
        """While somebody thinks about it, it is not idle."""
        self.blocker += 1
        try:
            yield
        finally:
            self.blocker -= 1
            self.register_activity()


class EdgeHandler(LeanConnectionHandler):
    """Stands in for ProxyConnectionHandler."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self.timeout_watchdog: TimeoutWatchdog = Activity()
        self._listeners: Listeners = ctx.master.addons.get("listeners")
        self.unopened = False
        self._early = 0
        self._unwritten = 0
        self._facts = facts_of(self.client)
        self._last_written = 0.0
        self._relay: Relay | None = None
        self._relayed = 0

    def log(self, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
        """As mitmproxy's, which says in this way that a layer has failed, and in no other."""
        if exc_info:
            self._facts.fail("internal", "client", message)
        super().log(message, level, exc_info)

    async def handle_client(self) -> None:
        """As mitmproxy's, for who may come in."""
        if not self._listeners.admit(self):
            writer = self.transports.pop(self.client).writer
            assert writer is not None
            writer.close()
            if (records := ctx.master.addons.get(Connections.name)) is not None:
                records.turned_away(self.client)
            return
        try:
            await super().handle_client()
        finally:
            self._listeners.leave(self.client)
            # mitmproxy forgets to where the task that reads was cancelled before it began, or while it said goodbye.
            io = self.transports.get(self.client)
            if io is not None and io.writer is not None:
                io.writer.close()

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """As mitmproxy's, while there is room for one more server."""
        limits = self._listeners.limits
        if not limits.open_server():
            await self._no_room(command)
            return
        try:
            await super().open_connection(command)
        finally:
            limits.close_server()

    async def _no_room(self, command: commands.OpenConnection) -> None:
        why = command.connection.error = "this proxy has too many connections; try again later"
        self._facts.fail("no-resources", "server", why)
        hook_data = server_hooks.ServerConnectionHookData(client=self.client, server=command.connection)
        await self.handle_hook(server_hooks.ServerConnectErrorHook(hook_data))
        await self.server_event(events.OpenConnectionCompleted(command, why))

    # back-pressure and turns

    async def server_event(self, event: events.Event) -> None:
        """As mitmproxy's, with a count of what comes early; and a connection that was reset is not one whose peer has
        ended its direction."""
        if isinstance(event, events.DataReceived):
            facts = self._facts
            leg = facts.client_leg if event.connection is self.client else facts.server_leg
            leg.bytes_in += len(event.data)
            self._early = self._early + len(event.data) if self._too_early() else 0
        elif isinstance(event, events.ConnectionClosed) and self._is_cut(event.connection):
            event.connection.state = ConnectionState.CLOSED
        watchdog = self.timeout_watchdog
        since = watchdog.last_activity
        await super().server_event(event)
        if isinstance(event, events.Wakeup):
            watchdog.last_activity = since  # a clock's doing, and no peer's

    def _is_cut(self, peer: Connection) -> bool:
        io = self.transports.get(peer)
        transport = getattr(io.writer, "transport", None) if io is not None else None
        return transport is not None and bool(transport.is_closing())

    def _too_early(self) -> bool:
        """Whether layers keep what comes: a client's TLS handshake, or a connection to a server, is still to come.
        HTTP/2 has windows for that."""
        client = self.client
        if client.tls and client.timestamp_tls_setup is None and not self.unopened:
            return True
        return client.alpn != b"h2" and any(
            io.writer is None and not (io.handler and io.handler.done()) for io in self.transports.values()
        )

    async def drain_writers(self) -> None:
        """As mitmproxy's: called after each read, before the next. Where more is here already others have their turn
        first; and what comes too early stays in the kernel's buffers, beyond a little."""
        await super().drain_writers()
        while self._early > _EARLY_BYTES and self._too_early():  # noqa: ASYNC110  # of those who send too much
            await asyncio.sleep(_LOOK_AGAIN_S)
        if any(getattr(io.reader, "_buffer", None) for io in self.transports.values()):
            await asyncio.sleep(0)

    # what leaves the layers

    async def wakeup(self, request: commands.RequestWakeup) -> None:
        """As mitmproxy's; some wait for the end of what is not theirs to read."""
        if isinstance(request, HandOver):
            await self._hand_over(request)
        await super().wakeup(request)

    async def _hand_over(self, request: HandOver) -> None:
        """Take two sockets out of the layers' hands as soon as nothing of theirs is on its way there; their tasks go on
        waiting for a word, and get that of the end."""
        patience = 3
        while (ends := self._quiet(request)) is None:
            await asyncio.sleep(0 if patience > 0 else _LOOK_AGAIN_S)
            patience -= 1
        if not ends:
            return
        facts = facts_of(self.client)
        self._relay = Relay(ends[0], ends[1], (facts.client_leg, facts.server_leg))
        self._relay.begin(client_ended=_has_ended(request.client), server_ended=_has_ended(request.server))
        await self._relay.over()

    def _quiet(self, request: HandOver) -> list[asyncio.Transport] | None:
        """The two transports, where neither has anything that was not read, dealt with and sent; none where one of them
        is gone; None where that is still to come. Meanwhile nothing more is read."""
        sides = request.client, request.server
        ios = [self.transports.get(one) for one in sides]
        ends = [cast(asyncio.Transport, getattr(io.writer, "transport", None)) for io in ios if io is not None]
        if len(ends) < len(sides) or any(one is None or one.is_closing() for one in ends):
            return []
        for one in ends:
            one.pause_reading()
        waits = all(_waits(one, io) for one, io in zip(sides, ios, strict=True))
        return ends if waits and not any(one.get_write_buffer_size() for one in ends) else None

    # what `Listeners` asks

    @property
    def last_activity(self) -> float:
        """When something was read or written; now, while a hook thinks about it."""
        watchdog = self.timeout_watchdog
        if self._relay is not None and self._relay.passed != self._relayed:  # as far as whoever asks can see
            self._relayed = self._relay.passed
            watchdog.register_activity()
        return time.monotonic() if watchdog.blocker else max(watchdog.last_activity, self.last_written)

    @property
    def last_written(self) -> float:
        """When something that waited to be written was, as far as whoever asks now and then can see."""
        transports = (getattr(io.writer, "transport", None) for io in self.transports.values())
        unwritten = sum(one.get_write_buffer_size() for one in transports if one is not None)
        if unwritten != self._unwritten:
            self._unwritten, self._last_written = unwritten, time.monotonic()
        return self._last_written

    async def leave(self) -> None:
        """The worker stops: those layers hear of it that take their leave in words."""
        while (told := self.layer.turns.leaves()) is not None:
            await self.server_event(events.Wakeup(told))

    def cut(self, why: str, last: bytes = b"") -> None:
        """End the client's connection, with `last` as the last that it hears, and with it all others."""
        io = self.transports.get(self.client)
        if last and io is not None and io.writer is not None and not io.writer.is_closing():
            io.writer.write(last)
            self._facts.client_leg.bytes_out += len(last)
        if io is not None and io.handler is not None:
            io.handler.cancel(why)
        elif io is not None and io.writer is not None:
            self.client.state = ConnectionState.CLOSED
            io.writer.close()


def _has_ended(peer: Connection) -> bool:
    return not peer.state & ConnectionState.CAN_READ


def _waits(peer: Connection, io: ConnectionIO | None) -> bool:
    """Whether the task of a connection waits for bytes, with none in hand, or has told of their end."""
    waiter = getattr(getattr(io, "reader", None), "_waiter", None)
    return _has_ended(peer) or (waiter is not None and not waiter.done())
