"""Nothing goes round inspection in any mode: SOCKS5, a proxy in front of servers, a proxy reached over TLS, redirected
traffic."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.integration.test_forward import tunnel
from tests.integration.test_uninspected import NO_HTTP, SHAPES, STARTTLS, Shaped, closed, cooperating, heard, service
from tests.waiting import wait_until

Reach = Callable[[System, str, int], socket.socket]


def socks(system: System, host: str, port: int) -> socket.socket:
    """A connection through a SOCKS5 proxy (RFC 1928)."""
    name, _, proxy_port = system.proxy.rpartition(":")
    connection = socket.create_connection((name, int(proxy_port)), timeout=10)
    connection.sendall(b"\x05\x01\x00")
    heard(connection, b"\x05\x00")
    connection.sendall(b"\x05\x01\x00\x03" + bytes((len(host),)) + host.encode() + port.to_bytes(2))
    heard(connection, b"\x05\x00\x00\x01" + bytes(6))
    return connection


def over_tls(system: System, host: str, port: int) -> socket.socket:
    """A connection through a proxy that is itself reached over TLS, after CONNECT."""
    name, _, proxy_port = system.proxy.rpartition(":")
    context = ssl.create_default_context(cafile=str(system.ca))
    plain = socket.create_connection((name, int(proxy_port)), timeout=10)
    connection = context.wrap_socket(plain, server_hostname="proxy.test")
    connection.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return connection


MODES: dict[str, tuple[str, Reach]] = {
    "SOCKS5": ("socks5", socks), "upstream": ("upstream:http://{}", tunnel), "over TLS": ("regular", over_tls),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODES)
def reached(
    request: pytest.FixtureRequest, softhsm_module: str, origin_ca: OriginCA, system: System,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[System, Reach]]:  # fmt: skip
    """An hsmitm in each mode that passes streams to one port, and the way to it."""
    mode, reach = MODES[request.param]
    roots = origin_ca.pem + (system.ca.read_text() if request.param == "upstream" else "")
    made = System.make(
        tmp_path_factory.mktemp("mode") / "s", upstream_ca=roots, workers="1", mode=f'"{mode.format(system.proxy)}"',
    )  # fmt: skip
    with made as running:
        yield running, reach


@pytest.mark.parametrize("shape", SHAPES)
def test_a_client_hello_in_any_shape_is_inspected(
    reached: tuple[System, Reach], origin: OriginThread, shape: str
) -> None:
    """However the first bytes of TLS are cut, the client gets our leaf, in each mode."""
    system, reach = reached
    with reach(system, "shaped.test", origin.port) as connection:
        tls = Shaped(connection, system.ca, "shaped.test", SHAPES[shape])
        tls.handshake()
        assert b"200" in tls.ask(b"GET / HTTP/1.1\r\nHost: shaped.test\r\n\r\n")


@pytest.mark.parametrize("what", NO_HTTP)
def test_what_is_neither_tls_nor_http_is_closed(reached: tuple[System, Reach], what: str) -> None:
    """By default nothing passes that nobody looks into, in each mode: what goes out is nothing."""
    system, reach = reached
    with cooperating() as (port, got), reach(system, "odd.test", port) as connection:
        connection.sendall(NO_HTTP[what])
        assert closed(connection) == b""
    assert not any(got)
    wait_until(lambda: "refused (not-tls)" in system.log, "the log has it", 5)


@pytest.mark.parametrize("protocol", STARTTLS)
def test_only_a_listed_port_passes(
    softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory, protocol: str,
    listed: tuple[System, int],
) -> None:  # fmt: skip
    """A port that an operator lists passes, and is inspected from its ClientHello on; others stay closed."""
    system, port = listed
    name = f"{protocol.lower()}.test"
    with service(origin_ca, STARTTLS[protocol], name, port) as (_, got), socks(system, name, port) as connection:
        for side, text in STARTTLS[protocol]:
            if side == "client":
                connection.sendall(text)
            else:
                heard(connection, text)
        tls = Shaped(connection, system.ca, name, SHAPES["whole"])
        tls.handshake()
        assert tls.ask(b"NOOP\r\n") == b"hello NOOP\r\n"
        assert got.result(10) == b"NOOP\r\n"
    with cooperating() as (other, got_none), socks(system, name, other) as connection:
        connection.sendall(b"EHLO a\r\n")
        assert closed(connection) == b""
        wait_until(lambda: bool(got_none), "the server is let go", 10)
        assert got_none == [b""]


@pytest.fixture(scope="module")
def listed(
    softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[System, int]]:
    """An hsmitm that passes streams to one port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = System.make(
        tmp_path_factory.mktemp("listed") / "s", upstream_ca=origin_ca.pem, workers="1", mode='"socks5"',
        not_tls_ports=f"[{port}]",
    )  # fmt: skip
    with made as running:
        yield running, port


TRANSPARENT = """
import socket, subprocess, sys
from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.integration.test_uninspected import NO_HTTP, SHAPES, STARTTLS, Shaped, closed, cooperating, heard, service

def redirected(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)
    made.settimeout(10)
    made.connect(("127.0.0.1", port))
    return made

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ca = OriginCA()
listed = 2525
with OriginThread(ca) as origin:
    made = System.make(
        Path(sys.argv[1]) / "s", upstream_ca=ca.pem, workers="1", mode='"transparent"', not_tls_ports=f"[{listed}]"
    )
    with made as system:
        port = system.proxy.rpartition(":")[2]
        rules = (
            "table ip nat { chain output { type nat hook output priority -100; "
            f"meta mark 1 meta l4proto tcp redirect to :{port}; }}; }}"
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        for shape in SHAPES:
            with redirected(origin.port) as connection:
                tls = Shaped(connection, system.ca, "shaped.test", SHAPES[shape])
                tls.handshake()
                assert b"200" in tls.ask(b"GET / HTTP/1.1\\r\\nHost: shaped.test\\r\\n\\r\\n")
        for data in NO_HTTP.values():
            with cooperating() as (other, got), redirected(other) as connection:
                connection.sendall(data)
                assert closed(connection) == b""
            assert not any(got), got
        for protocol in STARTTLS:
            with service(ca, STARTTLS[protocol], "mail.test", listed) as (_, got), redirected(listed) as connection:
                for side, text in STARTTLS[protocol]:
                    connection.sendall(text) if side == "client" else heard(connection, text)
                tls = Shaped(connection, system.ca, "mail.test", SHAPES["whole"])
                tls.handshake()
                assert tls.ask(b"NOOP") == b"hello NOOP"
print("all inspected or closed")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_redirected_traffic(softhsm_module: str, tmp_path: Path) -> None:
    """The same for clients that know of no proxy. In a network namespace of its own."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", TRANSPARENT, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all inspected or closed" in done.stdout
