"""A server that wants a client certificate, which an inspecting proxy has not: who waits is told so, and soon."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import System

_SOON_S = 2.0


@contextmanager
def _wanting(ca: OriginCA, name: str, version: ssl.TLSVersion, alpn: str, verdict: ssl.VerifyMode) -> Iterator[int]:
    """A server that asks for a certificate, and closes without a word where it must not say so in TLS."""
    context = ca.context((name,), (alpn,))
    context.load_verify_locations(cadata=ca.pem)
    context.verify_mode = verdict
    context.minimum_version = context.maximum_version = version

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection = server.accept()[0]
                connection.settimeout(15)
                with suppress(OSError), context.wrap_socket(connection, server_side=True) as over_tls:
                    over_tls.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(serve)
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
@pytest.mark.parametrize("verdict", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL], ids=["alert", "bare end"])
def test_tls_1_3_says_it_after_our_handshake(
    system: System, origin_ca: OriginCA, alpn: str, verdict: ssl.VerifyMode
) -> None:
    """The client gets a page that says what is missing, within two seconds, and the log has it under a class."""
    name = f"{alpn.partition('/')[0]}-{verdict.name.partition('_')[2].lower()}.test"
    with _wanting(origin_ca, name, ssl.TLSVersion.TLSv1_3, alpn, verdict) as port:
        began = time.monotonic()
        reply = system.curl(f"https://{name}:{port}/", "--max-time", "10")
        took = time.monotonic() - began
    assert (reply.exit, reply.status) == (0, 502), reply
    assert f"{name} wants a client certificate" in reply.body
    assert took < _SOON_S
    system.until_logged(f"(server-wants-client-certificate): {name} wants a client certificate")


def test_tls_1_2_says_it_in_the_handshake(system: System, origin_ca: OriginCA) -> None:
    """No leaf of the CA that clients trust is given for it; behind the other one is the page."""
    name = "old.test"
    with _wanting(origin_ca, name, ssl.TLSVersion.TLSv1_2, "http/1.1", ssl.CERT_REQUIRED) as port:
        reply = system.curl(f"https://{name}:{port}/", "--insecure", "--max-time", "10")
    assert (reply.exit, reply.status) == (0, 502), reply
    assert f"{name} wants a client certificate" in reply.body
    system.until_logged(f"(server-wants-client-certificate): {name} wants a client certificate")
