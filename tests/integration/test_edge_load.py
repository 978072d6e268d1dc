"""A client that asks for more than its share costs a worker no memory and others no time. Measured, so alone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from bench.report.processes import cpu_s, memory
from proxy.demo.origin import OriginCA
from tests.addons.edge.hellos import hello, padded, records
from tests.integration.harness import OriginThread, System
from tests.integration.test_connections import connect, ended
from tests.integration.test_forward import tunnel
from tests.waiting import wait_until

pytestmark = pytest.mark.alone

_MEMORY_MB = 64
_BESIDE_S = 0.25


@pytest.fixture(scope="module")
def attacked(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An hsmitm with the bounds that it has by default."""
    made = System.make(
        tmp_path_factory.mktemp("attacked") / "s", upstream_ca=origin_ca.pem, workers="1", not_tls='"pass"',
        connect_timeout_s="3.0",
    )  # fmt: skip
    with made as system:
        yield system


@contextmanager
def _measured(system: System, origin: OriginThread) -> Iterator[Callable[[], tuple[float, float]]]:
    """CPU seconds and MB that the worker has taken since."""
    assert system.curl(f"https://beside.test:{origin.port}/").ok
    (pid,) = system.worker_pids()
    cpu, held = cpu_s([pid])[pid], _memory_mb(pid)
    yield lambda: (cpu_s([pid])[pid] - cpu, _memory_mb(pid) - held)


def _memory_mb(pid: int) -> float:
    return memory([pid]).rss_kb / 1000


def _beside_s(system: System, origin: OriginThread) -> float:
    """How long a well-behaved client's request takes."""
    begin = time.monotonic()
    with tunnel(system, "beside.test", origin.port):
        return time.monotonic() - begin


HELLOS = {
    "16 MB": b"".join(records(b"\x01\xff\xff\xff" + bytes(16380), 16384) for _ in range(1)) + bytes(4_000_000),
    "54 kB in one-byte records": records(padded(9000), 1),
    "64 kB in small records": records(padded(64000), 1200),
}


@pytest.mark.parametrize("what", HELLOS)
def test_a_hello_costs_its_bytes(attacked: System, origin: OriginThread, what: str) -> None:
    """A large ClientHello, in as many pieces as there can be, is refused or read at the cost of its bytes."""
    data = HELLOS[what]
    with _measured(attacked, origin) as taken, ExitStack() as stack:
        alone = min(_beside_s(attacked, origin) for _ in range(3))
        opened = [stack.enter_context(tunnel(attacked, "big.test", origin.port)) for _ in range(5)]
        for start in range(0, min(len(data), 200_000), 1000):
            for one in opened:
                with suppress(OSError):
                    one.sendall(data[start : start + 1000])
        beside = min(_beside_s(attacked, origin) for _ in range(3))
        cpu, grown = taken()
    assert beside < alone + _BESIDE_S
    assert cpu < 2.5
    assert grown < _MEMORY_MB


def test_what_comes_too_early_stays_at_its_sender(attacked: System, origin: OriginThread) -> None:
    """While a server does not answer its handshake the client's bytes wait in the kernel, not in the worker."""

    def flood() -> None:
        with suppress(OSError):
            while not stop.is_set():
                connection.sendall(bytes(65536))

    stop = threading.Event()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        _measured(attacked, origin) as taken,
        tunnel(attacked, "silent.test", server.getsockname()[1]) as connection,
    ):
        connection.settimeout(0.5)
        connection.sendall(hello("silent.test"))
        thread = threading.Thread(target=flood)
        thread.start()
        wait_until(lambda: not thread.is_alive(), "the sender has to wait", 20)
        assert attacked.curl(f"https://beside.test:{origin.port}/").ok
        _, grown = taken()
        stop.set()
    assert grown < 16


def test_a_tunnel_keeps_nothing(attacked: System, origin: OriginThread) -> None:
    """A stream of a hundred megabytes leaves nothing in the worker."""
    size = 100_000_000

    def take() -> int:
        with server.accept()[0] as end:
            got = 0
            while data := end.recv(1 << 20):
                got += len(data)
            return got

    with socket.create_server(("127.0.0.1", 0)) as server, _measured(attacked, origin) as taken:
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.append(take()))
        thread.start()
        with tunnel(attacked, "raw.test", server.getsockname()[1]) as connection:
            connection.sendall(b"\x00" * size)
            _, grown = taken()
            connection.shutdown(socket.SHUT_WR)
            thread.join(30)
        assert got == [size]
    assert grown < 16


def test_a_thousand_at_once_are_connected(attacked: System, origin: OriginThread) -> None:
    """A thousand clients that connect at one moment and say nothing: another one is served meanwhile."""
    with ExitStack() as stack, _measured(attacked, origin) as taken:
        opened = [stack.enter_context(connect(attacked, f"127.0.1.{i % 250 + 1}")) for i in range(1000)]
        begin = time.monotonic()
        assert attacked.curl(f"https://beside.test:{origin.port}/").ok
        assert time.monotonic() - begin < 3
        _, grown = taken()
        assert not any(map(ended, opened[:100]))
    assert grown < _MEMORY_MB * 2
