"""The signer's client on a real socket: a signer that is late, that goes away, or that is not there at all."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hsm.errors import (
    DeadlineError,
    MemberLostError,
    OverloadedError,
    RefusedError,
    SessionLostError,
    TryLaterError,
    UnavailableError,
)
from hsm.wire import client
from hsm.wire.channel import Channel, Serve
from hsm.wire.client import SignerClient
from hsm.wire.frames import Call, Done, Ready
from hsm.wire.worker import CODEC, Authorities, InboundKeys, Reply, Request
from tests.waiting import until

WorkerChannel = Channel[Request, Reply]


class Signer:
    """A signer that only answers as it is told; `channels` are its connections, the open ones and those before."""

    def __init__(self, serve: Serve[Request, Reply]) -> None:
        self.channels: list[WorkerChannel] = []
        self._serve = serve
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path) -> None:
        """Serve at `path`."""
        self._server = await asyncio.get_running_loop().create_unix_server(self._accept, str(path))

    def _accept(self) -> WorkerChannel:
        channel = WorkerChannel(CODEC, self._serve)
        self.channels.append(channel)
        return channel

    def hang_up(self) -> None:
        """Close every connection."""
        for channel in self.channels:
            channel.close()

    async def leave(self) -> None:
        """Stop listening, remove the socket and close every connection."""
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()


async def answer(_channel: WorkerChannel, _call: Call[Request]) -> Reply:
    """Serve any call."""
    return Done()


@asynccontextmanager
async def signer(path: Path, serve: Serve[Request, Reply] = answer) -> AsyncIterator[Signer]:
    """A signer that listens at `path`."""
    serving = Signer(serve)
    await serving.listen(path)
    try:
        yield serving
    finally:
        await serving.leave()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the signer's socket is, or will be."""
    return tmp_path / "signer.sock"


async def test_waits_for_a_signer_that_starts_later(path: Path) -> None:
    """A call that is made while the signer starts succeeds as soon as it listens."""
    async with SignerClient(path) as caller:
        call = asyncio.create_task(caller.call(Ready(), 20))
        await until(lambda: "cannot connect" in caller._why, "the client has tried in vain")
        assert not caller.connected
        assert not call.done()
        async with signer(path):
            assert await call == Done()
            assert caller.connected
            assert caller.generation == 1


async def test_reconnects_to_a_signer_that_was_restarted(path: Path) -> None:
    """A client whose signer goes away finds the next one by itself, and tells that it is another connection."""
    async with SignerClient(path) as caller:
        async with signer(path):
            assert await caller.call(Ready(), 10) == Done()
        await until(lambda: not caller.connected, "the client noticed that the signer is gone")
        async with signer(path):
            assert await caller.call(Ready(), 10) == Done()
            assert caller.generation == 2


async def test_a_call_under_a_restart_is_asked_again(path: Path) -> None:
    """A request that is lost with the connection is asked once more, and the caller does not see it."""
    calls = []

    async def lose_the_first(channel: WorkerChannel, call: Call[Request]) -> Reply:
        calls.append(call.body)
        if len(calls) == 1:
            channel.close()
            await asyncio.Event().wait()
        return Done()

    async with signer(path, lose_the_first), SignerClient(path) as caller:
        assert await caller.call(Ready(), 10) == Done()
        assert calls == [Ready(), Ready()]
        assert caller.generation == 2


async def test_a_signer_that_always_hangs_up_is_not_asked_for_ever(path: Path) -> None:
    """A request that is lost twice is given up, with an error that says to try later."""
    calls = []

    async def hang_up(channel: WorkerChannel, call: Call[Request]) -> Reply:
        calls.append(call.body)
        channel.close()
        return Done()

    async with signer(path, hang_up), SignerClient(path) as caller:
        with pytest.raises(TryLaterError, match="the signer did not answer: the connection was closed"):
            await caller.call(Ready(), 10)
    assert len(calls) == 2


async def test_nobody_listens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a signer a call fails after a moment, and the message names the socket and the reason."""
    monkeypatch.setattr(client, "WAIT_FOR_SIGNER_S", 0.2)
    async with SignerClient(path) as caller:
        with pytest.raises(TryLaterError) as caught:
            await caller.call(Ready(), 10)
    assert str(caught.value) == (
        f"the signer is not there (cannot connect to {path}: No such file or directory); is 'hsmitm signer' running?"
    )


async def test_a_dead_signers_socket_is_named(path: Path) -> None:
    """A socket file that a killed signer left behind is not waited for beyond the caller's own time."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with SignerClient(path) as caller:
        before = time.monotonic()
        with pytest.raises(TryLaterError, match=f"cannot connect to {path}: Connection refused"):
            await caller.call(Ready(), 0.2)
        assert time.monotonic() - before < 2


async def test_a_signer_that_is_silent_costs_one_call(path: Path) -> None:
    """A call that gets no answer in its time ends with its deadline; the connection is kept for others."""

    async def serve(_channel: WorkerChannel, call: Call[Request]) -> Reply:
        if isinstance(call.body, Ready):
            await asyncio.Event().wait()
        return Done()

    async with signer(path, serve), SignerClient(path) as caller:
        await until(lambda: caller.connected, "the client is connected")
        with pytest.raises(DeadlineError):
            await caller.call(Ready(), 0.2)
        assert await caller.call(Authorities(), 10) == Done()
        assert caller.generation == 1


@pytest.mark.parametrize(
    ("error", "seen", "text"),
    [
        (RefusedError("not this name"), RefusedError, "not this name"),
        (TryLaterError("no member"), TryLaterError, "no member"),
        (UnavailableError("no member"), UnavailableError, "no member"),
        (OverloadedError("too much"), OverloadedError, "too much"),
        (SessionLostError("stale"), TryLaterError, "the signer did not answer: stale"),
        (MemberLostError("the HSM broke"), TryLaterError, "the signer did not answer: the HSM broke"),
    ],
)
async def test_the_signers_errors_reach_the_caller(
    path: Path, error: Exception, seen: type[Exception], text: str
) -> None:
    """What the signer refuses is refused to the caller, once, in its words; a lost HSM may be back soon."""
    calls = []

    async def refuse(_channel: WorkerChannel, call: Call[Request]) -> Reply:
        calls.append(call.body)
        raise error

    async with signer(path, refuse), SignerClient(path) as caller:
        with pytest.raises(seen) as caught:
            await caller.call(Ready(), 10)
        assert (type(caught.value), str(caught.value)) == (seen, text)
        assert caller.connected
    assert len(calls) == 1


async def test_asks_once_for_the_command_line(path: Path) -> None:
    """The command line asks on a connection of its own, which it closes."""
    async with signer(path) as serving:
        assert await client.ask(path, CODEC, InboundKeys(), 10) == Done()
        (channel,) = serving.channels
        await until(lambda: not channel.connected, "the command line's connection is closed")


async def test_the_command_line_finds_no_signer(path: Path) -> None:
    """The command line names the socket that nobody listens at, and how to start a signer."""
    with pytest.raises(TryLaterError) as caught:
        await client.ask(path, CODEC, InboundKeys(), 10)
    assert str(caught.value) == (
        f"no signer listens at {path} (No such file or directory); start one with 'hsmitm run'"
    )
