"""A client of HTTP/2 that asks for many things on one connection, or for what no other client would."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from addons.edge.http2.events import Body, Ended, Event, Head, Reset
from addons.edge.http2.session import Session
from addons.edge.settings import Bounds
from tests.exchanges.ends1 import HOST

Fields = list[tuple[bytes, bytes]]


def asked(method: str, path: str, *more: tuple[bytes, bytes]) -> Fields:
    """A request's head."""
    return [
        (b":method", method.encode()), (b":scheme", b"https"), (b":path", path.encode()),
        (b":authority", HOST.encode()), *more,
    ]  # fmt: skip


class Client2:
    """On a connection whose TLS has chosen HTTP/2."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        assert tls.selected_alpn_protocol() == "h2"
        self.tls = tls
        self.session = Session(Bounds(), client=True)
        self.came: list[Event] = []

    def request(self, fields: Fields, body: bytes | None = b"") -> int:
        """Begin it; with None as its body it has no end. Its stream."""
        stream = self.session.request(fields, ended=body == b"")
        if body:
            self.session.send(stream, body)
            self.session.end(stream)
        return stream

    def flush(self) -> None:
        """Send what there is."""
        self.tls.sendall(self.session.pull(1 << 24))

    def hear(self) -> bool:
        """Take what comes; whether anything did."""
        self.flush()
        data = self.tls.recv(65536)
        self.session.receive(data)
        for event in self.session.events:
            if isinstance(event, Body):
                self.session.give_back(event.stream_id, sum(map(len, event.chunks)))
        self.came += self.session.events
        self.session.events.clear()
        return bool(data)

    def until_over(self, streams: Sequence[int]) -> None:
        """Hear until each of these is over."""
        while not {one.stream_id for one in self.came if isinstance(one, Ended | Reset)} >= set(streams):
            assert self.hear(), f"the connection ended, and what came is {self.came}"

    def answer(self, stream: int) -> tuple[int, bytes]:
        """Status, 0 for none, and content; a stream that was reset has -1."""
        status, content = 0, b""
        for one in self.came:
            match one:
                case Head(stream_id, fields) if stream_id == stream:
                    status = int(dict(fields).get(b":status", b"0")) or status
                case Body(stream_id, chunks) if stream_id == stream:
                    content += b"".join(chunks)
                case Reset(stream_id) if stream_id == stream:
                    return -1, content
        return status, content
