"""HTTP/2 in memory: messages, windows, bounds, floods."""

from __future__ import annotations

import struct

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.edge.http2 import nghttp2
from addons.edge.http2.events import Body, Ended, Event, GoAway, Head, Invalid, Oversized, Reset
from addons.edge.http2.session import Session, parting
from addons.edge.settings import Bounds
from tests.addons.edge import wire2
from tests.addons.edge.wire2 import OK, POST, REQUEST

BOUNDS = Bounds()


def ends(bounds: Bounds = BOUNDS) -> tuple[Session, Session]:
    """A client's end and a server's, who have greeted each other."""
    client, server = Session(bounds, client=True), Session(bounds, client=False)
    wire2.exchange(client, server)
    client.events.clear()
    server.events.clear()
    server.control = client.control = 0
    return client, server


def greeted(bounds: Bounds = BOUNDS) -> Session:
    """A server's end whose client is written by hand."""
    server = Session(bounds, client=False)
    server.receive(wire2.MAGIC + wire2.settings())
    server.pull(1 << 30)
    server.receive(wire2.settings(ack=True))
    server.events.clear()
    server.control = 0
    return server


def taken(session: Session) -> list[Event]:
    """What a session tells, once."""
    events, session.events = session.events, []
    return events


def test_a_message_goes_both_ways_with_trailers() -> None:
    """Fields keep their order, bodies their bytes, and trailers come behind them, in requests and responses."""
    client, server = ends()
    request = [*POST, (b"te", b"trailers"), (b"b", b"2"), (b"a", b"1"), (b"b", b"3")]
    stream = client.request(request, ended=False)
    client.send(stream, b"question")
    client.end(stream, [(b"checksum", b"q")])
    wire2.exchange(client, server)
    assert taken(server) == [
        Head(stream, request, ended=False),
        Body(stream, [b"question"]),
        Head(stream, [(b"checksum", b"q")], ended=True, trailers=True),
        Ended(stream),
    ]
    server.inform(stream, [(b":status", b"103"), (b"link", b"</x>")])
    server.respond(stream, OK, ended=False)
    server.send(stream, b"answer")
    server.end(stream, [(b"checksum", b"a")])
    wire2.exchange(client, server)
    assert taken(client) == [
        Head(stream, [(b":status", b"103"), (b"link", b"</x>")], ended=False),
        Head(stream, OK, ended=False),
        Body(stream, [b"answer"]),
        Head(stream, [(b"checksum", b"a")], ended=True, trailers=True),
        Ended(stream),
    ]
    assert not client.streams
    assert not server.streams
    assert not client.backlog


def test_a_body_waits_for_the_window_and_the_window_for_who_takes_it() -> None:
    """A sender gets a window's worth and no byte more before the other side has taken what came."""
    client, server = ends()
    stream = client.request(POST, ended=False)
    client.send(stream, bytes(5_000_000))
    client.end(stream)
    wire2.exchange(client, server)
    came = sum(len(chunk) for event in taken(server) if isinstance(event, Body) for chunk in event.chunks)
    assert came == BOUNDS.stream_window_bytes
    assert client.waits(stream) == client.backlog == 5_000_000 - came
    while client.backlog:
        server.give_back(stream, came)
        wire2.exchange(client, server)
        events = taken(server)
        came = sum(len(chunk) for event in events if isinstance(event, Body) for chunk in event.chunks)
        assert 0 < came <= BOUNDS.stream_window_bytes
    assert events[-1] == Ended(stream)


def test_all_streams_together_have_one_window() -> None:
    """What a peer may send on all its streams is bounded by the connection's window."""
    client, server = ends()
    for _ in range(20):
        client.send(client.request(POST, ended=False), bytes(1_000_000))
    wire2.exchange(client, server)
    came = sum(len(chunk) for event in server.events if isinstance(event, Body) for chunk in event.chunks)
    assert came == BOUNDS.connection_window_bytes


