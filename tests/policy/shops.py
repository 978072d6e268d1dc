"""TLS servers of many names on one port, each with a chain and a staple of its own, and the CA behind them with what it
publishes: a responder, lists, and its intermediates' certificates, all on loopback.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socket import create_server, socket
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from OpenSSL import SSL

from tests.addons.revocation.ocsp_responder import (
    Authority,
    Responder,
    der,
    private_key,
    respond_with,
    responding,
)

_CA = [x509.BasicConstraints(True, None)]


@dataclass
class Shop:
    """What the server of one name shows. `staple` is an OCSP response, or empty."""

    chain: Sequence[x509.Certificate]
    staple: bytes = b""


@dataclass
class Street:
    """The servers, and the web server of their CA. `places` are what that one answers, by path."""

    web: Responder
    port: int = 0
    root: Authority = field(default_factory=lambda: Authority(private_key("street"), "street CA"))
    shops: dict[str, Shop] = field(default_factory=dict)
    places: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.web.answer = lambda http: self.places.get(http.path, respond_with(b"", 404))(http)
        self.between = Authority(private_key("street between"), "street intermediate CA")
        self.between.certificate = self.root.leaf(
            name=self.between.name, key=self.between.key, lists=[self.at("/root.crl", self.root.list_revoked())],
            extensions=_CA,
        )  # fmt: skip
        self.at("/between.crt", der(self.between.certificate))
        self.at("/all.crl", self.between.list_revoked())

    def at(self, path: str, answer: bytes | Callable[[BaseHTTPRequestHandler], None]) -> str:
        """The URL of a place of the CA's web server that gives this answer from now on."""
        self.places[path] = respond_with(answer) if isinstance(answer, bytes) else answer
        return self.web.url.removesuffix("/ocsp") + path

    def certify(self, name: str, *responders: str, above: Authority | None = None, **more: Any) -> x509.Certificate:
        """A certificate for `name`, of the intermediate CA or of one that is told."""
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        return (above or self.between).leaf(*responders, key=private_key("shop"), name=name, extensions=[names], **more)

    def open(self, name: str, certificate: x509.Certificate, staple: bytes = b"", *, whole: bool = True) -> None:
        """Have a server of that name. `whole`: it sends the intermediate along."""
        self.shops[name] = Shop([certificate, self.between.certificate] if whole else [certificate], staple)

    def respond(self, path: str, certificate: x509.Certificate, status: ocsp.OCSPCertStatus) -> None:
        """Have the responder at `path` say so of the certificate."""
        self.at(path, self.said(certificate, status))

    def said(self, certificate: x509.Certificate, status: ocsp.OCSPCertStatus) -> bytes:
        """A response of the intermediate CA's, current now."""
        now = dt.datetime.now(dt.UTC)
        times = {"this_update": now - dt.timedelta(minutes=1), "next_update": now + dt.timedelta(hours=1)}
        return self.between.respond(certificate, status=status, **times)

    def asked(self, path: str) -> int:
        """How often the CA was asked there."""
        return [one for one, _, _ in self.web.asked].count(path)


@contextmanager
def street() -> Iterator[Street]:
    """Servers until the end."""
    with responding() as web, create_server(("127.0.0.1", 0), backlog=1024) as listening:
        made = Street(web, listening.getsockname()[1])
        threading.Thread(target=_accept, args=(listening, made), daemon=True).start()
        try:
            yield made
        finally:
            listening.shutdown(2)


def _accept(listening: socket, made: Street) -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    key = private_key("shop")
    assert isinstance(key, ec.EllipticCurvePrivateKey)

    def choose(connection: SSL.Connection) -> None:
        shop = made.shops[(connection.get_servername() or b"").decode()]
        own = SSL.Context(SSL.TLS_SERVER_METHOD)
        own.use_privatekey(key)
        own.use_certificate(shop.chain[0])
        for one in shop.chain[1:]:
            own.add_extra_chain_cert(one)
        own.set_ocsp_server_callback(lambda *_: shop.staple)
        connection.set_context(own)

    context.set_tlsext_servername_callback(choose)
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_serve, args=(context, connection), daemon=True).start()


def _serve(context: SSL.Context, connection: socket) -> None:
    connection.settimeout(20)
    connection.setblocking(True)
    tls = SSL.Connection(context, connection)
    tls.set_accept_state()
    with connection, suppress(SSL.Error, OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            head += tls.recv(65536)
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nshop")
        tls.shutdown()
