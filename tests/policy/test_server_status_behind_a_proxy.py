"""Where all goes through another proxy: CAs are asked through it, too, by names that only it can look up."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus

from tests.integration.harness import System
from tests.policy.shops import Street, street


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def _next_proxy(shops: Street) -> Iterator[tuple[str, list[str]]]:
    """host:port of a proxy to which every name is this machine, and what it was asked for, with its Authorization."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(f"CONNECT {self.headers['Proxy-Authorization']}")
            with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as server:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_copy, args=(server, self.connection), daemon=True)
                back.start()
                _copy(self.connection, server)
                back.join(10)

        def do_POST(self) -> None:
            asked.append(f"{self.path} {self.headers['Proxy-Authorization']}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            place = shops.web.url.removesuffix("/ocsp") + "/" + self.path.rpartition("/")[2]
            with urllib.request.urlopen(urllib.request.Request(place, body), timeout=5) as reply:
                said = reply.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_revoked_server_behind_the_next_proxy(softhsm_module: str, tmp_path: Path) -> None:
    """The responder is asked by the next proxy, which is told who we are; what it says holds."""
    with street() as shops, _next_proxy(shops) as (proxy, asked):
        certificate = shops.certify("far.test", "http://ocsp.ca.invalid/far")
        shops.respond("/far", certificate, OCSPCertStatus.REVOKED)
        shops.open("far.test", certificate)
        made = System.make(
            tmp_path / "s", upstream_ca=shops.root.certificate.public_bytes(Encoding.PEM).decode(), workers="1",
            mode=f'"upstream:http://{proxy}"', options='{ upstream_auth = "me:secret" }',
        )  # fmt: skip
        with made as system:
            reply = system.curl(f"https://far.test:{shops.port}/", "--insecure")
            assert reply.status == 502, reply.errors
            assert "revoked" in reply.body
    assert "http://ocsp.ca.invalid/far Basic bWU6c2VjcmV0" in asked
