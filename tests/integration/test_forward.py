"""The main job with real clients: every protocol a client may speak, and every server that is not as it should be."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Message, Request, TextMessage

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.waiting import wait_until


def tunnel(system: System, host: str, port: int) -> socket.socket:
    """A connection through the proxy, after CONNECT."""
    name, _, proxy_port = system.proxy.rpartition(":")
    connection = socket.create_connection((name, int(proxy_port)), timeout=10)
    connection.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(1)  # what comes behind is not ours to read
        assert data, answer
        answer += data
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return connection


def seen_certificate(system: System, host: str, port: int, context: ssl.SSLContext | None = None) -> x509.Certificate:
    """The leaf that a client of Python's ssl module gets, fully verified."""
    if context is None:
        context = ssl.create_default_context(cafile=str(system.ca))
    with (
        tunnel(system, host, port) as connection,
        context.wrap_socket(connection, server_hostname=host) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert der
        return x509.load_der_x509_certificate(der)


@pytest.mark.parametrize(
    ("options", "version"),
    [(["--http1.1"], "1.1"), (["--http2"], "2"), (["--http2", "--tls-max", "1.2"], "2"), (["--tlsv1.3"], "2")],
)
def test_protocol_versions(system: System, origin: OriginThread, options: list[str], version: str) -> None:
    """curl gets its page over HTTP/1.1 and HTTP/2, TLS 1.2 and 1.3, trusting nothing but our CA."""
    reply = system.curl(f"https://versions.test:{origin.port}/x", *options)
    assert reply.ok, reply.errors
    assert reply.version == version
    assert reply.body == f"versions.test:{origin.port} says hello over TLS, path /x\n"


def test_large_body_both_ways(system: System, origin: OriginThread, tmp_path: Path) -> None:
    """Five megabytes go up and come back unchanged over HTTP/2."""
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 20480)
    back = tmp_path / "back"
    reply = system.curl(
        f"https://large.test:{origin.port}/", "--http2", "--data-binary", f"@{body}", "--output", str(back)
    )
    assert reply.ok, reply.errors
    assert back.read_bytes() == body.read_bytes()


def test_ip_address(system: System, origin: OriginThread) -> None:
    """A server that is asked for by its address gets a leaf with that address."""
    reply = system.curl(f"https://127.0.0.1:{origin.port}/")
    assert reply.ok, reply.errors
    assert "IP Address" in reply.trace or "127.0.0.1" in reply.trace


def test_internationalised_name(system: System, origin: OriginThread) -> None:
    """A name with an umlaut is asked for and certified by its A-label."""
    leaf = seen_certificate(system, "xn--bcher-kva.test", origin.port)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["xn--bcher-kva.test"]


def test_websocket(system: System, origin: OriginThread) -> None:
    """A WebSocket through the proxy carries messages both ways and closes cleanly."""
    context = ssl.create_default_context(cafile=str(system.ca))
    context.set_alpn_protocols(["http/1.1"])
    host = "websocket.test"
    with tunnel(system, host, origin.port) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        client = WSConnection(ConnectionType.CLIENT)
        tls.sendall(client.send(Request(host=host, target="/chat")))
        seen: list[object] = []
        while not any(isinstance(event, CloseConnection) for event in seen):
            client.receive_data(tls.recv(4096) or None)
            for event in client.events():
                seen.append(event)
                if isinstance(event, AcceptConnection):
                    tls.sendall(client.send(Message(data="over the HSM")))
                if isinstance(event, TextMessage):
                    tls.sendall(client.send(CloseConnection(code=1000)))
    assert [event.data for event in seen if isinstance(event, TextMessage)] == ["over the HSM"]