def test_what_is_pulled_is_bounded() -> None:
    """A large body is not made into frames all at once for a socket that may not take them."""
    client, server = Session(BOUNDS, client=True), Session(Bounds(stream_window_bytes=16_777_216), client=False)
    wire2.exchange(client, server)
    client.send(client.request(POST, ended=False), bytes(10_000_000))
    assert len(client.pull(65536)) < 65536 + 16384 + 9


def test_an_early_answer_ends_the_upload() -> None:
    """Who is answered before the request is whole is told to stop sending, and reads the answer."""
    client, server = ends()
    stream = client.request(POST, ended=False)
    client.send(stream, bytes(2_000_000))
    wire2.exchange(client, server)
    server.respond(stream, OK, ended=False)
    server.send(stream, b"too much")
    server.end(stream)
    server.reset_behind(stream, nghttp2.NO_ERROR)
    wire2.exchange(client, server)
    events = taken(client)
    assert Body(stream, [b"too much"]) in events
    assert events[-1] == Reset(stream, nghttp2.NO_ERROR, by_peer=True)
    assert not client.backlog
    assert not server.streams


def test_a_reset_drops_what_waits() -> None:
    """Nothing is kept for a stream that is gone, whoever ended it."""
    client, server = ends()
    first, second = (client.request(POST, ended=False) for _ in range(2))
    for stream in (first, second):
        client.send(stream, bytes(1_000_000))
    wire2.exchange(client, server)
    client.reset(first, nghttp2.CANCEL)
    server.reset(second, nghttp2.INTERNAL_ERROR)
    wire2.exchange(client, server)
    assert not client.backlog
    assert Reset(first, nghttp2.CANCEL, by_peer=True) in server.events
    assert Reset(second, nghttp2.INTERNAL_ERROR, by_peer=True) in client.events
    client.send(first, b"more")
    assert not client.backlog


@pytest.mark.parametrize(
    "extra",
    [
        [(b"x", b"v" * 33_000)],
        [(b"n%d" % number, b"v" * 1000) for number in range(70)],
        [(b"n%d" % number, b"") for number in range(300)],
    ],
    ids=["one field", "all fields", "many fields"],
)
def test_a_head_beyond_its_bounds_is_told_as_such(extra: list[tuple[bytes, bytes]]) -> None:
    """A head that is too large in any way is read to its end, so that it can be answered, and not handed on."""
    server = greeted()
    block = b"".join(b"\x10" + wire2._number(len(n), 7) + n + wire2._number(len(v), 7) + v for n, v in REQUEST + extra)
    parts = [block[at : at + 16000] for at in range(0, len(block), 16000)]
    server.receive(wire2.frame(wire2.HEADERS, parts[0], flags=wire2.END_STREAM, stream=1) if parts[1:] else b"")
    for part in parts[1:-1]:
        server.receive(wire2.frame(wire2.CONTINUATION, part, stream=1))
    kind, flags = (wire2.CONTINUATION, 0) if parts[1:] else (wire2.HEADERS, wire2.END_STREAM)
    server.receive(wire2.frame(kind, parts[-1], flags=flags | wire2.END_HEADERS, stream=1))
    (event, _ended) = taken(server)
    assert isinstance(event, Oversized)
    assert event.what == "head"
    assert sum(len(value) for _name, value in event.fields) < BOUNDS.head_bytes + BOUNDS.field_bytes
    server.respond(1, [(b":status", b"431")], ended=True)
    assert wire2.decoded(server.pull(1 << 20)) == [(1, [(b":status", b"431")])]


