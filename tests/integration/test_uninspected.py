"""Nothing goes round inspection: TLS that comes in pieces, late, or in odd records, and what is no TLS at all."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.integration.test_forward import tunnel
from tests.waiting import wait_until

Dialogue = Sequence[tuple[str, bytes]]


@pytest.fixture(scope="module")
def passing(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An hsmitm that passes what is neither TLS nor HTTP."""
    made = System.make(
        tmp_path_factory.mktemp("passing") / "s", upstream_ca=origin_ca.pem, workers="1", not_tls='"pass"'
    )
    with made as system:
        yield system


class Shaped:
    """A client's TLS over `connection`, whose records go through `shape` on their way."""

    def __init__(
        self, connection: socket.socket, ca: Path, name: str, shape: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        self._connection, self._shape = connection, shape
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(ca))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _run[T](self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._send()
                data = self._connection.recv(65536)
                if not data:
                    raise ConnectionError("closed") from None
                self._incoming.write(data)
            else:
                self._send()
                return done

    def _send(self) -> None:
        data = self._outgoing.read()
        for piece in self._shape(data) if data else ():
            self._connection.sendall(piece)
            wait_until(lambda: _taken(self._connection), "the piece was read", 10)

    def handshake(self) -> None:
        """To its end; the certificate is verified."""
        self._run(self._tls.do_handshake)

    def ask(self, data: bytes) -> bytes:
        """Send, and the next that comes."""
        self._run(lambda: self._tls.write(data))
        return self._run(lambda: self._tls.read(4096))


def _taken(connection: socket.socket) -> bool:
    """Whether the other end, on this machine, has read all that was sent."""
    here, there = (f"{one[1]:04X}" for one in (connection.getsockname(), connection.getpeername()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        if local.endswith(f":{there}") and remote.endswith(f":{here}"):
            return queues.endswith(":00000000")
    return True


def _whole(data: bytes) -> Sequence[bytes]:
    return [data]


def _version(minor: int) -> Callable[[bytes], Sequence[bytes]]:
    return lambda data: [data[:2] + bytes((minor,)) + data[3:]] if data[:1] == b"\x16" else [data]


def _pieces(*sizes: int) -> Callable[[bytes], Sequence[bytes]]:
    def cut(data: bytes) -> Sequence[bytes]:
        if data[:1] != b"\x16":
            return [data]
        starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]

    return cut


def _small_records(data: bytes) -> Sequence[bytes]:
    if data[:1] != b"\x16":
        return [data]
    body = data[5:]
    return [b"".join(data[:3] + len(part).to_bytes(2) + part for part in (body[:1], body[1:4], body[4:60], body[60:]))]


SHAPES = {
    "whole": _whole,
    "its first byte alone": _pieces(1),
    "its first two bytes alone": _pieces(2),
    "its header byte by byte": _pieces(1, 1, 1, 1, 1, 1),
    "a record of version 3.4": _version(4),
    "a record of version 3.255": _version(255),
    "a record of version 3.0": _version(0),
    "several records": _small_records,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_client_hello_in_any_shape_is_inspected(system: System, origin: OriginThread, shape: str) -> None:
    """However the first bytes of TLS are cut, and whatever version their record has, the client gets our leaf."""
    with tunnel(system, "shaped.test", origin.port) as connection:
        tls = Shaped(connection, system.ca, "shaped.test", SHAPES[shape])
        tls.handshake()
        assert b"200" in tls.ask(b"GET / HTTP/1.1\r\nHost: shaped.test\r\n\r\n")


STARTTLS: dict[str, Dialogue] = {
    "SMTP": (
        ("server", b"220 mail.test ESMTP\r\n"), ("client", b"EHLO a\r\n"), ("server", b"250-mail\r\n250 STARTTLS\r\n"),
        ("client", b"STARTTLS\r\n"), ("server", b"220 go ahead\r\n"),
    ),
    "IMAP": (("server", b"* OK ready\r\n"), ("client", b"a1 STARTTLS\r\n"), ("server", b"a1 OK begin\r\n")),
    "FTP": (("server", b"220 ready\r\n"), ("client", b"AUTH TLS\r\n"), ("server", b"234 go\r\n")),
    "PostgreSQL": (("client", bytes.fromhex("0000000804d2162f")), ("server", b"S")),
    "MySQL": (
        ("server", b"\x4a\0\0\0\x0a8.0.36\0" + bytes(66)), ("client", b"\x20\0\0\1\x85\xae\xff\x19" + bytes(28)),
    ),
    "LDAP": (
        ("client", b"0\x1d\x02\x01\x01w\x18\x80\x161.3.6.1.4.1.1466.20037"),
        ("server", b"0\x0c\x02\x01\x01x\x07\n\x01\0\x04\0\x04\0"),
    ),
    "XMPP": (
        ("client", b"<stream:stream to='x.test'>"), ("server", b"<stream:features><starttls/></stream:features>"),
        ("client", b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"), ("server", b"<proceed/>"),
    ),
}  # fmt: skip


@contextmanager
def service(ca: OriginCA, dialogue: Dialogue, name: str, port: int = 0) -> Iterator[tuple[int, Future[bytes]]]:
    """A server that speaks its part of `dialogue`, then TLS; what it heard there."""

    def serve() -> bytes:
        with server.accept()[0] as connection:
            connection.settimeout(10)
            for side, text in dialogue:
                if side == "server":
                    connection.sendall(text)
                else:
                    heard(connection, text)
            with ca.context((name,), ()).wrap_socket(connection, server_side=True) as tls:
                data = tls.recv(4096)
                tls.sendall(b"hello " + data)
                return data

    with socket.create_server(("127.0.0.1", port)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(10)
        yield server.getsockname()[1], pool.submit(serve)


def heard(connection: socket.socket, text: bytes) -> None:
    got = b""
    while len(got) < len(text):
        data = connection.recv(len(text) - len(got))
        assert data, got
        got += data
    assert got == text


@pytest.mark.parametrize("shape", ["whole", "its first byte alone", "several records"])
@pytest.mark.parametrize("protocol", STARTTLS)
def test_tls_that_begins_later_is_inspected(passing: System, origin_ca: OriginCA, protocol: str, shape: str) -> None:
    """A stream that was passed and turns to TLS gets a leaf of ours from there on, whatever was said before."""
    name = f"{protocol.lower()}.test"
    with service(origin_ca, STARTTLS[protocol], name) as (port, got), tunnel(passing, name, port) as connection:
        for side, text in STARTTLS[protocol]:
            if side == "client":
                connection.sendall(text)
            else:
                heard(connection, text)
        tls = Shaped(connection, passing.ca, name, SHAPES[shape])
        tls.handshake()
        assert tls.ask(b"NOOP\r\n") == b"hello NOOP\r\n"
        assert got.result(10) == b"NOOP\r\n"


def test_tls_right_behind_plain_text_is_inspected(passing: System, origin_ca: OriginCA) -> None:
    """A client that does not wait for the answer to its STARTTLS, in one segment with its ClientHello, is inspected."""
    dialogue = (("server", b"220\r\n"), ("client", b"STARTTLS\r\n"), ("server", b"220 go\r\n"))
    with (
        service(origin_ca, dialogue, "quick.test") as (port, got),
        tunnel(passing, "quick.test", port) as connection,
    ):
        heard(connection, b"220\r\n")
        first = [b"STARTTLS\r\n"]

        def behind(data: bytes) -> Sequence[bytes]:
            return [first.pop() + data] if first else [data]

        with _WithoutPrefix(connection, b"220 go\r\n") as answered:
            tls = Shaped(answered, passing.ca, "quick.test", behind)
            tls.handshake()
            assert tls.ask(b"NOOP\r\n") == b"hello NOOP\r\n"
        assert got.result(10) == b"NOOP\r\n"


class _WithoutPrefix(socket.socket):
    """A socket whose first bytes are a plain answer."""

    def __init__(self, connection: socket.socket, prefix: bytes) -> None:
        super().__init__(fileno=socket.dup(connection.fileno()))
        self.settimeout(10)
        self._prefix = prefix

    def recv(self, size: int, flags: int = 0) -> bytes:
        """The rest."""
        while self._prefix:
            got = super().recv(len(self._prefix))
            assert self._prefix.startswith(got)
            self._prefix = self._prefix.removeprefix(got)
        return super().recv(size, flags)


def closed(connection: socket.socket) -> bytes:
    """What comes until the other end closes."""
    got = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return got
        if not data:
            return got
        got += data


@contextmanager
def cooperating(first: bytes = b"", *, asked: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server that says `first`, after a request where it is `asked`, and notes what it hears then."""
    got: list[bytes] = []

    def serve() -> None:
        try:
            connection = server.accept()[0]
        except OSError:
            return
        with connection:
            connection.settimeout(10)
            if asked:
                connection.recv(65536)
            connection.sendall(first)
            got.append(closed(connection))

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(10)
        pool.submit(serve)
        yield server.getsockname()[1], got
        server.shutdown(socket.SHUT_RDWR)


NO_HTTP = {
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a short line": b"hello\r\n",
    "SMTP": b"EHLO client.example\r\n",
    "one byte": b"\x00",
    "HTTP/2 in clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "an SSL 2 ClientHello": bytes.fromhex("802e010301001500000010") + bytes(40),
}


@pytest.mark.parametrize("what", NO_HTTP)
def test_what_is_neither_tls_nor_http_is_closed(system: System, what: str) -> None:
    """By default nothing passes that nobody looks into: it is closed, logged and counted, and the server hears none."""
    with cooperating() as (port, got), tunnel(system, "odd.test", port) as connection:
        connection.sendall(NO_HTTP[what])
        assert closed(connection) == b""
        wait_until(lambda: bool(got), "the server is let go", 10)
        assert got == [b""]
    line = f"refused (not-tls): neither TLS nor HTTP to odd.test:{port}"
    wait_until(lambda: line in system.log, "the log has it", 5)


def test_a_server_that_speaks_first_is_closed(system: System) -> None:
    """A server's greeting is no TLS and no HTTP: the client does not even see it."""
    with cooperating(b"220 mail ESMTP\r\n") as (port, _), tunnel(system, "mail.test", port) as connection:
        assert closed(connection) == b""


def test_an_upgrade_to_another_protocol_is_closed(system: System) -> None:
    """A 101 is no way out of HTTP: what follows is neither TLS nor HTTP."""
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n"
    with cooperating(answer, asked=True) as (port, got), tunnel(system, "odd.test", port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: odd.test\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        with suppress(ConnectionError):
            connection.sendall(b"\x00not HTTP")
        assert closed(connection) == b""
        wait_until(lambda: bool(got), "the server is let go", 10)
        assert got == [b""]


def test_a_passed_stream_passes_whole(passing: System) -> None:
    """Where an operator lets other protocols pass, every byte of them does, also ones like the first of TLS."""
    said = b"\x16"
    with cooperating(b"ready\x16") as (port, got), tunnel(passing, "raw.test", port) as connection:
        heard(connection, b"ready\x16")
        connection.sendall(said)
        connection.sendall(more := b"\x16\x03\x16\x03\x01" + bytes(range(256)) * 300 + b"\x16\x03\x01")
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: bool(got), "the server heard all", 10)
        assert got == [said + more]


REVERSED = {
    "TLS begun by the server": (b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(200), b""),
    "an SSL 2 ClientHello": (b"ready", bytes.fromhex("802e010301001500000010") + bytes(40)),
    "a ClientHello that is none": (b"ready", b"\x16\x03\x01\x00\x10\x01\x00\x00\x0c\x03\x03" + bytes(10)),
}


@pytest.mark.parametrize("what", REVERSED)
def test_tls_that_cannot_be_inspected_is_refused(passing: System, what: str) -> None:
    """In a passed stream, too, TLS passes inspected or not at all."""
    server_says, client_says = REVERSED[what]
    with cooperating(server_says) as (port, got), tunnel(passing, "raw.test", port) as connection:
        if client_says:
            heard(connection, server_says)
            connection.sendall(client_says)
        assert b"\x16" not in closed(connection)[:1]
        wait_until(lambda: bool(got), "the server is let go", 10)
        assert client_says[:11] not in got[0] or not client_says