def test_client_without_ecdsa_gets_an_rsa_leaf(system: System, origin: OriginThread) -> None:
    """A TLS 1.2 client that knows RSA alone completes its handshake; others get a P-256 leaf."""
    old = ssl.create_default_context(cafile=str(system.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    assert isinstance(seen_certificate(system, "old.test", origin.port, old).public_key(), rsa.RSAPublicKey)
    assert isinstance(seen_certificate(system, "old.test", origin.port).public_key(), ec.EllipticCurvePublicKey)


def test_leaf_passes_strict_verification(system: System, origin: OriginThread, tmp_path: Path) -> None:
    """OpenSSL's strictest reading of RFC 5280 accepts a leaf from the wire."""
    leaf = seen_certificate(system, "strict.test", origin.port)
    path = tmp_path / "leaf.pem"
    path.write_bytes(leaf.public_bytes(Encoding.PEM))
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", system.ca, "-purpose", "sslserver",
         "-verify_hostname", "strict.test", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_upstream_wildcard_is_honoured(system: System, origin_ca: OriginCA) -> None:
    """Two hosts behind one wildcard certificate share a leaf: one signature for both."""
    with OriginThread(origin_ca, names=("*.wild.test", "wild.test")) as origin:
        origin.origin._choose = lambda *_: None  # type: ignore[method-assign]
        origin.origin._tls.sni_callback = None
        first = seen_certificate(system, "a.wild.test", origin.port)
        second = seen_certificate(system, "b.wild.test", origin.port)
    assert first == second
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"*.wild.test", "wild.test"}


def test_second_connection_needs_no_signature(system: System, origin: OriginThread) -> None:
    """The same leaf serves a host again: no new signature, one more cache hit."""
    first = seen_certificate(system, "again.test", origin.port)
    before = system.status().counters["signatures"]
    assert seen_certificate(system, "again.test", origin.port) == first
    assert system.status().counters["signatures"] == before


@pytest.mark.parametrize("fault", ["another CA", "another name"])
def test_unverified_server_never_gets_a_trusted_leaf(system: System, origin_ca: OriginCA, fault: str) -> None:
    """A server that does not verify: refused by a client that trusts our CA; who accepts the other CA's leaf gets
    through, and the log says what is wrong."""
    ca = OriginCA() if fault == "another CA" else origin_ca
    with OriginThread(ca, names=("right.test",)) as origin:
        if fault == "another name":
            origin.origin._tls.sni_callback = None
        url = f"https://wrong.test:{origin.port}/"
        strict = system.curl(url)
        assert strict.exit == 60, strict
        careless = system.curl(url, "--insecure")
    assert careless.ok, careless
    assert "hsmitm forward untrust CA" in careless.trace
    why = "issued by a CA that is not trusted" if fault == "another CA" else "is for other names"
    line = re.compile(rf"wrong\.test did not prove who it is: .*{why}")
    wait_until(lambda: line.search(system.log), "a line about it")


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """A port where connections are accepted; each gets `answer`, or nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:
        if answer is None:
            yield server.getsockname()[1]
            return

        def serve() -> None:
            try:
                while True:
                    with server.accept()[0] as connection, contextlib.suppress(OSError):
                        connection.recv(4096)
                        connection.sendall(answer)
            except OSError:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_upstream_that_refuses(system: System) -> None:
    """Nobody listens there: the CONNECT gets a 502, and the log has the reason in words."""
    port = free_port()
    reply = system.curl(f"https://refuses.test:{port}/")
    assert reply.exit == 56
    assert "response 502" in reply.errors
    system.until_logged(f"cannot connect to refuses.test:{port}: 127.0.0.1:{port}: Connection refused\n")


def test_upstream_that_speaks_no_tls(system: System) -> None:
    """A plain-text server behind https: a 502 page that says so, under the CA for servers that prove nothing."""
    with listener(b"HTTP/1.0 400 Bad Request\r\n\r\n") as port:
        reply = system.curl(f"https://plain.test:{port}/", trust=system.directory / "forward-untrust.pem")
    assert reply.status == 502, reply
    assert "does not speak TLS" in reply.body


def test_upstream_that_never_answers(system: System) -> None:
    """A server that accepts and stays silent: a 504 after the configured time, and a line that names it."""
    with listener(None) as port:
        reply = system.curl(f"https://silent.test:{port}/", trust=system.directory / "forward-untrust.pem")
    assert reply.status == 504, reply
    system.until_logged("did not complete its TLS handshake in 2 s")


@pytest.mark.parametrize(
    "request_line",
    ["CONNECT :443 HTTP/1.1", "CONNECT *.com:443 HTTP/1.1", "CONNECT a..b:443 HTTP/1.1", "CONNECT x HTTP/1.1",
     "CONNECT -bad-.test:99999 HTTP/1.1", "CONNECT [::z]:443 HTTP/1.1", "GET nonsense HTTP/1.1"],
)  # fmt: skip
def test_connect_to_nonsense(system: System, origin: OriginThread, request_line: str) -> None:
    """A CONNECT to what is no host gets an HTTP error, and the worker goes on."""
    host, _, port = system.proxy.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{request_line}\r\nHost: x\r\n\r\n".encode())
        answer = connection.recv(4096)
    assert re.match(rb"HTTP/1\.[01] (400|502) ", answer), answer
    assert system.curl(f"https://after-nonsense.test:{origin.port}/").ok


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff", b"\x16\x03\x01\xff\xff" + b"\x01" * 600, b"\x16\x03\x01\x00\x00",
     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)],
)  # fmt: skip
def test_malformed_client_hello(system: System, origin: OriginThread, garbage: bytes) -> None:
    """Bytes that only begin like TLS end their own connection and nobody else's."""
    pids = system.worker_pids()
    with tunnel(system, "garbage.test", origin.port) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        while connection.recv(4096):
            pass
    assert system.curl(f"https://after-garbage.test:{origin.port}/").ok
    assert system.worker_pids() == pids


def test_sni_with_impossible_characters(system: System, origin: OriginThread) -> None:
    """An SNI that is no host name ("localhost:8443", as some clients send) counts as none: the CONNECT host rules."""
    done = subprocess.run(
        ["openssl", "s_client", "-proxy", system.proxy, "-connect", f"127.0.0.1:{origin.port}", "-servername",
         "localhost:8443", "-CAfile", system.ca, "-verify_ip", "127.0.0.1", "-verify_return_error"],
        input="GET / HTTP/1.0\r\nHost: x\r\n\r\n", capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert "Verify return code: 0 (ok)" in done.stdout, done.stderr
