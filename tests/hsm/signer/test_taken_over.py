"""Workers that are taken over and hold up what they can, at the signer's real sockets, beside one that is honest."""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from hsm.signer.settings import SignerSettings
from hsm.signer.signer import Signer
from hsm.wire import census, frames, pressure
from hsm.wire.admin import CODEC, Status, StatusReport
from hsm.wire.client import SignerClient, ask
from hsm.wire.frames import MAX_FRAME, Call
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET
from hsm.wire.worker import Authorities
from tests.hsm.members import kill
from tests.hsm.signers import mint
from tests.softhsm import in_s
from tests.waiting import until


@asynccontextmanager
async def bystander(worker: SignerClient) -> AsyncIterator[list[float]]:
    """An honest worker mints all the while; how long each leaf took, in seconds. None fails."""
    took: list[float] = []
    leave = asyncio.Event()

    async def work() -> None:
        while not leave.is_set():
            started = time.monotonic()
            assert await mint(worker)
            took.append(time.monotonic() - started)

    working = asyncio.create_task(work())
    try:
        yield took
    finally:
        leave.set()
        await working
    assert took


@contextmanager
def connections(path: Path, number: int) -> Iterator[list[socket.socket]]:
    """Connections that a program of its own makes: nobody of ours writes such a client."""
    with ExitStack() as stack:
        made = []
        for _ in range(number):
            one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            one.setblocking(False)
            one.connect(str(path))
            made.append(one)
        yield made


def ended(connection: socket.socket) -> bool:
    """Whether the other end closed it."""
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def count(signer: Signer, bound: str) -> float:
    """How many connections were refused or ended for that."""
    return signer.totals().value("hsmitm_worker_connections_ended_total", bound=bound)


async def test_answers_that_nobody_takes(
    signer: Signer, worker: SignerClient, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that asks and asks, and reads no answer, is not read from any more; in the end its connection is closed.
    What waits for it in the meantime is bounded."""
    monkeypatch.setattr(pressure, "UNREAD_S", 0.5)
    numbers = itertools.count()
    await until(lambda: worker.connected, "the worker is connected")
    honest = set(signer._workers._connected)
    with connections(settings.run.socket(WORKER_SOCKET), 1) as (greedy,):
        async with bystander(worker) as took:
            await until(lambda: len(signer._workers._connected) == 2, "both are connected")
            (channel,) = set(signer._workers._connected) - honest
            waiting, stopped, rest = 0, time.monotonic(), b""
            while time.monotonic() - stopped < 0.3:
                rest = rest or b"".join(frames.encode(Call(next(numbers), in_s(60), Authorities())) for _ in range(500))
                with suppress(BlockingIOError):
                    rest = rest[greedy.send(rest) :]
                    stopped = time.monotonic()
                assert channel._transport is not None
                waiting = max(waiting, channel._transport.get_write_buffer_size())
                await asyncio.sleep(0)
            await until(lambda: count(signer, "unread answers") == 1, "it is closed")
        assert pressure.UNREAD_HIGH < waiting <= pressure.UNREAD_MOST
        assert ended(greedy)
    assert max(took) < 1


async def test_a_frame_that_never_ends(
    signer: Signer, worker: SignerClient, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that begins a frame and does not go on, or goes on byte by byte, is cut off after its time; one that
    says nothing at all harms nobody, and stays."""
    monkeypatch.setattr(pressure, "HALF_FRAME_S", 0.3)
    path = settings.run.socket(WORKER_SOCKET)
    with connections(path, 3) as (stalled, trickling, idle):
        async with bystander(worker) as took:
            stalled.send((100).to_bytes(4) + b"x")
            trickling.send(b"\0")

            def cut() -> bool:
                with suppress(OSError):
                    trickling.send(b"\1")
                return ended(trickling)

            await until(cut, "it is cut off though it sends")
            await until(lambda: ended(stalled), "it is cut off")
        assert not ended(idle)
    assert count(signer, "half frame") == 2
    assert max(took) < 1


async def test_half_frames_in_all(
    signer: Signer, worker: SignerClient, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many connections with most of a long frame each do not fill the memory: those that have waited longest end."""
    monkeypatch.setattr(pressure, "HALF_FRAMES_MOST", 4 * MAX_FRAME)
    most = (MAX_FRAME).to_bytes(4) + bytes(MAX_FRAME - 100)
    with connections(settings.run.socket(WORKER_SOCKET), 10) as greedy:
        async with bystander(worker) as took:
            for one in greedy:
                rest = memoryview(most)
                while rest and not ended(one):
                    with suppress(BlockingIOError):
                        rest = rest[one.send(rest) :]
                    await asyncio.sleep(0)
            await until(lambda: count(signer, "half frames of all") >= 6, "some are ended")
        assert [ended(one) for one in greedy][:6] == [True] * 6
        assert signer._intake._sum <= 4 * MAX_FRAME
    assert max(took) < 1


_CONNECT = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
made = []
for _ in range(1100):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.settimeout(5)
    try:
        one.connect(sys.argv[1])
    except OSError:
        continue
    made.append(one)
print(len(made), flush=True)
sys.stdin.read()
"""


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    """This process, and with it the signer, has the usual number of descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_thousand_connections(
    signer: Signer, worker: SignerClient, settings: SignerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that connects a thousand times gets a few of them: the command line is answered, another worker comes
    and mints, a member that is killed is started again; and the log has one line of it."""
    path = settings.run.socket(WORKER_SOCKET)
    await until(lambda: worker.connected, "the worker is connected")
    with few_descriptors(1024):
        attacker = subprocess.Popen(
            [sys.executable, "-P", "-c", _CONNECT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            async with bystander(worker):
                assert attacker.stdout is not None
                await asyncio.to_thread(attacker.stdout.readline)
                assert isinstance(await ask(settings.run.socket(ADMIN_SOCKET), CODEC, Status(), 5), StatusReport)
                async with SignerClient(path) as another:
                    assert await mint(another)
            assert len(signer._workers._connected) <= census.WORKERS.process + 2
            (member,) = signer.group.members
            kill(member)
            await until(lambda: member.starts == 2 and member.serving, "the member is started again")
            assert await mint(worker)
        finally:
            attacker.kill()
            attacker.communicate()
    refused = [line for line in caplog.messages if "refused a connection of process" in line]
    assert [line.partition(" (user")[0] for line in refused] == [f"refused a connection of process {attacker.pid}"]
    assert f"it has {census.WORKERS.process} connections already" in refused[0]
    assert count(signer, "limit") > 100