def test_trailers_beyond_their_bounds_are_told_as_such() -> None:
    """Trailers have a bound of their own."""
    server = greeted()
    server.receive(wire2.headers(POST, 1, flags=0))
    server.receive(wire2.headers([(b"t%d" % number, b"v" * 500) for number in range(40)], 1)[:0])
    encoder = hpack.Encoder()
    block = encoder.encode([(b"t%d" % number, bytes([65 + number % 26]) * 900) for number in range(20)])
    server.receive(wire2.frame(wire2.HEADERS, block[:10_000], flags=wire2.END_STREAM, stream=1))
    server.receive(wire2.frame(wire2.CONTINUATION, block[10_000:], flags=wire2.END_HEADERS, stream=1))
    assert [event.what for event in taken(server) if isinstance(event, Oversized)] == ["trailers"]


def test_a_header_block_that_inflates_without_end_ends_the_connection() -> None:
    """A bomb of HPACK, one byte of which is a field of 4 KB, costs a bounded number of fields (RFC 7541)."""
    server = greeted()
    field = (b"bomb", b"v" * 3900)
    encoder = hpack.Encoder()
    server.receive(wire2.headers([*REQUEST, field], 1, encoder=encoder))
    taken(server)
    server.receive(wire2.frame(wire2.HEADERS, b"\xbe" * 16000, stream=3))
    assert server.flooded
    assert parting(server.pull(1 << 20))[0] == nghttp2.ENHANCE_YOUR_CALM
    assert sum(len(value) for _name, value in server._fields) < 6 * BOUNDS.head_bytes


def test_continuation_frames_without_end_end_the_connection() -> None:
    """A block that goes on and on, with nothing in it, is not read for ever (CVE-2024-27316 and its relatives)."""
    server = greeted()
    server.receive(wire2.frame(wire2.HEADERS, b"", flags=wire2.END_STREAM, stream=1))
    for _ in range(1000):
        server.receive(wire2.frame(wire2.CONTINUATION, b"", stream=1) * 100)
        if server.failed is not None:
            break
    assert server.failed is not None


@pytest.mark.parametrize(
    ("name", "frames", "each"),
    [
        ("SETTINGS", wire2.settings(), 1),
        ("PRIORITY", wire2.frame(wire2.PRIORITY, struct.pack(">IB", 0, 1), stream=3), 1),
        ("rapid reset", b"", 1),
        ("empty DATA", wire2.frame(wire2.DATA, b"", stream=1), 1),
        ("padding alone", wire2.frame(wire2.DATA, b"\x01\0", flags=8, stream=1), 1),
        ("PING", wire2.frame(wire2.PING, bytes(8)), 1),
        ("WINDOW_UPDATE", wire2.window_update(1), 1),
        ("WINDOW_UPDATE of a stream", wire2.window_update(1, 1), 1),
        ("made to reset", b"", 1),
    ],
)
def test_frames_that_cost_us_are_counted(name: str, frames: bytes, each: int) -> None:
    """Every kind of frame that costs its sender nothing counts, once its due is used up."""
    server = greeted()
    server.receive(wire2.headers(POST, 1, flags=0))
    for number in range(300):
        if name in ("rapid reset", "made to reset"):
            stream = 2 * number + 3
            server.receive(wire2.headers([*POST, (b"content-length", b"1")], stream, flags=0))
            end = wire2.frame(wire2.RST_STREAM, struct.pack(">I", 8), stream=stream)
            server.receive(end if name == "rapid reset" else wire2.frame(wire2.DATA, b"more", stream=stream))
        else:
            server.receive(frames)
        server.pull(1 << 20)
    assert server.control >= 190 * each


def test_streams_beyond_their_number_are_refused_and_counted() -> None:
    """A client gets as many streams as were announced, and who opens more after that is no client (RFC 9113, 5.1.2)."""
    server = Session(Bounds(http2_streams=5), client=False)
    server.receive(wire2.MAGIC + wire2.settings())
    server.pull(1 << 20)
    server.control = 0
    for number in range(9):
        server.receive(wire2.headers(POST, 2 * number + 1, flags=0))
    heads = [event for event in taken(server) if isinstance(event, Head)]
    assert len(heads) == 5
    resets = [payload for kind, _, _, payload in wire2.frames(server.pull(1 << 20)) if kind == wire2.RST_STREAM]
    assert resets == [struct.pack(">I", nghttp2.REFUSED_STREAM)] * 4
    assert server.control == 4
    server.receive(wire2.settings(ack=True) + wire2.headers(POST, 101, flags=0))  # now it cannot say it did not know
    assert parting(server.pull(1 << 20)) == (nghttp2.PROTOCOL_ERROR, "request HEADERS: max concurrent streams exceeded")


