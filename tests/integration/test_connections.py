"""Many connections, and those that do nothing: each kind has its bound, and others are served beside it."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.addons.edge.hellos import hello
from tests.integration import harness
from tests.integration.harness import OriginThread, System
from tests.integration.test_forward import tunnel
from tests.waiting import wait_until

_PER_CLIENT, _HANDSHAKES = 30, 10


@pytest.fixture(scope="module")
def narrow(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An hsmitm with small bounds, and a status page."""
    made = System.make(
        tmp_path_factory.mktemp("narrow") / "s", upstream_ca=origin_ca.pem, workers="1", not_tls='"pass"',
        connections_per_client=str(_PER_CLIENT), handshakes_per_client=str(_HANDSHAKES),
        hello_s="1.0", first_request_s="2.0", idle_s="3.0", tunnel_idle_s="4.0",
        status__listen=f'"127.0.0.1:{free_port()}"',
    )  # fmt: skip
    with made as system:
        yield system


def connect(system: System, source: str = "127.0.0.1") -> socket.socket:
    host, _, port = system.proxy.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=15, source_address=(source, 0))


def ended(connection: socket.socket, timeout_s: float = 0) -> bool:
    """Whether the other end has closed, within so many seconds."""
    if not select.select([connection], [], [], timeout_s)[0]:
        return False
    with suppress(ConnectionResetError):
        return connection.recv(65536) == b""
    return True


