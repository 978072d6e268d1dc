"""Fourteen servers with one fault each, and clients of three kinds who visit them through hsmitm."""

from __future__ import annotations

import asyncio
import http.client
import select
import socket
import ssl
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Message, RejectConnection, RejectData, Request, TextMessage

from proxy.demo.origin import Origin, OriginCA, _Http1, _Http2
from tests.addons.upstream.faulty import FAULTS, NOBODY, Shown, shown
from tests.integration.harness import System
from tests.integration.test_forward import tunnel

OLD, WEAK, WANTING = "TLS 1.0 only", "no modern suite", "wants a certificate"
ALL = (*FAULTS, OLD, WEAK, WANTING)
OURS = NOBODY.issue("us.example", usage=ExtendedKeyUsageOID.CLIENT_AUTH)
"""What the server that wants a certificate accepts."""
_QUIET_S = 0.1
"""So long nothing comes any more behind an answer."""


def slug(fault: str) -> str:
    """As part of a host name."""
    return fault.lower().replace(" ", "-").replace(".", "-")


class _Plain(Origin):
    """Speaks one HTTP behind a `Front`, over the loopback."""

    def __init__(self, speaks: type[_Http1 | _Http2]) -> None:
        super().__init__(OriginCA())
        self._speaks = speaks

    async def __aenter__(self) -> Self:
        """Listen on the loopback address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            await self._speaks(reader, writer).run()
        writer.close()


class Front:
    """TLS in front of it, of a blocking socket: asyncio's own ends a handshake that fails without its alert.

    It shows to each name what `shows` says, with the rest as `adjust` has it. `reached` are the names of which anything
    was asked. A name that begins with "once" answers once on each connection.
    """

    def __init__(
        self, behind: dict[str, int], shows: Callable[[str], Shown], adjust: Callable[[ssl.SSLContext], None]
    ) -> None:
        self._behind, self._shows, self._adjust = behind, shows, adjust
        self._tls = self._made("any.test")
        self._tls.sni_callback = self._choose
        self.reached: set[str] = set()
        self.open: Counter[str] = Counter()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _made(self, name: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.set_ciphers("DEFAULT:@SECLEVEL=0")
        with tempfile.NamedTemporaryFile() as file:
            file.write(self._shows(name).pem)
            file.flush()
            made.load_cert_chain(file.name)
        made.set_alpn_protocols(["h2", "http/1.1"])
        self._adjust(made)
        return made

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        if name is not None:
            connection.context = self._made(name)
            connection.shown_to = name  # type: ignore[union-attr]

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._listening.accept()[0]
                threading.Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def _pass_on(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        with (
            ExitStack() as stack,
            suppress(OSError),
            connection,
            self._tls.wrap_socket(connection, server_side=True) as tls,
            socket.create_connection(("127.0.0.1", self._behind[tls.selected_alpn_protocol() or "http/1.1"])) as plain,
        ):
            patience, name = 20.0, getattr(tls, "shown_to", "")
            self.open[name] += 1
            stack.callback(self.open.subtract, [name])
            while True:
                ready = [tls] if tls.pending() else select.select([tls, plain], [], [], patience)[0]
                if not ready:
                    return
                for one, other in ((tls, plain), (plain, tls)):
                    if one in ready:
                        data = one.recv(65536)
                        if not data:
                            return
                        if one is tls:
                            self.reached.add(name)
                        other.sendall(data)
                        if one is plain and name.startswith("once"):
                            patience = _QUIET_S


def _old(context: ssl.SSLContext) -> None:
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):  # it is old, that is the fault
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1


def _weak(context: ssl.SSLContext) -> None:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")


def _wanting(context: ssl.SSLContext) -> None:
    context.load_verify_locations(cadata=NOBODY.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED


@dataclass
class Servers:
    """Where they are."""

    fronts: dict[str, Front] = field(default_factory=dict)

    def port(self, fault: str) -> int:
        """Of the server with that fault."""
        return self.fronts.get(fault, self.fronts[""]).port

    def reached(self, host: str) -> bool:
        """Whether anything was asked of the server of this name."""
        return any(host in one.reached for one in self.fronts.values())


def _by_name(name: str) -> Shown:
    fault = next((one for one in FAULTS if name.startswith(f"{slug(one)}.")), "")
    return shown(fault, name)


@contextmanager
def serving(shows: Callable[[str], Shown] = _by_name) -> Iterator[Servers]:
    """All of them, with an event loop of their own."""
    kinds: dict[str, Callable[[ssl.SSLContext], None]] = {"": lambda _: None, OLD: _old, WEAK: _weak, WANTING: _wanting}
    loop, made = asyncio.new_event_loop(), Servers()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    plain = {"http/1.1": _Plain(_Http1), "h2": _Plain(_Http2)}
    for behind in plain.values():
        asyncio.run_coroutine_threadsafe(behind.__aenter__(), loop).result(20)
    ports = {alpn: one.port for alpn, one in plain.items()}
    for fault, adjust in kinds.items():
        made.fronts[fault] = Front(ports, shows, adjust)
    try:
        yield made
    finally:
        for one in made.fronts.values():
            one.close()
        for behind in plain.values():
            asyncio.run_coroutine_threadsafe(behind.__aexit__(None, None, None), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@dataclass
class Seen:
    """What a client saw: who issued the leaf, the answer's status (101 for a WebSocket that echoes), body, and id."""

    issuer: str
    status: int
    body: str
    id: str