def test_downloads_earn_window_updates() -> None:
    """A client that reads a large body sends many WINDOW_UPDATE frames, and none of them is held against it."""
    client, server = ends(Bounds(stream_window_bytes=65535, connection_window_bytes=65535))
    stream = client.request(REQUEST, ended=True)
    wire2.exchange(client, server)
    server.respond(stream, OK, ended=False)
    for _ in range(500):
        server.send(stream, bytes(40_000))
        while server.backlog:
            client.receive(server.pull(1 << 20))
            for event in taken(client):
                if isinstance(event, Body):
                    client.give_back(stream, sum(map(len, event.chunks)))
            server.receive(client.pull(1 << 20))
    assert server.control == 0


@pytest.mark.parametrize(
    "fields",
    [
        [*POST, (b"Upper", b"case")],
        [*POST, (b"connection", b"close")],
        [*POST, (b"keep-alive", b"1")],
        [*POST, (b"proxy-connection", b"close")],
        [*POST, (b"transfer-encoding", b"chunked")],
        [*POST, (b"upgrade", b"websocket")],
        [*POST, (b"te", b"gzip")],
        [*POST, (b"x", b"a\rb")],
        [*POST, (b"x", b"a\nb")],
        [*POST, (b"x", b"a\0b")],
        [*POST, (b"x", b" padded")],
        [*POST, (b"x", b"padded ")],
        [*POST, (b"na me", b"v")],
        [*POST, (b"na:me", b"v")],
        [*POST, (b"", b"v")],
        [*POST, (b"content-length", b"1"), (b"content-length", b"2")],
        [*POST, (b"content-length", b"-1")],
        [*POST, (b"content-length", b"1a")],
        [*POST, (b":path", b"/again")],
        [*POST, (b":unknown", b"x")],
        [*POST, (b":status", b"200")],
        [(b"x", b"first"), *POST],
        POST[1:],
        [one for one in POST if one[0] != b":path"],
        [one for one in POST if one[0] != b":scheme"],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b""), (b":authority", b"a")],
        [(b":method", b"G T"), *POST[1:]],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/a\r\nb"), (b":authority", b"a")],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/a b"), (b":authority", b"a")],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a\0b")],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")],
    ],
)
def test_a_malformed_request_resets_its_stream(fields: list[tuple[bytes, bytes]]) -> None:
    """What RFC 9113 section 8.2 and 8.3 call malformed never becomes a request, and nothing is left out to mend it."""
    server = greeted()
    server.receive(wire2.headers(fields, 1))
    events = taken(server)
    assert [type(event) for event in events] == [Invalid]
    resets = [payload for kind, _, _, payload in wire2.frames(server.pull(1 << 20)) if kind == wire2.RST_STREAM]
    assert resets == [struct.pack(">I", nghttp2.PROTOCOL_ERROR)]
    assert server.failed is None


@pytest.mark.parametrize(
    ("announced", "sent"),
    [(b"3", [b"abcPOST / HTTP/1.1"]), (b"30", [b"short"]), (b"0", [b"x"]), (b"5", [b"abc", b"def"])],
)
def test_a_body_is_as_long_as_its_head_says(announced: bytes, sent: list[bytes]) -> None:
    """A content-length that the DATA frames do not keep breaks the stream; no byte beyond it is handed on."""
    server = greeted()
    server.receive(wire2.headers([*POST, (b"content-length", announced)], 1, flags=0))
    for number, data in enumerate(sent, 1):
        flags = wire2.END_STREAM if number == len(sent) else 0
        server.receive(wire2.frame(wire2.DATA, data, flags=flags, stream=1))
    server.pull(1 << 20)
    events = taken(server)
    assert events[-1] == Reset(1, nghttp2.PROTOCOL_ERROR, by_peer=False)
    assert sum(len(chunk) for event in events if isinstance(event, Body) for chunk in event.chunks) <= int(announced)
    assert Ended(1) not in events


