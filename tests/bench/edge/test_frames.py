"""HTTP/2 frames by hand, and what an attacker reads of the other end."""

from __future__ import annotations

import socket

import h2.config
import h2.connection
import h2.events

from bench.edge import frames
from bench.edge.frames import END_HEADERS, END_STREAM, Peer, frame


def test_a_library_reads_them() -> None:
    """What an attacker writes is HTTP/2: the request that it makes is the one that a library reads."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(ours)
        block = frames.request("a.example", path=b"/x", extra=frames.field(b"x-a", b"b"))
        peer.send(frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, block))
        server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        server.initiate_connection()
        events: list[h2.events.Event] = []
        while not any(isinstance(one, h2.events.StreamEnded) for one in events):
            events += server.receive_data(theirs.recv(65536))
        (asked,) = (one for one in events if isinstance(one, h2.events.RequestReceived))
        assert dict(asked.headers or []) == {
            ":method": "GET", ":scheme": "https", ":path": "/x", ":authority": "a.example", "x-a": "b"
        }  # fmt: skip
        server.send_headers(1, [(":status", "200")])
        server.send_data(1, b"hello", end_stream=True)
        theirs.sendall(server.data_to_send())
        assert peer.until(5, data=5)
        assert peer.blocks[0][0] == 1
        server.close_connection(error_code=11)
        theirs.sendall(server.data_to_send())
        assert peer.outcome() == "GOAWAY ENHANCE_YOUR_CALM"


def test_the_end() -> None:
    """A stream that is reset, and a connection that is closed, are told apart."""
    ours, theirs = socket.socketpair()
    with ours:
        peer = Peer(ours)
        theirs.sendall(frame(frames.RST_STREAM, 0, 1, (11).to_bytes(4)))
        theirs.close()
        assert peer.outcome() == "RST_STREAM ENHANCE_YOUR_CALM"
    ours, theirs = socket.socketpair()
    with ours:
        peer = Peer(ours)
        theirs.close()
        assert peer.outcome() == "closed"
