"""Both ends for tests of addons/gnutls/connection.py: a throw-away CA, software keys in the HSM's place, clients, and a
server."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from addons.gnutls.connection import Connection
from addons.gnutls.credentials import Certificate, Credentials
from addons.gnutls.key import RemoteKey
from hsm.schemes import SCHEMES

NAME = "shop.example.com"
TICKET_KEY = bytes(range(64))
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@functools.cache
def private_key(kind: str) -> Private:
    """One key of each kind for the whole run: RSA keys take their time."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[kind])


class SoftwareKey:
    """What the signer would do with a key of a partition. Counts."""

    def __init__(self, kind: str) -> None:
        self.private = private_key(kind)
        self.schemes: list[str] = []
        self.decrypted = 0

    def sign(self, name: str, digest: bytes) -> bytes:
        scheme = SCHEMES[name]
        assert len(digest) == scheme.digest_size
        self.schemes.append(name)
        prehashed = Prehashed(scheme.hash)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return self.private.sign(digest, ec.ECDSA(prehashed))
        if scheme.family == "rsa_pss":
            return self.private.sign(digest, padding.PSS(padding.MGF1(scheme.hash), scheme.digest_size), prehashed)
        return self.private.sign(digest, padding.PKCS1v15(), prehashed)

    def decrypt(self, ciphertext: bytes) -> bytes:
        assert isinstance(self.private, rsa.RSAPrivateKey)
        self.decrypted += 1
        return self.private.decrypt(ciphertext, padding.PKCS1v15())

    def remote(self) -> RemoteKey:
        return RemoteKey(self.private.public_key(), self.sign)


@dataclass
class Authority:
    """A CA of this run."""

    key: CertificateIssuerPrivateKeyTypes = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: str = "test CA"

    @functools.cached_property
    def certificate(self) -> x509.Certificate:
        """Self-signed."""
        builder = self._builder(self.name, self.key.public_key())  # type: ignore[arg-type]
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)
        return builder.sign(self.key, hashes.SHA256())

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def ca_file(self, directory: Path) -> str:
        """For clients that read files."""
        path = directory / "ca.pem"
        path.write_text(self.pem)
        return str(path)

    def issue(self, private: Private, name: str = NAME, *, client: bool = False, days: int = 1) -> x509.Certificate:
        """A leaf for a server, or for a client."""
        usage = x509.ExtendedKeyUsageOID.CLIENT_AUTH if client else x509.ExtendedKeyUsageOID.SERVER_AUTH
        return (
            self._builder(name, private.public_key(), days)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def certify(self, key: SoftwareKey, name: str = NAME, remote: RemoteKey | None = None) -> Certificate:
        """A site's certificate with its chain."""
        leaf = self.issue(key.private, name).public_bytes(Encoding.DER)
        return Certificate([leaf, self.der], remote or key.remote())

    def client_files(self, directory: Path, kind: str = "p256", *, client: bool = True, days: int = 1) -> str:
        """A PEM file with a client's key and certificate."""
        private = private_key(kind)
        parts = [
            private.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            self.issue(private, "client", client=client, days=days).public_bytes(Encoding.PEM),
        ]
        path = directory / f"client-{self.name}-{client}-{days}.pem"
        path.write_bytes(b"".join(parts))
        return str(path)

    def _builder(
        self, name: str, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, days: int = 1
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=3))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )


def client_context(authority: Authority, version: str | None = None, **settings: object) -> ssl.SSLContext:
    """Python's own client, that verifies and speaks `version` ("1.2" or "1.3"), or what both can."""
    context = ssl.create_default_context(cadata=authority.pem)
    if version:
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, f"TLSv{version.replace('.', '_')}")
    for name, value in settings.items():
        setattr(context, name, value)
    return context


class Client:
    """A client over memory, and the bytes between it and a Connection."""

    def __init__(
        self,
        context: ssl.SSLContext,
        connection: Connection,
        *,
        name: str | None = NAME,
        session: ssl.SSLSession | None = None,
        step: int = 1 << 20,
    ) -> None:
        """`step`: how many bytes the wire carries at once."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        self.connection = connection
        self.step = step
        self.received = bytearray()
        self.closed = False

    def handshake(self) -> None:
        """Raises what either side raises: the server's first, its alert delivered."""
        done = False
        for _ in range(20_000):
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self.upstream(self.connection.do_handshake)  # the alert
                raise
            arrived = self.upstream(self.connection.do_handshake)
            arrived |= self.downstream()
            if done and not arrived:
                return
        raise AssertionError("the handshake does not end")

    def upstream(self, react: Callable[[], None]) -> bool:
        """Carry what the client has to say; after each step the server reacts."""
        data = self.outgoing.read()
        for start in range(0, len(data), self.step):
            self.connection.bio_write(data[start : start + self.step])
            try:
                react()
            except SSL.WantReadError:
                pass
            except SSL.Error:
                self.downstream()
                raise
        return bool(data)

    def downstream(self) -> bool:
        """Carry what the server has to say."""
        arrived = False
        with contextlib.suppress(SSL.WantReadError):
            while True:
                self.incoming.write(self.connection.bio_read(self.step))
                arrived = True
        return arrived

    def read(self, size: int = 1 << 16) -> bytes:
        """What the server sent, as far as it is there."""
        self.downstream()
        data = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError):
            while chunk := self.tls.read(size):
                data += chunk
        return bytes(data)

    def write(self, data: bytes) -> None:
        """Send to the server, which keeps what arrives in `received` until there is no more, and notes the end."""
        self.tls.write(data)
        self.deliver()

    def deliver(self) -> None:
        self.upstream(self._server_reads)

    def _server_reads(self) -> None:
        try:
            while True:
                self.received += self.connection.recv(65535)
        except SSL.ZeroReturnError:
            self.closed = True


