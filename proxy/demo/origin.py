"""A small HTTPS server for the demo and the tests: HTTP/1.1, HTTP/2 and WebSocket echo, with a throw-away certificate.

It stands in for "the internet": h11, h2 and wsproto, which mitmproxy brings, do the protocols. GET answers with a line
that names the host; POST gives the body back; a WebSocket gives each message back.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import h2.config
import h2.connection
import h2.events
import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage

_CHUNK = 65536

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class OriginCA:
    """A throw-away CA and a certificate for each host, made when it is first asked for. Its key stays in memory."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away origin CA")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self.certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        """The CA's certificate, for whoever must trust the origin."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def _builder(self, subject: x509.Name, public: _PublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    def certify(self, public: _PublicKey, names: Sequence[str]) -> x509.Certificate:
        """A server's certificate for the key `public`. Each of `names` is a host name or an address."""
        alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = self._builder(x509.Name([]), public).add_extension(alternative, critical=True)
        return builder.sign(self._key, hashes.SHA256())

    def context(self, names: tuple[str, ...], alpn: tuple[str, ...]) -> ssl.SSLContext:
        """A server's TLS context with a certificate for `names`."""
        leaf = self.certify(self._leaf_key.public_key(), names)
        private = self._leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:  # the ssl module takes keys from files only
            file.write(private + leaf.public_bytes(Encoding.PEM))
            file.flush()
            context.load_cert_chain(file.name)
        context.set_alpn_protocols(list(alpn))
        return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Origin:
    """The server. Use it as an async context manager; `port` is then the kernel's choice."""

    def __init__(
        self, ca: OriginCA, *, names: tuple[str, ...] = ("127.0.0.1",), alpn: tuple[str, ...] = ("h2", "http/1.1")
    ) -> None:
        """Every SNI gets a certificate of its own from `ca`; a client without SNI gets the one for `names`."""
        self._ca = ca
        self._alpn = alpn
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._tls = ca.context(names, alpn)
        self._tls.sni_callback = self._choose
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.connections = 0

    async def __aenter__(self) -> Self:
        """Listen on the loopback address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and cut what is open."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        if name is not None:
            if name not in self._contexts:
                self._contexts[name] = self._ca.context((name,), self._alpn)
            connection.context = self._contexts[name]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._writers.add(writer)
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        serve = _Http2 if tls.selected_alpn_protocol() == "h2" else _Http1
        with suppress(OSError, asyncio.CancelledError, h11.RemoteProtocolError):
            await serve(reader, writer).run()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self._writers.discard(writer)


def _answer(method: str, host: str, path: str, body: bytes) -> bytes:
    return body if method == "POST" else f"{host} says hello over TLS, path {path}\n".encode()


class _Http1:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        while True:
            request = await self._next()
            if not isinstance(request, h11.Request):
                return
            headers = {name.decode(): value.decode() for name, value in request.headers}
            if headers.get("upgrade", "").lower() == "websocket":
                await self._websocket(request)
                return
            body = bytearray()
            while isinstance(event := await self._next(), h11.Data):
                body += event.data
            data = _answer(request.method.decode(), headers.get("host", ""), request.target.decode(), bytes(body))
            answer = [("content-type", "text/plain"), ("content-length", str(len(data)))]
            for event in (h11.Response(status_code=200, headers=answer), h11.Data(data=data), h11.EndOfMessage()):
                self._writer.write(self._http.send(event) or b"")
            await self._writer.drain()
            if self._http.our_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_CHUNK))
        return event

    async def _websocket(self, request: h11.Request) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        ws.initiate_upgrade_connection(list(request.headers), request.target.decode())
        while True:
            for event in ws.events():
                match event:
                    case Request():
                        self._writer.write(ws.send(AcceptConnection()))
                    case TextMessage():
                        self._writer.write(ws.send(TextMessage(data=event.data)))
                    case BytesMessage():
                        self._writer.write(ws.send(BytesMessage(data=event.data)))
                    case Ping():
                        self._writer.write(ws.send(event.response()))
                    case CloseConnection():
                        self._writer.write(ws.send(event.response()))
                        return
            await self._writer.drain()
            data = await self._reader.read(_CHUNK)
            if not data:
                return
            ws.receive_data(data)


class _Http2:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._outgoing: dict[int, bytearray] = {}

    async def run(self) -> None:
        self._http.initiate_connection()
        while True:
            self._writer.write(self._http.data_to_send())
            await self._writer.drain()
            data = await self._reader.read(_CHUNK)
            if not data:
                return
            for event in self._http.receive_data(data):
                self._handle(event)

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                self._requests[event.stream_id] = (headers, bytearray())
            case h2.events.DataReceived():
                self._requests[event.stream_id][1].extend(event.data)
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                headers, body = self._requests.pop(event.stream_id)
                data = _answer(headers[":method"], headers[":authority"], headers[":path"], bytes(body))
                self._http.send_headers(
                    event.stream_id,
                    [(":status", "200"), ("content-type", "text/plain"), ("content-length", str(len(data)))],
                )
                self._outgoing[event.stream_id] = bytearray(data)
                self._pump()
            case h2.events.StreamReset():
                self._requests.pop(event.stream_id, None)
                self._outgoing.pop(event.stream_id, None)
            case h2.events.WindowUpdated():
                self._pump()

    def _pump(self) -> None:
        """Send what the flow control windows allow."""
        for stream, data in list(self._outgoing.items()):
            while data:
                size = min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size, len(data))
                if size <= 0:
                    break
                self._http.send_data(stream, bytes(data[:size]))
                del data[:size]
            if not data:
                self._http.end_stream(stream)
                del self._outgoing[stream]
