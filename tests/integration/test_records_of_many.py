"""Ten thousand connections of all kinds, and a worker that is killed: exactly as many records as there should be."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.integration.decryption_records import Records
from tests.integration.harness import OriginThread, System
from tests.waiting import until

pytestmark = pytest.mark.alone

_MANY = 10_000
_AT_ONCE = 64
_POLICY = """
[[policy.rules]]
name = "closed"
to = { domains = ["closed.mix.test"] }
action = "block"
"""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Clients:
    """Clients of one kind each, of the proxy at `address`."""

    def __init__(self, address: str, port: int, trust: Path) -> None:
        self._host, _, proxy_port = address.rpartition(":")
        self._proxy_port, self._port = int(proxy_port), port
        self._trusting = ssl.create_default_context(cafile=str(trust))
        self._distrusting = ssl.create_default_context()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Stream]:
        """A connection to the proxy."""
        reader, writer = await asyncio.open_connection(self._host, self._proxy_port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    @asynccontextmanager
    async def tunnel(self, host: str, port: int = 0, status: int = 200) -> AsyncIterator[Stream]:
        """A connection through it, or an answer that there is none."""
        async with self.open() as (reader, writer):
            place = f"{host}:{port or self._port}"
            writer.write(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
            yield reader, writer

    async def decrypted(self) -> None:
        """A request over TLS."""
        async with self.tunnel("decrypted.mix.test") as (reader, writer):
            await writer.start_tls(self._trusting, server_hostname="decrypted.mix.test")
            writer.write(b"GET / HTTP/1.1\r\nHost: decrypted.mix.test\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")

    async def distrusting(self) -> None:
        """Who does not know the CA."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._distrusting.wrap_bio(incoming, outgoing, server_hostname="distrusting.mix.test")
        async with self.tunnel("distrusting.mix.test") as (reader, writer):
            for _ in range(9):
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
                except ssl.SSLCertVerificationError:
                    writer.write(outgoing.read())  # the alert, which asyncio's own TLS keeps to itself
                    await reader.read()
                    return
            raise AssertionError("it trusts everybody")

    async def plain(self) -> None:
        """A request in the clear, to a server that answers nothing to it."""
        async with self.open() as (reader, writer):
            place = f"plain.mix.test:{self._port}"
            writer.write(f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode())
            assert b" 502 " in (await reader.read())[:20]

    async def closed(self) -> None:
        """Who is blocked by a rule."""
        async with self.tunnel("closed.mix.test", status=403):
            pass

    async def denied(self) -> None:
        """Who wants a denied destination."""
        async with self.tunnel("169.254.169.254", 80, status=403):
            pass

    async def nowhere(self) -> None:
        """A name that is none."""
        async with self.tunnel("nowhere.invalid", status=502):
            pass

    async def refused(self) -> None:
        """A server that is not there."""
        async with self.tunnel("refused.mix.test", 1, status=502):
            pass

    async def stranger(self) -> None:
        """Neither TLS nor HTTP."""
        await self._says("stranger.mix.test", b"SSH-2.0-OpenSSH_9.6\r\n")

    async def malformed(self) -> None:
        """No ClientHello, though it begins like one."""
        await self._says("malformed.mix.test", b"\x16\x03\x01\0\x04\1\0\0\0")

    async def _says(self, host: str, data: bytes) -> None:
        async with self.tunnel(host) as (reader, writer):
            writer.write(data)
            with suppress(ConnectionError):
                await reader.read()

    async def gone(self) -> None:
        """Who asks for something and goes."""
        async with self.tunnel("gone.mix.test"):
            pass


_EXPECTED = {
    "decrypted.mix.test": ("decrypted", ""),
    "distrusting.mix.test": ("failed", "client-distrusts-ca"),
    "plain.mix.test": ("failed", "connect-failed"),
    "closed.mix.test": ("blocked", "blocked-by-policy"),
    "169.254.169.254": ("blocked", "blocked-destination"),
    "nowhere.invalid": ("failed", "dns-failed"),
    "refused.mix.test": ("failed", "connect-failed"),
    "stranger.mix.test": ("failed", "not-tls"),
    "malformed.mix.test": ("failed", "malformed-hello"),
    "gone.mix.test": ("failed", "client-closed"),
}


