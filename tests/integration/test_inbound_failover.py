"""Inbound handshakes while the HSM fails or is slow: none is lost, none holds up another, none keeps its thread."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.ha_system import HaSystem
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.waiting import wait_until

NAMES = ("ec.example.com", "rsa.example.com")


@pytest.fixture(scope="module")
def plain() -> Iterator[int]:
    """A server without TLS."""
    with plain_origin() as port:
        yield port


class Group:
    """Two members with the keys of two sites, in front of a plain server."""

    def __init__(self, directory: Path, plain: int, **edits: str) -> None:
        sites: list[InboundSystem] = []

        def prepare(made: HaSystem) -> None:
            sites.append(InboundSystem(made.directory))
            sites[0].generate(ec="p256", rsa="rsa-2048")

        self.system = HaSystem.make_ha(directory, "", prepare=prepare, **{"handshakes_per_client": "1000"} | edits)
        self.system.toml.write_text(self.system.toml.read_text().replace("sessions = 4", "sessions = 16"))
        self.sites = sites[0]
        self.sites.root.write_text(self.sites.site_ca.pem)
        self.sites.listener(tickets=False)
        for name in NAMES:
            self.sites.site(name, keys=[name.partition(".")[0]], upstream=f"http://127.0.0.1:{plain}")
        self.context = ssl.create_default_context(cafile=str(self.sites.root))

    def visit(self, name: str) -> bytes:
        """One new connection and one request: the answer's first line."""
        with (
            socket.create_connection(("127.0.0.1", self.sites.port), timeout=30) as raw,
            self.context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            return tls.recv(1000).partition(b"\r\n")[0]

    def worker_threads(self) -> int:
        """Threads of the worker."""
        (worker,) = self.system.pids("proxy.processes.worker")
        return len(list(Path(f"/proc/{worker}/task").iterdir()))


@pytest.fixture(scope="module")
def group(softhsm_module: str, plain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """A running one, with time enough for a queue of a hundred at a slow HSM."""
    made = Group(
        tmp_path_factory.mktemp("group"), plain, attempt_timeout_ms="3000", request_budget_ms="10000",
        mint_timeout_s="15.0", handshake_threads="128",
    )  # fmt: skip
    with made.system:
        made.system.until_up("m1", "m2")
        yield made
        assert "Traceback" not in made.system.log


def test_a_member_dies_in_the_middle_of_a_hundred_handshakes(group: Group) -> None:
    """All hundred clients complete their handshakes and their requests, through the member that is left."""
    for hsm in group.system.hsms.values():
        hsm.rules("C_Sign delay 150")
    try:
        together = threading.Barrier(100)

        def client(number: int) -> bytes:
            together.wait(30)
            return group.visit(NAMES[number % 2])

        with ThreadPoolExecutor(100) as pool:
            clients = [pool.submit(client, number) for number in range(100)]
            wait_until(lambda: all(group.system.of(one).sessions_busy >= 8 for one in ("m1", "m2")), "both sign", 20)
            os.kill(group.system.pid("m1"), signal.SIGKILL)
            answers = [one.result(60) for one in clients]
        assert answers == [b"HTTP/1.1 200 OK"] * 100
    finally:
        for hsm in group.system.hsms.values():
            hsm.clear()
    group.system.until_up("m1", "m2")


@pytest.mark.alone
def test_handshakes_that_wait_hold_up_nobody(group: Group) -> None:
    """While a hundred handshakes wait for a slow HSM, a client that is connected already is served at once."""
    with (
        socket.create_connection(("127.0.0.1", group.sites.port), timeout=30) as raw,
        group.context.wrap_socket(raw, server_hostname=NAMES[0]) as kept,
        ThreadPoolExecutor(64) as pool,
    ):
        client = http.client.HTTPConnection(NAMES[0])
        client.sock = kept
        for hsm in group.system.hsms.values():
            hsm.rules("C_Sign delay 400")
        try:
            waiting = [pool.submit(group.visit, NAMES[number % 2]) for number in range(64)]
            wait_until(lambda: all(group.system.of(one).sessions_busy >= 12 for one in ("m1", "m2")), "both sign", 20)
            for _ in range(10):
                began = time.monotonic()
                client.request("GET", "/")
                assert client.getresponse().read().startswith(b"GET / HTTP/1.1")
                assert time.monotonic() - began < 0.39  # a signature's time: it waited for none
            assert {one.result(60) for one in waiting} == {b"HTTP/1.1 200 OK"}
        finally:
            for hsm in group.system.hsms.values():
                hsm.clear()


def test_clients_that_go_away_free_their_threads(group: Group) -> None:
    """Clients that leave while their handshake waits for a signature take nothing from those that come after."""
    for hsm in group.system.hsms.values():
        hsm.rules("C_Sign delay 1000")
    hello = _hello(NAMES[0])
    try:
        leaving = [socket.create_connection(("127.0.0.1", group.sites.port), timeout=30) for _ in range(200)]
        for one in leaving:
            one.sendall(hello)
        wait_until(lambda: _steps(group) >= 100, "their handshakes wait", 20)
        for one in leaving:
            one.close()
        # Well before their signatures would all be there: 200 at 32 a second.
        wait_until(lambda: _steps(group) == 0, "every step was given up", 3)
    finally:
        for hsm in group.system.hsms.values():
            hsm.clear()
    assert group.visit(NAMES[0]) == b"HTTP/1.1 200 OK"
    assert group.worker_threads() <= 128 + 20  # the pool's, and those of mitmproxy, uvloop and name resolution


def test_an_hsm_that_does_not_answer_ends_in_an_alert(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """A client whose signature cannot be had is told so by an alert, in time, and the next one after the HSM's return
    is served."""
    made = Group(tmp_path / "s", plain)
    with made.system:
        made.system.until_up("m1", "m2")
        with made.system.outage():
            began = time.monotonic()
            with pytest.raises(ssl.SSLError, match="internal error"):
                made.visit(NAMES[0])
            assert time.monotonic() - began < 5
        made.system.until_up("m1", "m2")
        assert made.visit(NAMES[0]) == b"HTTP/1.1 200 OK"


def test_a_slow_client_gets_an_alert_and_no_thread(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """A client that begins a handshake and says no more is cut off when its time is up, with an alert."""
    made = Group(tmp_path / "s", plain, client_handshake_timeout_s="1.0")
    with made.system:
        made.system.until_up("m1", "m2")
        hello = _hello(NAMES[0])
        for said in (hello[:40], hello, b""):
            with socket.create_connection(("127.0.0.1", made.sites.port), timeout=20) as client:
                client.sendall(said)
                heard = b""
                while data := client.recv(65536):
                    heard += data
            assert len(heard) >= 7, "an alert, in the clear or encrypted"
            if said != hello:
                assert heard == bytes((21, 3, 3, 0, 2, 2, 80))
        made.system.until_logged("too-slow")
        assert made.visit(NAMES[0]) == b"HTTP/1.1 200 OK"


def _hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _steps(group: Group) -> int:
    """Handshake steps in progress, as the worker reports them each second."""
    return int(group.system.status().counters["inbound_waiting"])