class Visitor:
    """Clients who accept leaves of both CAs."""

    def __init__(self, system: System, untrust: Path) -> None:
        self._system = system
        self._files = (system.ca, untrust)

    def _tls(self, alpn: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self._files[0]))
        made.load_verify_locations(cafile=str(self._files[1]))
        made.set_alpn_protocols([alpn])
        return made

    def visit(self, kind: str, host: str, port: int) -> Seen:
        """By "http/1.1", "h2" or "websocket"."""
        alpn = "h2" if kind == "h2" else "http/1.1"
        plain = tunnel(self._system, host, port)
        plain.settimeout(20)
        with plain, self._tls(alpn).wrap_socket(plain, server_hostname=host) as tls:
            der = tls.getpeercert(binary_form=True)
            assert der
            issuer = x509.load_der_x509_certificate(der).issuer.rfc4514_string()
            ask = {"http/1.1": _http1, "h2": _http2, "websocket": _websocket}[kind]
            status, body, headers = ask(tls, host)
            return Seen(issuer, status, body, headers.get("hsmitm-id", ""))


Answer = tuple[int, str, dict[str, str]]


def _http1(tls: ssl.SSLSocket, host: str) -> Answer:
    connection = http.client.HTTPConnection(host)
    connection.sock = tls
    connection.request("GET", "/")
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}


def _http2(tls: ssl.SSLSocket, host: str) -> Answer:
    assert tls.selected_alpn_protocol() == "h2"
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    head = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/")]
    client.send_headers(1, head, end_stream=True)
    headers: dict[str, str] = {}
    body = b""
    while True:
        tls.sendall(client.data_to_send())
        data = tls.recv(65536)
        assert data, "the connection ended without an answer"
        for event in client.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                headers = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                return int(headers[":status"]), body.decode(), headers


def _websocket(tls: ssl.SSLSocket, host: str) -> Answer:
    client = WSConnection(ConnectionType.CLIENT)
    tls.sendall(client.send(Request(host=host, target="/chat")))
    refused, body, headers = 0, b"", dict[str, str]()
    while True:
        client.receive_data(tls.recv(65536) or None)
        for event in client.events():
            if isinstance(event, AcceptConnection):
                tls.sendall(client.send(Message(data="echo")))
            elif isinstance(event, TextMessage):
                return 101, event.data, {}
            elif isinstance(event, RejectConnection):
                refused = event.status_code
                headers = {name.decode().lower(): value.decode() for name, value in event.headers}
            elif isinstance(event, RejectData):
                body += event.data
                if event.body_finished:
                    return refused, body.decode(), headers
