"""Where clients are not connected to: real processes, and a listener on this machine that must never be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.waiting import wait_until

_LOOPBACK = [
    "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.77", "0.0.0.0", "0", "localhost", "LocalHost",
    "any.test", "[::1]", "[::ffff:127.0.0.1]", "[::]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
]  # fmt: skip
"""Ways to write this machine; `.test` is resolved to it by the rig."""
_NO_NAMES = ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0"]
"""Those that no certificate can carry: their CONNECT is refused before anybody asks where they lead."""


@pytest.fixture(scope="module")
def closed(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A proxy as `hsmitm init` configures it, with an exception for the origin's port alone."""
    made = System.make(
        tmp_path_factory.mktemp("closed") / "s", upstream_ca=origin_ca.pem, workers="1",
        allow_destinations=f'["127.0.0.1:{origin.port}"]', status__listen=f'"127.0.0.1:{free_port()}"',
    )  # fmt: skip
    with made as system:
        yield system


@pytest.fixture(scope="module")
def canary() -> Iterator[socket.socket]:
    """A service of this machine, on both families, that is for nobody outside."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        listener.settimeout(0)
        yield listener


def _answer(proxy: str, request: str, body: bytes = b"") -> str:
    """What the proxy says to a request."""
    host, _, port = proxy.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(request.encode() + body)
        said = HTTPResponse(connection)
        said.begin()
        return f"{said.status} {said.read().decode()}"


def _untouched(canary: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        canary.accept()


@pytest.mark.parametrize("host", _LOOPBACK)
def test_this_machine_is_out_of_reach(closed: System, canary: socket.socket, host: str) -> None:
    """However a client spells it, CONNECT and a plain request for this machine are 403 with what could be set."""
    where = f"{host}:{canary.getsockname()[1]}"
    for request in (
        f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n",
        f"GET http://{where}/ HTTP/1.1\r\nHost: {where}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {where}\r\n\r\n",
    ):
        said = _answer(closed.proxy, request)
        carried = not request.startswith("CONNECT") or host not in _NO_NAMES
        assert said.startswith("403 " if carried else "400 "), (request, said)
        assert ("[proxy] allow_destinations" if carried else "no certificate can carry") in said
    _untouched(canary)


def test_a_refused_upload_is_answered(closed: System, canary: socket.socket) -> None:
    """A body that goes on while it is read is refused with the same page, and goes nowhere."""
    where = f"127.0.0.1:{canary.getsockname()[1]}"
    size = 300_000
    head = f"POST http://{where}/ HTTP/1.1\r\nHost: {where}\r\nContent-Length: {size}\r\n\r\n"
    assert _answer(closed.proxy, head, b"x" * size).startswith("403 ")
    _untouched(canary)


def test_what_is_excepted_is_reached(closed: System, origin: OriginThread) -> None:
    """The exception for one port opens that one, by name and by address."""
    for host in ("reached.test", "127.0.0.1"):
        reply = closed.curl(f"https://{host}:{origin.port}/")
        assert reply.ok, reply.errors


def test_refusals_are_counted_and_told(closed: System, canary: socket.socket) -> None:
    """An operator finds the class in the metrics, and client, destination and entry in one line of the log."""
    where = f"localhost:{canary.getsockname()[1]}"

    def told() -> bool:
        _answer(closed.proxy, f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n")
        return f"refused (blocked-destination): {where} (" in closed.log

    wait_until(told, "a line about it, where those of the tests before leave room", 10)
    counted = 'hsmitm_edge_refused_total{class="blocked-destination"}'
    wait_until(lambda: any(line.startswith(counted) for line in _metrics(closed)), "the refusals are reported", 10)


def _metrics(system: System) -> list[str]:
    where = system.config.status_listen
    assert where is not None
    with socket.create_connection((where.host, where.port), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    return [line for line in said.decode().splitlines() if line.partition(" ")[2] not in ("0", "0.0")]


def test_the_status_page_and_the_proxy_itself_are_out_of_reach(
    softhsm_module: str, origin_ca: OriginCA, tmp_path: Path
) -> None:
    """With own listeners as the one thing that is denied, and a whole machine that is allowed, the proxy still calls
    neither itself nor its status page: not by another name, and it keeps its descriptors."""
    status = free_port()
    made = System.make(
        tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", deny_destinations='["own-listeners"]',
        status__listen=f'"127.0.0.1:{status}"',
    )  # fmt: skip
    with made as system:
        (worker,) = system.worker_pids()
        before = _descriptors(worker)
        ours = int(system.proxy.rpartition(":")[2])
        for port in (ours, status):
            for host in ("Localhost", "127.1", "loop.test", "0.0.0.0", "[::ffff:127.0.0.1]", "127.0.0.1"):
                said = _answer(system.proxy, f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")
                assert said.startswith("403 "), said
        system.until_logged("is denied by 'own-listeners'")
        wait_until(lambda: _descriptors(worker) <= before + 2, "its descriptors are back", 5)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_socks5_says_that_the_rules_forbid_it(
    softhsm_module: str, origin_ca: OriginCA, canary: socket.socket, tmp_path: Path
) -> None:
    """A SOCKS5 client gets reply code 2 for a denied address and for a name of it, and the connection ends."""
    port = canary.getsockname()[1].to_bytes(2)
    made = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", mode='"socks5"', allow_destinations="[]")
    with made as system:
        for address in (
            b"\x01\x7f\x00\x00\x01", b"\x01\x00\x00\x00\x00", b"\x04" + bytes(10) + b"\xff\xff\x7f\x00\x00\x01",
            b"\x03\x09Localhost", b"\x03\x05127.1", b"\x03\x0asocks.test",
        ):  # fmt: skip
            host, _, at = system.proxy.rpartition(":")
            with socket.create_connection((host, int(at)), 20) as client:
                client.sendall(b"\x05\x01\x00" + b"\x05\x01\x00" + address + port)
                said = b"".join(iter(lambda: client.recv(100), b""))
            assert said[:4] == b"\x05\x00\x05\x02", (address, said)
    _untouched(canary)


def test_what_another_proxy_would_connect_to(
    softhsm_module: str, origin: OriginThread, system: System, canary: socket.socket, tmp_path: Path
) -> None:
    """With another proxy in front, which is on this machine and may be, an address of this machine is asked for in no
    spelling; a name is that proxy's to look up."""
    outer = System.make(
        tmp_path / "s", upstream_ca=system.ca.read_text(), workers="1", mode=f'"upstream:http://{system.proxy}"',
        allow_destinations="[]",
    )  # fmt: skip
    with outer:
        for host in ("127.0.0.1", "127.1", "[::ffff:127.0.0.1]", "169.254.169.254"):
            where = f"{host}:{canary.getsockname()[1]}"
            for request in (f"CONNECT {where} HTTP/1.1", f"GET http://{where}/ HTTP/1.1"):
                said = _answer(outer.proxy, f"{request}\r\nHost: {where}\r\n\r\n")
                assert said.startswith("400 " if request.startswith("CONNECT 127.1:") else "403 "), said
        reply = outer.curl(f"https://chained.test:{origin.port}/")
    assert reply.ok, reply.errors
    _untouched(canary)
