"""Who waits for whom, on sockets and an event loop."""

from __future__ import annotations

import asyncio
import socket
from collections import deque

import pytest
from mitmproxy.connection import Client, Connection, Server
from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionIO

from addons.engine.backpressure import EndOfTurn, Stop, Turns, WhenTaken, written


def connections() -> tuple[Connection, Connection]:
    """A client and a server."""
    return Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2)), Server(address=("127.0.0.1", 3))


def test_a_turn_ends_when_all_have_been_told() -> None:
    """What a layer asked to be told at the end of a turn is told once, and what is taken behind that."""
    turns, waiting = Turns(), deque[events.Event]()
    end, room = EndOfTurn(), False
    taken = WhenTaken(lambda: room)
    assert turns.take(taken)
    assert turns.take(end)
    assert turns.next(waiting)
    assert not turns.next(waiting)
    room = True
    assert turns.next(waiting)
    assert not turns.next(waiting)
    assert [event.command for event in waiting if isinstance(event, events.Wakeup)] == [end, taken]


async def test_a_connection_is_not_read_until_there_is_room() -> None:
    """A reader waits at the end of the turn that stopped it, and goes on with the turn that makes room."""
    client, server = connections()
    turns, room = Turns(), [False]
    turns.take(Stop(client, lambda: room[0]))
    turns.next(deque())
    await asyncio.wait_for(turns.readable(server), 1)
    reading = asyncio.ensure_future(turns.readable(client))
    await asyncio.sleep(0)
    turns.next(deque())
    await asyncio.sleep(0)
    assert not reading.done()
    room[0] = True
    turns.next(deque())
    await asyncio.wait_for(reading, 1)


async def _full() -> tuple[ConnectionIO, socket.socket]:
    """A writer whose peer reads nothing, and with more written to it than anybody takes."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(bytes(2_000_000))
    return ConnectionIO(reader=reader, writer=writer), theirs


@pytest.mark.parametrize("full", ["client", "server"])
@pytest.mark.parametrize("reading", ["client", "server"])
async def test_who_reads_waits_for_all_sockets_but_the_servers_own(full: str, reading: str) -> None:
    """A server that first wants its answer read before it reads on is read from: nobody waits for ever."""
    io, theirs = await _full()
    both = dict(zip(("client", "server"), connections(), strict=True))
    waiting = asyncio.ensure_future(written({both[full]: io}, both[reading]))
    if full == reading == "server":
        await asyncio.wait_for(waiting, 1)
    else:
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        theirs.setblocking(False)

        def emptied() -> bool:
            try:
                while theirs.recv(1 << 20):
                    pass
            except BlockingIOError:
                return waiting.done()
            return False

        while not emptied():
            await asyncio.sleep(0)
        await waiting
    assert io.writer is not None
    io.writer.transport.abort()
    theirs.close()
