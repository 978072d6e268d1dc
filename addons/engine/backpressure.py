"""Who waits for whom between one client's connection and those to its servers: no buffer grows for a peer that does
not read.

mitmproxy reads, lets its layers run, and waits until what they wrote has gone. That is enough where bytes go out as
they came in. HTTP/2 keeps what a peer's window does not let through; so whoever received them holds them back too:

* an HTTP/2 connection gives its own window back when the other side has taken the bytes (`WhenTaken`);
* any other is not read for as long as the other side has enough to do (`Stop`), which the other side says.

Layers yield these commands; `Turns`, in front of the outermost layer, answers them when nothing else is left to do, so
that what one read brings about is sent, counted and given back once. A layer that wants to know how much waits for a
stream asks `held`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Protocol, runtime_checkable

from mitmproxy.connection import Client, Connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.server import ConnectionIO

from addons.engine.leaving import Leaving, WhenLeaving


class EndOfTurn(commands.RequestWakeup):
    """Wake me up when all that this event brings about has been dealt with."""

    def __init__(self) -> None:
        super().__init__(0)


class WhenTaken(commands.RequestWakeup):
    """Wake me up at the end of the first turn at which this is true."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        super().__init__(0)
        self.ready = ready


class WhenDrained(commands.RequestWakeup):
    """Wake me up when the socket has taken most of what was written to it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(0)
        self.connection = connection


class Stop(commands.Command):
    """Do not read from this connection before this is true at the end of a turn."""

    def __init__(self, connection: Connection, until: Callable[[], bool]) -> None:
        self.connection = connection
        self.until = until


@runtime_checkable
class Keeps(Protocol):
    """A connection's layer that keeps bytes for its peer."""

    def waiting(self, stream_id: int) -> int:
        """Bytes that wait for room at the peer: of this stream, or as if, when all streams together are beyond."""
        ...


def around(context: Any) -> http.HttpLayer | None:
    """The HTTP layer that a connection's layer belongs to."""
    return next((one for one in reversed(context.layers) if isinstance(one, http.HttpLayer)), None)


EVERYTHING = 1 << 62
"""As much as may ever be held: a script thinks about the message, and nobody has looked at what follows."""


def held(around: http.HttpLayer | None, stream_id: int, *, towards_client: bool) -> int:
    """Bytes of a stream that came in and have not gone out on the other side. What a script collects has gone out."""
    if around is None:
        return 0
    stream = around.streams.get(stream_id)
    if stream is not None and stream._paused is not None:  # noqa: SLF001  # events pile up behind what it waits for
        return EVERYTHING
    if towards_client:
        other: Connection = around.context.client
    elif stream is not None:
        other = stream.context.server
    else:
        return 0
    outermost = around.connections.get(other)
    if outermost is None:
        return 0
    innermost = outermost.context.layers[-1]
    return innermost.waiting(stream_id) if isinstance(innermost, Keeps) else 0


def source(around: http.HttpLayer | None, stream_id: int, *, towards_client: bool) -> Connection | None:
    """The connection that a stream's bytes come from, where that one keeps nothing back by itself."""
    stream = around.streams.get(stream_id) if around is not None else None
    if around is None or stream is None:
        return None
    origin: Connection = stream.context.server if towards_client else around.context.client
    outermost = around.connections.get(origin)
    return None if outermost is None or isinstance(outermost.context.layers[-1], Keeps) else origin


def thought_about(
    around: http.HttpLayer | None, connection: Connection, stream_id: int, most_bytes: int
) -> Iterator[Stop]:
    """Stop reading a connection that keeps nothing back by itself, while a script thinks about its message and this
    much of what follows has come."""
    stream = around.streams.get(stream_id) if around is not None else None
    if stream is None or stream._paused is None:  # noqa: SLF001
        return
    came = sum(len(getattr(one, "data", b"")) for one in stream._paused_event_queue)  # noqa: SLF001
    if came > most_bytes:
        yield Stop(connection, lambda: stream._paused is None)  # noqa: SLF001


class Turns:
    """The commands above, for all the layers of one client's connection."""

    def __init__(self) -> None:
        self._ends: deque[EndOfTurn] = deque()
        self._held: list[WhenTaken] = []
        self._leaving: list[WhenLeaving] = []
        self._stopped: dict[Connection, Callable[[], bool]] = {}
        self._resumed: dict[Connection, asyncio.Event] = {}

    def take(self, command: commands.Command) -> bool:
        """Whether the command is for us; it is answered later then."""
        if isinstance(command, EndOfTurn):
            self._ends.append(command)
        elif isinstance(command, WhenTaken):
            self._held.append(command)
        elif isinstance(command, WhenLeaving):
            self._leaving.append(command)
        elif isinstance(command, Stop):
            self._stopped[command.connection] = command.until
        else:
            return False
        return True

    def next(self, waiting: deque[events.Event]) -> bool:
        """Put what is to be told to the layers before this turn ends; whether there was anything."""
        if self._leaving and Leaving.begun:
            waiting.append(events.Wakeup(self._leaving.pop()))
            return True
        if self._ends:
            waiting.append(events.Wakeup(self._ends.popleft()))
            return True
        for index, command in enumerate(self._held):
            if command.ready():
                del self._held[index]
                waiting.append(events.Wakeup(command))
                return True
        for connection in [one for one, until in self._stopped.items() if until()]:
            del self._stopped[connection]
            resumed = self._resumed.pop(connection, None)
            if resumed is not None:
                resumed.set()
        return False

    def leaves(self) -> WhenLeaving | None:
        """Who waits for the worker's end, one after the other."""
        return self._leaving.pop() if self._leaving else None

    async def readable(self, connection: Connection) -> None:
        """Wait until this connection may be read from."""
        while connection in self._stopped:
            await self._resumed.setdefault(connection, asyncio.Event()).wait()


def whose(transports: MutableMapping[Connection, ConnectionIO], client: Connection) -> Connection:
    """The connection whose handler's task this is."""
    task = asyncio.current_task()
    return next((one for one, io in transports.items() if io.handler is task), client)


async def written(transports: MutableMapping[Connection, ConnectionIO], reading: Connection) -> None:
    """Wait until the sockets have taken most of what was written to them.

    Whoever reads from a server does not wait for that same server: it may read on only when its own answer is read.
    """
    for connection, io in list(transports.items()):
        if connection is not reading or isinstance(connection, Client):
            await drained(io)


async def drained(io: ConnectionIO | None) -> None:
    """Wait until one socket has; one that is broken ends its connection."""
    if io is None or io.writer is None:
        return
    try:
        await io.writer.drain()
    except OSError as error:
        if io.handler is not None:
            io.handler.cancel(f"Error sending data: {error}")
