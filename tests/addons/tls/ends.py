"""A certificate, and TLS ends over memory, for layers that are driven by hand."""

from __future__ import annotations

import datetime as dt
import functools
import ssl
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer
from OpenSSL import SSL

from addons.tls.pieces import PiecewiseConnection

HOST = "shop.example.com"
_DAYS = 9


@functools.cache
def certificate(days: int) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed one for HOST, which is over `days` from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, ends - dt.timedelta(days=90), ends)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
    return builder.sign(key, SHA256()), key


def served(version: int = 0, *, days: int = _DAYS) -> SSL.Context:
    """A server's context, of one version alone if one is given."""
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    made.set_min_proto_version(version)
    made.set_max_proto_version(version)
    made.set_cipher_list(b"ECDHE+AESGCM")
    shown, key = certificate(days)
    made.use_certificate(shown)
    made.use_privatekey(key)
    return made


def accepting(settings: SSL.Context) -> PiecewiseConnection:
    """A server's end."""
    made = PiecewiseConnection(settings)
    made.set_accept_state()
    return made


class Client:
    """The standard library's client."""

    def __init__(self, *, trusts: bool = True, host: str = HOST, highest: str = "TLSv1_3", ciphers: str = "") -> None:
        settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        settings.maximum_version = ssl.TLSVersion[highest]
        if trusts:
            settings.load_verify_locations(cadata=certificate(_DAYS)[0].public_bytes(Encoding.PEM).decode())
        if ciphers:
            settings.set_ciphers(ciphers)
        self._input, self._output = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = settings.wrap_bio(self._input, self._output, server_hostname=host)
        self.complaint = ""

    def hear(self, data: bytes) -> None:
        """Bytes of the server's."""
        self._input.write(data)

    def shake(self) -> bytes:
        """The handshake's next step; what is to be sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.complaint = error.reason or str(error)
        return self._output.read()

    def read(self) -> bytes:
        """What the server says; or nothing, and a complaint."""
        try:
            return self.tls.read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            self.complaint = error.reason or str(error)
            return b""

    def write(self, data: bytes) -> bytes:
        """`data` in a record."""
        self.tls.write(data)
        return self._output.read()


def spoilt(data: bytes) -> bytes:
    """The last record with a bit of its content turned over."""
    return data[:-1] + bytes((data[-1] ^ 1,))


def step(end: SSL.Connection) -> bytes:
    """A step of pyOpenSSL's end: a handshake, and what is read; what is to be sent."""
    with suppress(SSL.Error):
        end.do_handshake()
    with suppress(SSL.WantReadError):
        return end.bio_read(65535)
    return b""


class Listening(layer.Layer):
    """What would speak HTTP within: it keeps what it is told, closes when it `ends`, and `asks` the server once."""

    def __init__(self, made: context.Context) -> None:
        super().__init__(made)
        self.heard = b""
        self.closed: list[connection.Connection] = []
        self.ends, self.asks = False, b""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived):
            if event.connection is self.context.server or not self.asks:
                self.heard += event.data
            if self.asks:
                asked, self.asks = self.asks, b""
                yield commands.SendData(self.context.server, asked)
            if self.ends:
                yield commands.CloseConnection(event.connection)
        elif isinstance(event, events.ConnectionClosed):
            self.closed.append(event.connection)
        yield from ()
