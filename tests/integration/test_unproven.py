"""A server that did not prove who it is gets no certificate of the CA that clients trust, however it fails."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509

from proxy.demo.origin import OriginCA
from tests.integration.harness import System
from tests.integration.test_forward import tunnel
from tests.waiting import wait_until

Fault = Callable[[socket.socket], None]


def _closes(connection: socket.socket) -> None:
    connection.recv(65536)


def _says(data: bytes) -> Fault:
    def say(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)
        with suppress(OSError):
            connection.recv(65536)

    return say


def _is_silent(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65536):
            pass


_SERVER_HELLO = b"\x02\x00\x00\x2d\x03\x03" + bytes(32) + b"\x00\xc0\x2f\x00" + b"\x00\x05\xff\x01\x00\x01\x00"
_CHAIN = b"\x0b\xff\xff\xff\xff\xff\xfc"
FAULTS: dict[str, Fault] = {
    "closes": _closes,
    "garbage": _says(b"SSH-2.0-OpenSSH\r\n"),
    "an alert": _says(b"\x15\x03\x03\x00\x02\x02\x28"),
    "half a ServerHello": _says(b"\x16\x03\x03\x00\x7a\x02\x00"),
    "an oversized chain": _says(
        b"".join(b"\x16\x03\x03" + len(part).to_bytes(2) + part for part in (_SERVER_HELLO, _CHAIN + bytes(16000)))
    ),
    "silence": _is_silent,
}


SLOW = ("half a ServerHello", "silence")
SAID = {
    "garbage": "{} does not speak TLS",
    "an alert": "no TLS with {}: it has no cipher suite in common",
    **dict.fromkeys(SLOW, "{} did not answer in time"),
}
"""What the page says of those that are told apart."""


@contextmanager
def _faulty(fault: Fault) -> Iterator[int]:
    def serve() -> None:
        with suppress(OSError):
            while True:
                connection = server.accept()[0]
                with connection:
                    connection.settimeout(15)
                    fault(connection)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(serve)
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _served(system: System, name: str, port: int) -> tuple[str, bytes]:
    """Who issued the leaf, and the answer to a request."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tunnel(system, name, port) as connection, context.wrap_socket(connection, server_hostname=name) as tls:
        der = tls.getpeercert(binary_form=True)
        assert der
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        with suppress(ssl.SSLEOFError, ConnectionResetError):
            while data := tls.recv(65536):
                answer += data
    return x509.load_der_x509_certificate(der).issuer.rfc4514_string(), answer


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_before_its_certificate_is_untrusted(system: System, fault: str) -> None:
    """The client sees a leaf that it does not trust, and behind it a page that says what is wrong; the log has it."""
    name = f"bank-{list(FAULTS).index(fault)}.test"
    with _faulty(FAULTS[fault]) as port:
        issuer, answer = _served(system, name, port)
    assert "untrust" in issuer
    assert answer.startswith(b"HTTP/1.1 504 " if fault in SLOW else b"HTTP/1.1 502 ")
    assert SAID.get(fault, "no TLS with {}, which must prove who it is").format(name).encode() in answer
    wait_until(lambda: f"(server-unproven): no TLS with {name}" in system.log, "the log has it", 5)


@pytest.fixture(scope="module")
def lazy(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An hsmitm whose operator would have servers connected to as late as can be."""
    made = System.make(
        tmp_path_factory.mktemp("lazy") / "s", upstream_ca=origin_ca.pem, workers="1",
        options='{ connection_strategy = "lazy" }',
    )  # fmt: skip
    with made as system:
        yield system


def test_lazy_connections_are_no_way_to_a_trusted_leaf(lazy: System) -> None:
    """A server that is connected to late is not trusted early."""
    with _faulty(_closes) as port:
        issuer, answer = _served(lazy, "bank.test", port)
    assert "untrust" in issuer
    assert answer.startswith(b"HTTP/1.1 502 ")


def test_lazy_connections_to_a_good_server_are_trusted(lazy: System, origin_port: int) -> None:
    """A server that proves itself is served as ever."""
    reply = lazy.curl(f"https://good.test:{origin_port}/")
    assert reply.ok, reply.errors


def test_a_script_answers_under_the_untrusted_ca(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> None:
    """A script may answer for a server that is not there; nothing vouches for the name that it answers under."""
    (tmp_path / "answers.py").write_text(
        "from mitmproxy import http\ndef request(flow):\n    flow.response = http.Response.make(200, b'by script')\n"
    )
    made = System.make(
        tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", options='{ connection_strategy = "lazy" }',
        scripts=f'["{tmp_path / "answers.py"}"]',
    )  # fmt: skip
    with made as system, _faulty(_closes) as port:
        issuer, answer = _served(system, "offline.test", port)
    assert "untrust" in issuer
    assert answer.endswith(b"by script")


@pytest.fixture
def origin_port(origin: object) -> int:
    """Where the internet is."""
    return int(origin.port)  # type: ignore[attr-defined]
