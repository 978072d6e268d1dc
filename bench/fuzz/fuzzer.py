"""Clients that do wrong to a running server: spoiled flights of real clients, over sockets, several at a time.

Each case is made from the seed and its number alone, so that one can be had again. It replays a recorded session with
changes, or makes a handshake of its own and spoils a flight in the middle of it, where there are keys already; then it
listens, ends its side, resets the connection or goes away. Whatever it gets is an outcome, never an error, but for
three: a server that cannot be connected to, and one that does not end a connection whose other end has ended, or that
it has sent an alert on.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from collections import Counter, deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from bench.fuzz.client_flights import Session
from bench.fuzz.client_hello import split
from bench.fuzz.mutations import mutate, segments

_LIVE = 0.15
"""The share of cases with a handshake of their own: the costly ones, for both sides."""
_QUIET_S = 0.05
"""How long to wait for an answer. A server that says nothing in that time waits for more, or is busy."""
_END_S = 10.0
_ALERTS = {
    0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow", 40: "handshake_failure",
    42: "bad_certificate", 46: "certificate_unknown", 47: "illegal_parameter", 50: "decode_error",
    51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security", 80: "internal_error",
    86: "inappropriate_fallback", 109: "missing_extension", 110: "unsupported_extension", 112: "unrecognized_name",
    116: "certificate_required", 120: "no_application_protocol",
}  # fmt: skip
"""RFC 8446 section 6 and RFC 7507."""

Progress = Callable[[int], None]


class Target(Struct, frozen=True):
    """A server: "host:port", and the names of its sites."""

    address: str
    hosts: list[str]


class Sent(Struct):
    """A case and what it sent, in hexadecimal."""

    number: int
    kind: str
    data: list[str]


class Fuzzer:
    """`clients` at a time. `outcomes` counts what came of the cases; `recent` has those that ran last; `failures` is
    what no server may do."""

    def __init__(self, target: Target, sessions: Sequence[Session], seed: int, clients: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.recent: deque[Sent] = deque(maxlen=4 * clients)
        self.failures: list[str] = []
        self.stopped = False
        self._target, self._sessions, self._seed, self._clients = target, sessions, seed, clients
        self._contexts = [_context(version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]

    async def run(self, first: int, number: int, progress: Progress) -> None:
        """Cases `first` to `first + number - 1`, or less where `stopped` is set meanwhile."""
        numbers = iter(range(first, first + number))

        async def client() -> None:
            for one in numbers:
                if self.stopped:
                    return
                await self._case(one)
                progress(one - first + 1)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._clients):
                tasks.create_task(client())

    async def _case(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")  # noqa: S311  # repeatable on purpose
        sent = Sent(number, "", [])
        self.recent.append(sent)
        host, _, port = self._target.address.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            self.failures.append(f"case {number}: no connection: {error}")
            return
        connection = _Connection(reader, writer, sent)
        try:
            if chance.random() < _LIVE:
                await self._live(connection, chance)
            else:
                await self._replay(connection, chance)
            await self._finish(connection, chance)
        except OSError:  # also where the reset came before our own end did (ENOTCONN)
            connection.end = "reset"
        finally:
            writer.transport.abort()
        self.outcomes[f"{said(bytes(connection.heard))}, {connection.end}"] += 1

    async def _replay(self, connection: _Connection, chance: random.Random) -> None:
        session = chance.choice(self._sessions)
        connection.sent.kind = session.client
        await connection.send(segments(mutate(session.flights, chance), chance), chance)

    async def _live(self, connection: _Connection, chance: random.Random) -> None:
        """A handshake of our own; one of its later flights, or of the requests behind it, is spoiled."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        host = chance.choice(self._target.hosts)
        tls = chance.choice(self._contexts).wrap_bio(incoming, outgoing, server_hostname=host)
        spoiled = chance.randint(1, 3)
        connection.sent.kind = f"live {host}, flight {spoiled}"
        for number in range(spoiled + 1):
            while not (flight := _say(tls, outgoing, host)):
                if not (data := await connection.hear(_END_S)):
                    return
                incoming.write(data)
            if number == spoiled:
                await connection.send(segments(mutate([flight], chance), chance), chance)
            else:
                await connection.send([flight], chance)

    async def _finish(self, connection: _Connection, chance: random.Random) -> None:
        match chance.choice(("listen", "listen", "listen", "end", "end", "reset", "leave")):
            case "reset":
                connection.reset()
                connection.end = "we reset it"
            case "leave":
                connection.end = "we left"
            case "end":
                connection.writer.write_eof()
                while await connection.hear(_END_S):
                    pass
                if connection.end != "closed":
                    self.failures.append(f"case {connection.sent.number}: open {_END_S:g} s after the client's end")
                connection.end = "closed after our end"
            case "listen":
                while await connection.hear(_QUIET_S):
                    pass
                if connection.end == "open" and "alert" in said(bytes(connection.heard)):
                    while await connection.hear(_END_S):
                        pass
                    if connection.end != "closed":
                        self.failures.append(f"case {connection.sent.number}: open {_END_S:g} s after an alert")


class _Connection:
    """The socket, and what came of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: Sent) -> None:
        self.writer, self.sent = writer, sent
        self.heard = bytearray()
        self.end = "open"
        self._reader = reader

    async def send(self, pieces: Sequence[bytes], chance: random.Random) -> None:
        """Each piece a segment of its own, at times with a pause behind it."""
        pause = chance.random() < 0.2
        for piece in pieces:
            self.sent.data.append(piece.hex())
            if self.writer.is_closing():
                raise ConnectionResetError("the server did not wait for all of it")
            self.writer.write(piece)
            if pause:
                await asyncio.sleep(0.002)
        if sum(map(len, pieces)) > 65536:
            async with asyncio.timeout(_END_S):
                await self.writer.drain()

    async def hear(self, limit_s: float) -> bytes:
        """What comes next; nothing when the server has closed or is quiet for `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                data = await self._reader.read(65536)
        except TimeoutError:
            return b""
        if not data:
            self.end = "closed"
        self.heard += data
        return data

    def reset(self) -> None:
        """Have the kernel send RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _context(version: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = made.maximum_version = version
    return made


def _say(tls: ssl.SSLObject, outgoing: ssl.MemoryBIO, host: str) -> bytes:
    """The client's next flight, empty when it is the server's turn or when all is over."""
    try:
        tls.do_handshake()
    except ssl.SSLError:
        return outgoing.read()
    try:
        tls.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    except ssl.SSLError:
        return b""
    return outgoing.read()


def said(heard: bytes) -> str:
    """What a server's bytes are, as far as it can be told from outside."""
    words: list[str] = []
    for record in split(heard):
        match record[0]:
            case 20:
                continue
            case 21:
                alert = _ALERTS.get(record[6], str(record[6])) if len(record) == 7 else "encrypted"
                word = f"alert {alert}"
            case 22:
                word = "handshake"
            case 23:
                word = "encrypted data"
            case _:
                word = "no TLS"
        if word not in words:
            words.append(word)
    return " + ".join(words) or "nothing"