@dataclass
class Outcome:
    """What the server noted of one client."""

    error: SSL.Error | None = None
    version: str = ""
    cipher: str | None = None
    alpn: bytes = b""
    sni: str | None = None
    resumed: bool = False
    peer: x509.Certificate | None = None
    received: int = 0


Respond = Callable[[bytes, Connection], None]


def echo(data: bytes, connection: Connection) -> None:
    """Say the same."""
    connection.sendall(data)


class Server:
    """Listens on loopback; a thread for each client."""

    def __init__(self, credentials: Credentials, alpn: Sequence[bytes] = (), respond: Respond = echo) -> None:
        self.credentials, self.alpn, self.respond = credentials, alpn, respond
        self.outcomes: list[Outcome] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Until the listener is shut down."""
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                outcome = Outcome()
                self.outcomes.append(outcome)
                thread = threading.Thread(target=self._converse, args=(peer, outcome))
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def join(self) -> None:
        """Wait for the clients to be gone."""
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection's thread does not end"

    def _converse(self, peer: socket.socket, outcome: Outcome) -> None:
        connection = Connection(self.credentials, self.alpn)
        with peer, contextlib.suppress(ConnectionError):
            try:
                self._handshake(peer, connection, outcome)
                while True:
                    self._exchange(peer, connection, outcome)
            except EOFError:
                pass
            except SSL.ZeroReturnError:
                self.respond(b"", connection)
                connection.shutdown()
            except SSL.Error as error:
                outcome.error = error
            _flush(peer, connection)

    def _handshake(self, peer: socket.socket, connection: Connection, outcome: Outcome) -> None:
        while True:
            try:
                connection.do_handshake()
                break
            except SSL.WantReadError:
                _flush(peer, connection)
                _fill(peer, connection)
        _flush(peer, connection)
        outcome.version = connection.get_protocol_version_name()
        outcome.cipher = connection.get_cipher_name()
        outcome.alpn = connection.get_alpn_proto_negotiated()
        outcome.sni = connection.sni
        outcome.resumed = connection.resumed
        certificate = connection.get_peer_certificate()
        outcome.peer = certificate.to_cryptography() if certificate else None

    def _exchange(self, peer: socket.socket, connection: Connection, outcome: Outcome) -> None:
        try:
            data = connection.recv(65535)
            outcome.received += len(data)
            self.respond(data, connection)
        except SSL.WantReadError:
            _flush(peer, connection)
            _fill(peer, connection)


def _flush(peer: socket.socket, connection: Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        while True:
            peer.sendall(connection.bio_read(65535))


def _fill(peer: socket.socket, connection: Connection) -> None:
    data = peer.recv(65535)
    if not data:
        raise EOFError
    connection.bio_write(data)


@contextlib.contextmanager
def serving(credentials: Credentials, alpn: Sequence[bytes] = (), respond: Respond = echo) -> Iterator[Server]:
    """A server for the duration of a test; its threads have ended afterwards."""
    server = Server(credentials, alpn, respond)
    acceptor = threading.Thread(target=server.run)
    acceptor.start()
    try:
        yield server
        server.join()
    finally:
        server.stop()
        acceptor.join(10)


AUTHORITY = Authority()


def connected(credentials: Credentials, version: str | None = None, **more: object) -> Client:
    """A client after its handshake."""
    client = Client(client_context(AUTHORITY, version), Connection(credentials), **more)  # type: ignore[arg-type]
    client.handshake()
    return client


def s_client(server: Server, *arguments: str, said: bytes = b"") -> str:
    """What `openssl s_client`, which trusts AUTHORITY, prints of one connection."""
    with tempfile.TemporaryDirectory() as directory:
        trust = ["-servername", NAME, "-CAfile", AUTHORITY.ca_file(Path(directory))]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", *trust, *arguments]
        ran = subprocess.run(command, input=said, capture_output=True, timeout=20, check=False)
    return (ran.stdout + ran.stderr).decode(errors="replace")


def run_python(arguments: list[str], **environment: str) -> str:
    """What a program of its own prints; it fails the test if it fails or crashes."""
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", *arguments],
        cwd=Path(__file__).parents[3],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout[-1000:] + ran.stderr[-4000:]
    return ran.stdout
