"""The log of a running hsmitm: its reader stops nobody, and no client fills it. Real processes and pipes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.rig.port import free_port
from hsm.errors import HsmitmError
from hsm.wire.client import SignerClient
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import Mint
from proxy.demo.origin import OriginCA
from tests.hsm.signers import leaf_spki
from tests.integration.harness import HSMITM, OriginThread, System
from tests.waiting import wait_until


class Reader:
    """Who reads the log of a system, into its file, and can stop for a while."""

    def __init__(self, log: Path) -> None:
        self._reading, self.writing = os.pipe()
        self._log = log
        self._going = threading.Event()
        self._going.set()
        self._resting = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._log.open("ab", buffering=0) as log:
            while True:
                if not self._going.is_set():
                    self._resting.set()
                    self._going.wait()
                data = os.read(self._reading, 4096)
                if not data:
                    return
                log.write(data)

    def stop(self) -> None:
        """Read no more, with the pipe full."""
        self._resting.clear()
        self._going.clear()
        os.write(self.writing, b"this is the last line that is read\n")
        assert self._resting.wait(10)
        ours = os.open(f"/proc/self/fd/{self.writing}", os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(ours, b"x" * 4095 + b"\n")
        with suppress(BlockingIOError):
            while True:
                os.write(ours, b"\n")
        os.close(ours)

    def go_on(self) -> None:
        """Read again."""
        self._going.set()

    def close(self) -> None:
        """After the system's end."""
        os.close(self.writing)
        self._going.set()
        self._thread.join(10)
        os.close(self._reading)


@pytest.fixture(scope="module")
def read(
    softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[System, Reader]]:
    """A system whose log goes to a reader."""
    own = System.make(tmp_path_factory.mktemp("read") / "s", upstream_ca=origin_ca.pem, workers="1")
    own.toml.write_text(own.toml.read_text().replace('listen = ""', f'listen = "127.0.0.1:{free_port()}"'))
    reader = Reader(own.log_path)
    own.process = subprocess.Popen(
        [*HSMITM, "run", "--config", str(own.toml)],
        stdin=subprocess.DEVNULL, stdout=reader.writing, stderr=reader.writing, env=own.surroundings,
    )  # fmt: skip
    try:
        own.wait_ready()
        yield own, reader
    finally:
        reader.go_on()
        own.stop()
        reader.close()


def ready(system: System) -> bool:
    """Whether the status page says so."""
    with urllib.request.urlopen(f"http://{system.config.status_listen}/readyz", timeout=5) as reply:
        return bool(reply.status == 200)


def refused(system: System, proxy: str, times: int) -> None:
    """So many requests for a server that is not there: a line each, if all were told."""
    host, _, port = proxy.rpartition(":")
    nobody = free_port()
    for _ in range(times):
        with socket.create_connection((host, int(port)), timeout=5) as one:
            one.sendall(f"CONNECT 127.0.0.1:{nobody} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert one.recv(4096).startswith(b"HTTP/1.1 ")


def test_a_reader_that_stalls_stops_nobody(read: tuple[System, Reader], origin: OriginThread) -> None:
    """While nobody reads the log, known hosts are served, refusals answered, `status` and the page say what is so; a
    new host gets no leaf, for there would be no record of it. When the log is read again, everything is as before."""
    system, reader = read
    known, proxy = f"https://known.test:{origin.port}/", system.proxy
    assert system.curl(known).ok
    reader.stop()
    for _ in range(5):
        refused(system, proxy, 20)
        assert system.curl(known, "--max-time", "5", proxy=proxy).ok
    assert ready(system)
    before = system.status().counters
    assert system.curl(f"https://unrecorded.test:{origin.port}/", proxy=proxy).exit
    assert system.status().counters["minted"] == before["minted"]
    assert system.curl(known, "--max-time", "5", proxy=proxy).ok
    reader.go_on()
    assert system.curl(f"https://after.test:{origin.port}/").ok
    wait_until(lambda: "no certificate for unrecorded.test: no leaf without a record of it" in system.log, "it is told")
    system.until_logged("minted names=after.test")


def test_refused_connections_are_a_few_lines(read: tuple[System, Reader]) -> None:
    """Requests for a server that is not there are ten lines a second and a count, however many they are."""
    system, _ = read
    before = len(system.log.splitlines())
    refused(system, system.proxy, 500)
    wait_until(lambda: " more like it in " in system.log, "the rest is counted")
    said = system.log.splitlines()[before:]
    assert len(said) < 150, len(said)


def test_refused_leaves_are_a_few_short_lines(read: tuple[System, Reader]) -> None:
    """A worker that is taken over and asks for leaves that may not be, with names as long as a frame may have, writes
    some ten lines, none longer than 4 KiB; and all are counted."""
    system, _ = read
    before = system.log_path.stat().st_size
    errors = system.status().counters["mint_errors"]

    async def ask() -> None:
        async with SignerClient(system.config.run.socket(WORKER_SOCKET)) as worker:
            for names in [["a" * 300_000], ["*.b" * 80] * 1000, ["c\n2026-01-01T00:00:00.000 INFO signer minted"]] * 40:
                with pytest.raises(HsmitmError):
                    await worker.call(Mint("trust", names, leaf_spki()), 10)

    asyncio.run(ask())
    assert system.status().counters["mint_errors"] >= errors + 120
    wait_until(lambda: " more like it in " in _since(system, before), "the rest is counted")
    said = _since(system, before)
    assert len(said) < 100_000
    assert all(len(line) < 4096 for line in said.split("\n"))
    assert [line for line in said.split("\n") if line.startswith("2026-01-01T00:00:00.000 INFO")] == []


def test_it_ends_although_nobody_reads(read: tuple[System, Reader]) -> None:
    """hsmitm that is told to stop does so in time, with nobody reading what it says of that."""
    system, reader = read
    reader.stop()
    refused(system, system.proxy, 50)
    assert system.stop(timeout_s=15) == 0
    reader.go_on()


def _since(system: System, size: int) -> str:
    return system.log_path.read_bytes()[size:].decode()