def test_a_server_that_goes_away_ends_what_it_has_not_taken() -> None:
    """Streams beyond a GOAWAY's last one are over, and those before it go on (RFC 9113 section 6.8)."""
    client, server = ends()
    first, second = (client.request(REQUEST, ended=True) for _ in range(2))
    server.receive(client.pull(1 << 20))
    client.receive(wire2.frame(wire2.GOAWAY, struct.pack(">II", first, 0) + b"enough"))
    events = taken(client)
    assert GoAway(first, 0, b"enough") in events
    assert Reset(second, nghttp2.REFUSED_STREAM, by_peer=False) in events
    server.respond(first, OK, ended=True)
    client.receive(server.pull(1 << 20))
    assert Ended(first) in taken(client)
    assert client.request(REQUEST, ended=True) < 0


def test_we_say_that_we_go_away() -> None:
    """A client that is told to leave finishes what it has begun."""
    client, server = ends()
    stream = client.request(REQUEST, ended=True)
    wire2.exchange(client, server)
    server.leave()
    wire2.exchange(client, server)
    assert any(isinstance(event, GoAway) and event.last_stream_id == stream for event in client.events)
    server.respond(stream, OK, ended=True)
    wire2.exchange(client, server)
    assert Ended(stream) in client.events
    assert server.failed is not None


@given(st.lists(st.binary(max_size=400), max_size=20), st.booleans())
def test_any_bytes_are_survived(chunks: list[bytes], greet: bool) -> None:
    """No bytes of a peer bring about anything but events, a failure, or silence."""
    server = greeted() if greet else Session(BOUNDS, client=False)
    for chunk in chunks:
        server.receive(chunk)
        server.pull(1 << 20)
    server.close()


_FRAME = st.builds(
    wire2.frame,
    st.integers(0, 12),
    st.one_of(
        st.binary(max_size=60), st.builds(struct.pack, st.just(">I"), st.integers(0, 2**32 - 1)), st.just(bytes(8))
    ),
    flags=st.integers(0, 255),
    stream=st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1]),
)
_HEAD = st.builds(
    wire2.headers,
    st.lists(
        st.one_of(
            st.sampled_from(POST),
            st.tuples(st.sampled_from([b"a", b"te", b"host", b"content-length"]), st.binary(max_size=4)),
        ),
        max_size=8,
    ),
    st.sampled_from([1, 3, 5, 7]),
    flags=st.sampled_from([0, 1]),
)


@given(st.lists(st.one_of(_FRAME, _HEAD, st.just(wire2.headers(POST, 1, flags=0))), max_size=25), st.booleans())
def test_any_frames_are_survived(parts: list[bytes], as_client: bool) -> None:
    """No order of frames brings about anything but events, a failure, or silence, and answers can always be given."""
    if as_client:
        session = Session(BOUNDS, client=True)
        session.receive(wire2.settings())
        for _ in range(4):
            session.request(POST, ended=False)
    else:
        session = greeted()
    for part in parts:
        session.receive(part)
        for event in taken(session):
            if isinstance(event, Head) and not as_client:
                session.respond(event.stream_id, OK, ended=False)
                session.send(event.stream_id, b"x" * 20)
            elif isinstance(event, Ended):
                session.end(event.stream_id)
            elif isinstance(event, Body):
                session.give_back(event.stream_id, sum(map(len, event.chunks)))
        session.pull(1 << 20)
    assert session.backlog >= 0
    session.close()
