"""Workers that are taken over and hold up what they can, at the signer's real sockets, beside one that is honest."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from hsm.errors import OverloadedError, RefusedError, TryLaterError
from hsm.signer.settings import SignerSettings
from hsm.signer.signer import Signer
from hsm.wire import census, endpoint, frames, pressure
from hsm.wire.admin import CODEC, Status, StatusReport
from hsm.wire.client import SignerClient, ask
from hsm.wire.frames import MAX_FRAME, Call
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET
from hsm.wire.worker import CODEC as WORKER_CODEC
from hsm.wire.worker import Authorities, Family, Report
from tests.hsm.members import kill
from tests.hsm.signers import mint
from tests.softhsm import in_s
from tests.waiting import until

pytestmark = pytest.mark.alone


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
    monkeypatch.setattr(pressure, "HALF_FRAMES_MOST", 2 * MAX_FRAME)
    most = (MAX_FRAME).to_bytes(4) + bytes(MAX_FRAME - 100)
    with connections(settings.run.socket(WORKER_SOCKET), 6) as greedy:
        async with bystander(worker) as took:
            for one in greedy:
                rest = memoryview(most)
                while rest and not ended(one):
                    with suppress(BlockingIOError):
                        rest = rest[one.send(rest) :]
                    await asyncio.sleep(0)
            await until(lambda: count(signer, "half frames of all") >= 4, "some are ended")
        assert [ended(one) for one in greedy][:4] == [True] * 4
        assert signer._intake._sum <= 2 * MAX_FRAME
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


# --- reports that lie -------------------------------------------------------------------------------------------------


async def test_a_report_of_sixty_thousand_listeners(
    signer: Signer, worker: SignerClient, settings: SignerSettings
) -> None:
    """A report with far more than a worker has ends its connection unread, and holds nobody up."""
    path = settings.run.socket(WORKER_SOCKET)
    listeners = [f"10.0.0.1:{number}" for number in range(60_000)]
    async with bystander(worker) as took:
        with pytest.raises(TryLaterError, match="closed the connection"):
            await ask(path, WORKER_CODEC, Report(1, 0, 0.0, listeners, 0, []), 5)
        for report in (
            Report(1, 0, 0.0, ["a" * 81], 0, []),
            Report(1, 0, 0.0, ["two\nlines:1"], 0, []),
            Report(1, 0, 0.0, [], -1, []),
            Report(1, 0, -1.0, [], 0, []),
            Report(1, 0, 0.0, [], 0, [Family("a", "counter", "", [])] * 129),
            Report(1, 0, 0.0, [], 0, [Family("a" * 257, "counter", "", [])]),
        ):
            with pytest.raises(TryLaterError):
                await ask(path, WORKER_CODEC, report, 5)
        for report in (Report(1, 0, float("nan"), [], 0, []), Report(1, 0, 1e11, [], 0, [])):
            with pytest.raises((RefusedError, TryLaterError)):
                await ask(path, WORKER_CODEC, report, 5)
        assert signer.status().workers == []
    assert max(took) < 1


async def test_numbers_that_are_made_up(signer: Signer, worker: SignerClient, settings: SignerSettings) -> None:
    """A worker cannot have the signer show mints that it did not make, metrics that do not exist, or less than before;
    what it does not get shown is counted under its index."""
    await mint(worker)

    def report(*families: Family) -> Report:
        return Report(1, 3, time.time(), [], 0, list(families))

    requests = Family("hsmitm_requests", "counter", "", [("hsmitm_requests_total", {}, 5.0)])
    await worker.call(report(requests), 5)
    await worker.call(
        report(
            Family("hsmitm_mints", "counter", "", [("hsmitm_mints_total", {"result": "minted"}, -999_999_980.0)]),
            Family("hsmitm_requests", "gauge", "", [("hsmitm_requests_total", {}, 4.0)]),
            *(Family(f"made_up_{number}", "gauge", "A lie", [(f"made_up_{number}", {}, 1.0)]) for number in range(50)),
        ),
        5,
    )
    totals = signer.totals()
    assert totals.value("hsmitm_mints_total") == 1
    assert totals.value("hsmitm_requests_total") == 5
    assert not [family.name for family in totals.families() if family.name.startswith("made_up")]
    assert totals.value("hsmitm_reported_refused_total", worker="3", why="unknown metric") == 51
    assert totals.value("hsmitm_reported_refused_total", worker="3", why="backwards") == 1


async def test_another_workers_index(signer: Signer, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker reports under one index for its life, and none that another one has."""
    pids = iter([1001, 1002, 1001])
    monkeypatch.setattr(endpoint, "peer", lambda _: (next(pids), os.getuid()))
    path = settings.run.socket(WORKER_SOCKET)

    async def refused(worker: SignerClient, index: int) -> None:
        with pytest.raises(RefusedError, match=r"is not of index"):
            await worker.call(Report(1, index, time.time(), [], 0, []), 5)

    async with SignerClient(path) as first:
        await first.call(Report(1, 0, time.time(), [], 0, []), 5)
        async with SignerClient(path) as second:
            await second.call(Report(1, 1, time.time(), [], 0, []), 5)
            await refused(second, 0)
            async with SignerClient(path) as again:
                await refused(again, 1)
                await refused(again, 2)
            assert [(one.index, one.pid) for one in signer.status().workers] == [(0, 1001), (1, 1002)]
        await until(lambda: len(signer._workers) == 1, "the second is gone")
        await refused(first, 1)


async def test_workers_of_another_container(
    signer: Signer, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers whose process ids mean nothing here, for they are of another pid namespace, are not taken for one."""
    monkeypatch.setattr(endpoint, "peer", lambda _: (0, os.getuid()))
    path = settings.run.socket(WORKER_SOCKET)
    async with AsyncExitStack() as stack:
        for index in range(2 * census.WORKERS.process):
            worker = await stack.enter_async_context(SignerClient(path))
            await worker.call(Report(1, index, time.time(), [], 0, []), 5)
            assert await mint(worker)
        assert len({one.pid for one in signer.status().workers}) == 2 * census.WORKERS.process


async def test_a_flood_of_reports(signer: Signer, worker: SignerClient, settings: SignerSettings) -> None:
    """A worker that reports all the time is told to do so less often, and holds nobody up; nor is the status late."""
    lies = [
        Family(name, "", "", [(f"{name}_total", {"site": f"{place}.example", "result": "full"}, 1.0)
                              for place in range(1000)])
        for name in ("hsmitm_inbound_handshakes",)
    ]  # fmt: skip
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as flooding:
        await until(lambda: flooding.connected, "it is connected")
        async with bystander(worker) as took:
            answers = await asyncio.gather(
                *[flooding.call(Report(1, 0, time.time(), [], 0, lies), 10) for _ in range(100)],
                return_exceptions=True,
            )
            started = time.monotonic()
            assert signer.status().workers
            assert signer.totals().value("hsmitm_inbound_handshakes_total") == 1000
            assert time.monotonic() - started < 0.5
    assert sum(isinstance(one, OverloadedError) for one in answers) > 50
    assert max(took) < 1