def _metric(system: System, line: str) -> float:
    address = system.config.status_listen
    assert address is not None
    done = subprocess.run(
        ["curl", "--silent", "--noproxy", "*", f"http://{address}/metrics"],
        capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
    return next((float(one.rpartition(" ")[2]) for one in done.stdout.splitlines() if one.startswith(line)), 0.0)


def _readyz(system: System) -> tuple[int, str]:
    address = system.config.status_listen
    assert address is not None
    done = subprocess.run(
        ["curl", "--silent", "--noproxy", "*", "--write-out", "%{http_code}", f"http://{address}/readyz"],
        capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
    return int(done.stdout[-3:]), done.stdout[:-3]


def test_one_address_has_its_share_of_connections(narrow: System, origin: OriginThread) -> None:
    """Who opens more than it may is closed at once, counted and named, and another client does not notice."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(narrow, "127.0.0.2")) for _ in range(_PER_CLIENT + 20)]
        wait_until(lambda: sum(map(ended, opened)) == 20, "those beyond the bound are closed", 5)
        reply = narrow.curl(f"https://beside.test:{origin.port}/")
        assert reply.ok, reply.errors
    wait_until(lambda: "refused (too-many-of-client)" in narrow.log, "the log has it", 5)
    wait_until(
        lambda: _metric(narrow, 'hsmitm_edge_refused_total{class="too-many-of-client"') == 20, "they are counted", 5
    )


def test_handshakes_in_progress_are_bounded(narrow: System, origin: OriginThread) -> None:
    """Who begins handshakes and does not go on has so many of them; its next ones are closed, others' go on."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(narrow, "127.0.0.3")) for _ in range(_HANDSHAKES + 10)]
        for one in opened:
            one.sendall(hello()[:100])
        reply = narrow.curl(f"https://beside.test:{origin.port}/")
        assert reply.ok, reply.errors
        wait_until(lambda: "refused (too-many-handshakes)" in narrow.log, "it is told", 5)
        wait_until(lambda: all(map(ended, opened)), "the others take too long for their ClientHello", 5)
    wait_until(lambda: "refused (slow-hello)" in narrow.log, "the log has it", 5)


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01", hello()[:200]], ids=["none", "1", "3", "200"])
def test_a_hello_that_never_ends_is_closed(narrow: System, origin: OriginThread, first: bytes) -> None:
    """After a CONNECT a client that sends part of a ClientHello, or a byte now and then, is let go."""
    begin = time.monotonic()
    with tunnel(narrow, "slow.test", origin.port) as connection:
        connection.sendall(first)
        while not ended(connection, 0.2):
            with suppress(OSError):
                connection.sendall(b"\x00" if len(first) > 4 else b"")
            assert time.monotonic() - begin < 10


@pytest.mark.parametrize("data", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: "], ids=["none", "1", "half"])
def test_a_client_without_a_request_is_let_go(narrow: System, data: bytes) -> None:
    """Nothing, or a head that comes byte by byte, is no request: the time for it is over in any case."""
    begin = time.monotonic()
    with connect(narrow) as connection:
        connection.sendall(data)
        while not ended(connection, 0.2):
            with suppress(OSError):
                connection.sendall(b"x" if data else b"")
            assert time.monotonic() - begin < 8
    assert time.monotonic() - begin > 1.5


def test_a_client_is_let_go_between_requests(narrow: System, origin: OriginThread) -> None:
    """A connection kept alive has its time for the next request; a drip of bytes is none."""
    with tunnel(narrow, "kept.test", origin.port) as connection:
        context = ssl.create_default_context(cafile=str(narrow.ca))
        with context.wrap_socket(connection, server_hostname="kept.test") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: kept.test\r\n\r\n")
            assert tls.recv(4096).startswith(b"HTTP/1.1 200")
            begin = time.monotonic()
            with suppress(OSError):
                tls.settimeout(0.2)
                while time.monotonic() - begin < 12:
                    tls.sendall(b"G")
                    with suppress(TimeoutError):
                        if not tls.recv(4096):
                            break
            assert 2 < time.monotonic() - begin < 9


def test_a_silent_tunnel_is_let_go_and_a_busy_one_stays(narrow: System) -> None:
    """A stream without a byte for as long as it may is closed; each byte gives it more time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            tunnel(narrow, "raw.test", port) as busy,
            server.accept()[0] as busy_end,
            tunnel(narrow, "raw.test", port) as silent,
            server.accept()[0],
        ):
            silent.sendall(b"\x00hello")
            busy.sendall(b"\x00")
            begin = time.monotonic()
            while not ended(silent, 0.3):
                busy_end.sendall(b"x")
                assert busy.recv(10)
                assert time.monotonic() - begin < 12
            assert time.monotonic() - begin > 3
            busy_end.sendall(b"x")
            assert busy.recv(10)


@pytest.mark.parametrize("limit", ["descriptors", "connections"])
def test_a_full_worker_says_so(
    softhsm_module: str,
    origin_ca: OriginCA,
    origin: OriginThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    """At the bound the next client is closed cleanly, the log and a metric say why, /readyz is not ready; and it is
    again when there is room. A worker at the bound still connects to servers for those who are in."""
    made = System.make(
        tmp_path / "s", upstream_ca=origin_ca.pem, workers="1",
        status__listen=f'"127.0.0.1:{free_port()}"', first_request_s="60.0",
        connections="40" if limit == "connections" else "0",
    )  # fmt: skip
    most = 40
    if limit == "descriptors":
        most = (256 - 64) // 2
        monkeypatch.setattr(harness, "HSMITM", ["prlimit", "--nofile=256:256", *harness.HSMITM])
    system = made.start()
    try:
        with ExitStack() as stack, tunnel(system, "in.test", origin.port) as early:
            opened = [stack.enter_context(connect(system)) for _ in range(most + 10)]
            wait_until(lambda: sum(map(ended, opened)) == 11, "those beyond the bound are closed", 10)
            wait_until(lambda: _readyz(system)[0] == 503, "it is not ready", 5)
            assert "as many connections as it may" in _readyz(system)[1]
            assert _metric(system, "hsmitm_connections_limit") == most
            assert _metric(system, 'hsmitm_edge_refused_total{class="too-many-connections"') >= 11
            wait_until(lambda: "refused (too-many-connections)" in system.log, "the log has it", 5)
            context = ssl.create_default_context(cafile=str(system.ca))
            with context.wrap_socket(early, server_hostname="in.test") as tls:
                tls.sendall(b"GET / HTTP/1.1\r\nHost: in.test\r\n\r\n")
                assert tls.recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: _readyz(system)[0] == 200, "it is ready again", 10)
        assert system.curl(f"https://again.test:{origin.port}/").ok
    finally:
        system.stop()
