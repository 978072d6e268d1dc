"""What no client can do to the status page: keep it, fill it, or make it work for nothing."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from hsm.errors import MisconfiguredError
from hsm.wire.status import Seen
from hsm.wire.worker import Family
from proxy.config.section import Address
from proxy.status import server, sight
from proxy.status.hosts import Hosts
from proxy.status.page import Page
from tests.proxy.status.served import Spoken, asked, exchange, page_at, server_at, speaking
from tests.waiting import until

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def spoken(tmp_path: Path) -> AsyncIterator[Spoken]:
    """A signer that answers."""
    async with speaking(tmp_path / "s") as signer:
        yield signer


@pytest.fixture
async def port(spoken: Spoken, tmp_path: Path) -> AsyncIterator[int]:
    """A page that asks it."""
    async with page_at(tmp_path / "s") as found:
        yield found


@pytest.fixture
def many_files() -> Iterator[None]:
    """Descriptors enough for both ends of many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _held(port: int, number: int) -> list[socket.socket]:
    """Connections that say nothing."""
    loop, held = asyncio.get_running_loop(), []
    for _ in range(number):
        held.append(socket.socket())
        held[-1].setblocking(False)
        await loop.sock_connect(held[-1], ("127.0.0.1", port))
        if len(held) % 50 == 0:
            await asyncio.sleep(0.01)  # the page accepts on this loop, too
    return held


async def test_idle_connections_make_room(port: int, many_files: None) -> None:
    """Behind a thousand connections that say nothing a monitor has its answer at once."""
    held = await _held(port, 1100)
    async with asyncio.timeout(2):
        assert await asked(port, "/readyz") == (200, "ready\n")
    (counted,) = re.findall(r"(?m)^hsmitm_status_connections_displaced_total (.*)$", (await asked(port, "/metrics"))[1])
    assert float(counted) >= 1060
    for one in held:
        one.close()


async def test_another_address_loses_nothing(port: int, many_files: None) -> None:
    """Whoever takes more than his share loses his own connections, not another address's."""
    other = socket.socket()
    other.bind(("127.0.0.2", 0))
    other.connect(("127.0.0.1", port))
    held = await _held(port, 200)
    assert await asked(port, "/readyz") == (200, "ready\n")
    other.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(other, GET)
    assert (await loop.sock_recv(other, 100)).startswith(b"HTTP/1.1 200")
    for one in [other, *held]:
        one.close()


async def test_a_head_that_trickles(port: int) -> None:
    """A client that sends its head a byte at a time is not waited for longer than for one that sends nothing."""
    begun = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def trickle() -> None:
        for byte in GET[:30] * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(server.HEAD_S + 3):
        assert await reader.read() == b""
    assert asyncio.get_running_loop().time() - begun > server.HEAD_S - 1
    trickling.cancel()
    writer.close()


@pytest.mark.parametrize("head", [b"GET /" + b"a" * 9000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2000])
async def test_a_head_without_end(port: int, head: bytes) -> None:
    """A head longer than any monitor's ends its connection; it is not collected."""
    with pytest.raises((ConnectionResetError, BrokenPipeError, AssertionError)):
        assert await exchange(port, head)
    assert await asked(port, "/healthz") == (200, "ok\n")


async def test_pipelined_requests_are_one(port: int, spoken: Spoken, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection has one answer, however many requests are sent on it."""
    monkeypatch.setattr(sight, "FRESH_S", 0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET * 200)
    answer = b""
    try:
        while data := await reader.read(65536):
            answer += data
    except ConnectionResetError:
        pass
    assert answer.count(b"HTTP/1.1 200") <= 1
    writer.close()
    assert await asked(port, "/healthz") == (200, "ok\n")
    assert spoken.asked == 2


async def test_an_answer_that_is_not_read(spoken: Spoken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read its answer is rid of after a while, with what was kept for it."""
    monkeypatch.setattr(server, "LIFETIME_S", 0.5)
    spoken.seen = Seen("", [Family("a", "gauge", "b" * 900_000, [("a", {}, 1.0)])])
    async with server_at(tmp_path / "s") as (serving, port):
        held = await _held(port, 16)
        for one in held:
            one.send(GET)
        await until(lambda: len(serving._open) == 16, "all are there")
        await until(lambda: spoken.asked, "they are answered")
        await until(lambda: not serving._open, "none is kept")
        for one in held:
            one.close()


async def test_a_taken_address(port: int, tmp_path: Path) -> None:
    """An address that another program has is named, with the setting."""
    registry, address = CollectorRegistry(), Address("127.0.0.1", port)
    second = server.StatusServer(Page(sight.Sight(tmp_path / "s"), Hosts(address, []), registry), registry)
    with pytest.raises(MisconfiguredError, match=r"status\.listen: the address 127.0.0.1:.* is in use"):
        second.serve_at(address)
