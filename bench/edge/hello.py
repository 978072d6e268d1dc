"""What comes before TLS, and ClientHellos of unusual form: after CONNECT, through SOCKS5, and at our own sites."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from cryptography import x509

from bench.edge.scene import RefusedError, Scene
from bench.edge.server import Serve, Server, over_tls
from bench.edge.target import CLIENT_B, NAME, Target

Open = Callable[[str, int], socket.socket]
_PAUSE_S = 0.05
"""Between two segments: what comes together is read together."""

_LDAP_START_TLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
_LDAP_DONE = bytes.fromhex("300c02010178070a010004000400")
DIALOGUES: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {
    "a line": (b"", [(b"hello\r\n", b"")]),
    "SMTP": (b"220 here\r\n", [(b"EHLO a\r\n", b"250-here\r\n250 STARTTLS\r\n"), (b"STARTTLS\r\n", b"220 go\r\n")]),
    "IMAP": (b"* OK here\r\n", [(b"a STARTTLS\r\n", b"a OK go\r\n")]),
    "PostgreSQL": (b"", [(bytes.fromhex("0000000804d2162f"), b"S")]),
    "LDAP": (b"", [(_LDAP_START_TLS, _LDAP_DONE)]),
    "FTP": (b"220 here\r\n", [(b"AUTH TLS\r\n", b"234 go\r\n")]),
}
"""By protocol: the server's greeting, and what is said in turn before the ClientHello."""


class Client:
    """A TLS client in memory, whose first flight can be spoiled."""

    def __init__(self, name: str) -> None:
        """It believes everybody."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    def hello(self) -> bytes:
        """Its first flight."""
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def issuer(self, connection: socket.socket) -> str:
        """Finish the handshake; the common name of who signed the server's certificate."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(self._outgoing.read())
                data = connection.recv(65536)
                if not data:
                    raise RefusedError("closed") from None
                self._incoming.write(data)
            else:
                break
        connection.sendall(self._outgoing.read())
        shown = self._tls.getpeercert(binary_form=True)
        assert shown is not None
        return str(x509.load_der_x509_certificate(shown).issuer.rfc4514_string())


def _pieces(connection: socket.socket, *pieces: bytes) -> None:
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(_PAUSE_S)


def _finished(scene: Scene, variant: str, client: Client, connection: socket.socket) -> str:
    """Whether it is our leaf that the client sees, or the server's own certificate."""
    issuer = client.issuer(connection)
    if "origin" in issuer:
        scene.passed(variant)
        return "passed uninspected"
    return "inspected"


def split(scene: Scene, opened: Open, way: str) -> None:
    """The ClientHello in segments, and under record versions that RFC 8446 section 5.1 tells receivers to ignore."""

    def tried(variant: str, spoil: Callable[[bytes], list[bytes]]) -> str:
        with opened(NAME, server.port) as connection:
            client = Client(NAME)
            _pieces(connection, *spoil(client.hello()))
            return _finished(scene, f"{way}, {variant}", client, connection)

    def version(two: bytes) -> Callable[[bytes], list[bytes]]:
        return lambda hello: [hello[:1] + two + hello[3:]]

    spoils: dict[str, Callable[[bytes], list[bytes]]] = {
        "1 byte first": lambda hello: [hello[:1], hello[1:]],
        "2 bytes first": lambda hello: [hello[:2], hello[2:]],
        "3 bytes first": lambda hello: [hello[:3], hello[3:]],
        "1 byte, 1 byte": lambda hello: [hello[:1], hello[1:2], hello[2:]],
        "version 0304": version(b"\x03\x04"),
        "version 03ff": version(b"\x03\xff"),
        "version 0300": version(b"\x03\x00"),
        "version 0304 in pieces": lambda hello: [hello[:1], b"\x03\x04", hello[3:]],
        "two records": lambda hello: [
            hello[:3] + (9).to_bytes(2) + hello[5:14] + hello[:3] + (len(hello) - 14).to_bytes(2) + hello[14:]
        ],
    }
    with Server(over_tls(scene.target, _silent)) as server:
        scene.each((name, partial(tried, name, spoil)) for name, spoil in spoils.items())


def _echoing(connection: socket.socket) -> None:
    connection.sendall(connection.recv(100))


def _silent(connection: socket.socket) -> None:
    connection.recv(1)


def _dialogue(target: Target, greeting: bytes, said: list[tuple[bytes, bytes]]) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(greeting)
        for expected, reply in said:
            came = b""
            while len(came) < len(expected):
                data = connection.recv(len(expected) - len(came))
                if not data:
                    return
                came += data
            connection.sendall(reply)
        over_tls(target, _silent)(connection)

    return serve