@pytest.fixture
def running(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> Iterator[System]:
    """Two workers, and a status page."""
    status = f"127.0.0.1:{free_port()}"
    made = System.make(
        tmp_path / "s", upstream_ca=origin_ca.pem, workers="2", status__listen=f'"{status}"', lookups_per_client="256",
        handshakes_per_client="256", new_names_per_s="10000", new_names_burst="10000",
    )  # fmt: skip
    made.toml.write_text(made.toml.read_text() + _POLICY)
    with made:
        yield made


@pytest.fixture
def clients(running: System, origin: OriginThread) -> _Clients:
    """Of that."""
    return _Clients(running.proxy, origin.port, running.ca)


@pytest.fixture
def victim(running: System) -> int:
    """The process of its first worker."""
    return min(running.status().workers, key=lambda worker: worker.index).pid


def _metric(system: System, name: str) -> float:
    """The sum of a counter's samples, as Prometheus reads them."""
    address = system.config.file.status.listen
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}_total"))


async def test_each_of_ten_thousand_connections_has_its_record(running: System, clients: _Clients) -> None:
    """Ten kinds of clients, mixed: exactly one record for each, of what was provoked, and the counter says the same."""
    kinds: list[Callable[[], Awaitable[None]]] = [
        clients.decrypted, clients.distrusting, clients.plain, clients.closed, clients.denied, clients.nowhere,
        clients.refused, clients.stranger, clients.malformed, clients.gone,
    ]  # fmt: skip
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with turns:
            await kinds[number % len(kinds)]()

    async with asyncio.TaskGroup() as group:
        for number in range(_MANY):
            group.create_task(one(number))
    records = Records(running.directory / "decryption.jsonl")
    await until(lambda: len(records.lines()) >= _MANY, "every record is there", 30)
    told = records.all()
    found = collections.Counter(
        (one["destination"]["address"], one["event"]["action"], one["hsmitm"].get("error", {}).get("class", ""))
        for one in told
    )
    assert found == {(host, *what): _MANY // len(kinds) for host, what in _EXPECTED.items()}
    assert len({one["event"]["id"] for one in told}) == _MANY
    await until(lambda: _metric(running, "hsmitm_decryption_records_written") == _MANY, "the counter says so")
    assert _metric(running, "hsmitm_decryption_records_dropped") == 0
    assert _metric(running, "hsmitm_connections") == _MANY


async def test_a_killed_worker_loses_its_open_connections_alone(
    running: System, clients: _Clients, victim: int
) -> None:
    """What had ended has its record. What was open at the worker that was killed has none, and the next worker says
    how many these were: in the log, and as a metric."""
    records = Records(running.directory / "decryption.jsonl")
    for _ in range(50):
        await clients.decrypted()
    await until(lambda: len(records.lines()) == 50, "what has ended is recorded")
    opened = [await _held(clients) for _ in range(40)]
    os.kill(victim, signal.SIGKILL)
    cut = [one for one in await asyncio.gather(*map(_is_cut, opened)) if one]
    assert 0 < len(cut) < 40
    running.until_logged(f"{len(cut)} connections ended with the worker before this one: there is no record of them")
    for one in opened:
        one[1].close()
    await until(lambda: len(records.lines()) == 50 + 40 - len(cut), "the other worker's are recorded")
    await until(lambda: _metric(running, "hsmitm_decryption_records_lost") == len(cut), "the metric says so")
    assert running.stop() == 0
    assert len(records.all()) == 90 - len(cut)


async def _held(clients: _Clients) -> Stream:
    """A tunnel that stays open."""
    reader, writer = await asyncio.open_connection(clients._host, clients._proxy_port)
    writer.write(f"CONNECT held.test:{clients._port} HTTP/1.1\r\nHost: held.test\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    return reader, writer


async def _is_cut(stream: Stream) -> bool:
    """Whether the other end is gone; one that is there says nothing."""
    try:
        return await asyncio.wait_for(stream[0].read(1), 0.5) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True