def after_words(scene: Scene, opened: Open, way: str, *, passes: bool = False) -> None:
    """TLS that begins after other words (STARTTLS), and words that are neither TLS nor HTTP at all, where these may not
    pass: TLS must be found all the same."""

    def tried(variant: str) -> str:
        greeting, said = DIALOGUES[variant]
        with Server(_dialogue(scene.target, greeting, said)) as server, opened(NAME, server.port) as connection:
            if greeting:
                _heard(connection, 1.0)
            for words, reply in said:
                connection.sendall(words)
                if reply:
                    _heard(connection, 2.0, needed=True)
                time.sleep(_PAUSE_S)
            client = Client(NAME)
            connection.sendall(client.hello())
            return _finished(scene, f"{way}, {variant}", client, connection)

    def neither() -> str:
        with Server(_echoing) as server, opened(NAME, server.port) as connection:
            connection.sendall(b"\x00\x01neither\x02")
            if connection.recv(100).endswith(b"neither\x02"):
                scene.passed(f"{way}, bytes of no protocol")
                return "passed uninspected"
            return "closed"

    scene.each([*((name, partial(tried, name)) for name in DIALOGUES), *([] if passes else [("no protocol", neither)])])


def _heard(connection: socket.socket, limit_s: float, *, needed: bool = False) -> None:
    connection.settimeout(limit_s)
    try:
        came = connection.recv(4096)
    except TimeoutError:
        if needed:
            raise
    else:
        if not came:
            raise RefusedError("closed")
    connection.settimeout(3)


def split_connect(scene: Scene) -> None:
    """`split` after CONNECT."""
    split(scene, scene.tunnel, "CONNECT")


def words_connect(scene: Scene) -> None:
    """`after_words` after CONNECT."""
    after_words(scene, scene.tunnel, "CONNECT")


def words_passing(scene: Scene) -> None:
    """`after_words` where what is neither TLS nor HTTP may pass."""
    after_words(scene, scene.passing, "passing", passes=True)


def split_socks(scene: Scene) -> None:
    """`split` through SOCKS5."""
    split(scene, scene.socks, "SOCKS5")


def words_socks(scene: Scene) -> None:
    """`after_words` through SOCKS5."""
    after_words(scene, scene.socks, "SOCKS5")


def _endless_hello() -> Iterator[bytes]:
    """One handshake message that says it has 16 MB, in records of 16 KiB."""
    start = b"\x01\xff\xff\xf0\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00\xff\xff"
    yield b"\x16\x03\x01\x40\x00" + start.ljust(16384, b"\0")
    while True:
        yield b"\x16\x03\x01\x40\x00" + bytes(16384)


def _tiny_records() -> Iterator[bytes]:
    """54 kB of a ClientHello that has 6 more, in records of one byte."""
    body = b"\x01\x00\xea\x60\x03\x03" + bytes(54_000)
    for place in range(0, len(body), 100):
        yield b"".join(b"\x16\x03\x01\x00\x01" + body[at : at + 1] for at in range(place, min(place + 100, len(body))))


def huge_forward(scene: Scene) -> None:
    """A ClientHello of 16 MB after CONNECT."""
    scene.again(lambda: _flooded(scene, scene.tunnel(NAME, scene.target.tls_port), _endless_hello()))


def huge_inbound(scene: Scene) -> None:
    """A ClientHello of 16 MB at our own sites."""
    scene.again(lambda: _flooded(scene, scene.dial(scene.target.inbound), _endless_hello()))


def tiny_forward(scene: Scene) -> None:
    """Records of one byte after CONNECT."""
    scene.again(lambda: _flooded(scene, scene.tunnel(NAME, scene.target.tls_port), _tiny_records()), threads=8)


def tiny_inbound(scene: Scene) -> None:
    """Records of one byte at our own sites."""
    scene.again(lambda: _flooded(scene, scene.dial(scene.target.inbound), _tiny_records()), threads=8)


def half_inbound(scene: Scene) -> None:
    """Half of a ClientHello on ever more connections at our own sites, none of which goes on."""
    _halves(scene, lambda: scene.dial(scene.target.inbound))


def half_forward(scene: Scene) -> None:
    """Half of a ClientHello after CONNECT on ever more connections, none of which goes on."""
    _halves(scene, lambda: scene.tunnel(NAME, scene.target.tls_port))


def _halves(scene: Scene, opened: Callable[[], socket.socket]) -> None:
    kept: list[socket.socket] = []
    hello = Client(CLIENT_B).hello()

    def one() -> None:
        connection = opened()
        kept.append(connection)
        connection.sendall(hello[: len(hello) // 2])

    scene.again(one, threads=8, pause_s=0)
    scene.saw(f"{len(kept)} connections were taken")


def _flooded(scene: Scene, connection: socket.socket, chunks: Iterator[bytes]) -> None:
    with connection:
        scene.flood(connection, chunks)
        connection.settimeout(1.0)
        scene.saw("closed" if not connection.recv(100) else "alert")
