"""WebSockets within bounds, in memory: two wsproto peers and the layer between them."""

from __future__ import annotations

import os
import random
import tracemalloc

import pytest
from mitmproxy import connection, ctx, http
from mitmproxy import websocket as records
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers import websocket
from mitmproxy.proxy.layers.websocket import WebsocketEndHook, WebsocketMessageHook
from mitmproxy.test import taddons, tflow
from wsproto import ConnectionType
from wsproto.connection import Connection as Peer
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import Opcode

from addons import seam
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.edge.websocket import EdgeTurnHook, Websocket
from addons.engine.backpressure import Stop

MOST = 262_144
DEFLATE = "permessage-deflate"


class Between:
    """The layer between a client and a server; what each of them gets, and what else it did."""

    def __init__(self, extension: str = "", *, watched: bool = False) -> None:
        with taddons.context() as made:
            options = made.options
        vars(ctx).pop("master", None)  # no worker runs here
        client, server = tflow.tclient_conn(), tflow.tserver_conn()
        client.state = server.state = connection.ConnectionState.OPEN
        around = context.Context(client, options)
        around.server = server
        flow = tflow.twebsocketflow(messages=False)
        self.flow: http.HTTPFlow = flow
        assert flow.response is not None
        flow.websocket = records.WebSocketData()
        flow.response.headers["Sec-WebSocket-Extensions"] = extension
        self.layer = websocket.WebsocketLayer(around, flow)
        self.client_conn, self.server_conn = client, server
        self.did: list[commands.Command] = []
        made_by = [PerMessageDeflate() for _ in range(2)] if extension else []
        for one in made_by:
            one.finalize(extension)
        self.client = Peer(ConnectionType.CLIENT, made_by[:1])
        self.server = Peer(ConnectionType.SERVER, made_by[1:])
        self._run(events.Start())

    def _run(self, event: events.Event) -> None:
        waiting = [event]
        while waiting:
            for command in self.layer.handle_event(waiting.pop(0)):
                self.did.append(command)
                if isinstance(command, commands.SendData):
                    peer = self.client if command.connection is self.client_conn else self.server
                    peer.receive_data(command.data)
                elif isinstance(command, commands.StartHook) and command.blocking:
                    waiting.append(events.HookCompleted(command))

    def from_client(self, wire: bytes, step: int = 65535) -> list[Event]:
        """Have the client send `wire` in reads of `step` bytes. What the server then hears."""
        for start in range(0, len(wire), step):
            self._run(events.DataReceived(self.client_conn, bytes(wire[start : start + step])))
        return list(self.server.events())

    def from_server(self, wire: bytes) -> list[Event]:
        """The other way."""
        for start in range(0, len(wire), 65535):
            self._run(events.DataReceived(self.server_conn, bytes(wire[start : start + 65535])))
        return list(self.client.events())

    def hooks[T](self, kind: type[T]) -> list[T]:
        """What it did of that kind."""
        return [one for one in self.did if isinstance(one, kind)]


@pytest.fixture(autouse=True)
def bounded(as_it_was: None) -> None:
    """Our classes in place, with a message of a quarter of a mebibyte at most."""
    seam.put_in(Bounds(websocket_message_bytes=MOST), watched=False)


def _whole(heard: list[Event]) -> bytes:
    return b"".join(one.data for one in heard if isinstance(one, BytesMessage))


BOTH = pytest.mark.parametrize("whole", [False, True])
EXTENSIONS = pytest.mark.parametrize(
    "extension", ["", DEFLATE, f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover"]
)


@BOTH
@EXTENSIONS
def test_messages_pass_both_ways(extension: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and bytes, small and as large as can be, several one after the other, arrive as they were sent."""
    monkeypatch.setattr(Websocket, "watched", whole)
    between = Between(extension)
    for size in (0, 1, 5000, 70_000, MOST):
        data = random.Random(size).randbytes(size)
        assert _whole(between.from_client(between.client.send(BytesMessage(data)))) == data
        assert _whole(between.from_server(between.server.send(BytesMessage(data)))) == data
        text = "grün€😀" * (size // 16)
        heard = between.from_client(between.client.send(TextMessage(text)), step=997)
        assert "".join(one.data for one in heard if isinstance(one, TextMessage)) == text
    assert between.hooks(EdgeRefusedHook) == []


def test_a_frame_stays_a_frame() -> None:
    """A server that takes no continuation frames gets none where the client sent none, however it was cut."""
    between = Between()
    heard = between.from_client(between.client.send(BytesMessage(b"x" * 200_000)), step=1000)
    sent = [one for one in between.hooks(commands.SendData) if one.connection is between.server_conn]
    assert len(sent) == 1
    assert _whole(heard) == b"x" * 200_000


@BOTH
@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_message_that_inflates_beyond_the_bound(sender: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred kilobytes that inflate to hundreds of megabytes, from either end: both ends get 1009, the worker's
    memory hardly grows, and log and metric have it."""
    monkeypatch.setattr(Websocket, "watched", whole)
    between = Between(DEFLATE)
    peer = between.client if sender == "client" else between.server
    bomb = bytes(peer.send(BytesMessage(bytes(200 * 2**20))))
    tracemalloc.start()
    other = (between.from_client if sender == "client" else between.from_server)(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
    for heard in (other, list(peer.events())):
        assert [one.code for one in heard if isinstance(one, CloseConnection)] == [1009]
    (refused,) = between.hooks(EdgeRefusedHook)
    assert (refused.data.kind, sender in refused.data.detail) == ("oversized-message", True)
    assert len(between.hooks(WebsocketEndHook)) == 1
    assert between.flow.websocket is not None
    assert between.flow.websocket.close_code == 1009


@BOTH
@pytest.mark.parametrize("extension", ["", DEFLATE])
def test_a_message_in_fragments_beyond_the_bound(extension: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that never ends, in ever new fragments, ends the connection at the bound, compressed or not."""
    monkeypatch.setattr(Websocket, "watched", whole)
    between = Between(extension)
    for _ in range(MOST // 10_000 + 1):
        wire = between.client.send(BytesMessage(os.urandom(10_000), message_finished=False))
        heard = between.from_client(wire)
    assert [one.code for one in heard if isinstance(one, CloseConnection)] == [1009]
    assert len(between.hooks(EdgeRefusedHook)) == 1


def test_empty_fragments_without_end_keep_nothing() -> None:
    """Frames without a byte cost a message nothing, and keep nothing in memory."""
    between = Between()
    between.from_client(between.client.send(BytesMessage(b"a", message_finished=False)))
    wire = bytes(between.client.send(BytesMessage(b"", message_finished=False))) * 1000
    between.from_client(wire)
    tracemalloc.start()
    between.from_client(wire)
    between.did.clear()
    between.server = Peer(ConnectionType.SERVER)
    between.from_client(wire)
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 2**20


def test_nothing_is_kept_where_nobody_looks() -> None:
    """A WebSocket that lives for days needs no more memory than one that lives for seconds."""
    between = Between(DEFLATE)
    for _ in range(50):
        between.from_client(between.client.send(TextMessage("x" * 1000)))
    assert between.flow.websocket is not None
    assert between.flow.websocket.messages == []
    assert between.hooks(WebsocketMessageHook) == []


def test_scripts_see_whole_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's script is shown each message whole, fragments put together, and all of them in the flow."""
    monkeypatch.setattr(Websocket, "watched", True)
    between = Between(DEFLATE)
    for part, last in (("one ", False), ("message", True)):
        between.from_client(between.client.send(TextMessage(part, message_finished=last)))
    assert len(between.hooks(WebsocketMessageHook)) == 1
    assert between.flow.websocket is not None
    assert [one.text for one in between.flow.websocket.messages] == ["one message"]


@BOTH
def test_others_have_their_turn(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each mebibyte that a connection is worked for, the loop goes round once."""
    monkeypatch.setattr(Websocket, "watched", whole)
    seam.put_in(Bounds(), watched=whole)
    between = Between(DEFLATE)
    data = random.Random(1).randbytes(8 * 2**20)
    heard = between.from_client(between.client.send(BytesMessage(data)))
    assert _whole(heard) == data
    turns = len(between.hooks(EdgeTurnHook))
    assert turns >= 4
    largest = max(len(one.data) for one in between.hooks(commands.SendData))
    assert largest < 1.1 * 2**20


@BOTH
def test_others_have_their_turn_while_a_message_inflates(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is what a message inflates to: little comes in, little goes out, and each mebibyte in between is a
    turn, during which no more is read."""
    monkeypatch.setattr(Websocket, "watched", whole)
    seam.put_in(Bounds(), watched=whole)
    between = Between(DEFLATE)
    wire = bytes(between.client.send(BytesMessage(bytes(16 * 2**20))))
    assert len(wire) < 20_000
    heard = between.from_client(wire)
    assert len(_whole(heard)) == 16 * 2**20
    assert len(between.hooks(EdgeTurnHook)) >= 8
    stops = between.hooks(Stop)
    assert [one.connection for one in stops] == [between.client_conn] * len(between.hooks(EdgeTurnHook))
    assert stops[-1].until()


@BOTH
@pytest.mark.parametrize("extension", [f"{DEFLATE}; server_max_window_bits=x", f"{DEFLATE}; client_max_window_bits=99"])
def test_parameters_that_are_none(extension: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers with parameters out of this world does not crash the connection: what is not compressed
    goes on, what is ends it."""
    monkeypatch.setattr(Websocket, "watched", whole)
    between = Between()
    assert between.flow.response is not None
    between.flow.response.headers["Sec-WebSocket-Extensions"] = extension
    between.layer = websocket.WebsocketLayer(between.layer.context, between.flow)
    between._run(events.Start())
    assert _whole(between.from_client(between.client.send(BytesMessage(b"plain")))) == b"plain"


@BOTH
def test_ping_and_close_pass(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control frames between fragments reach the other side, and a goodbye ends both."""
    monkeypatch.setattr(Websocket, "watched", whole)
    between = Between(DEFLATE)
    between.from_client(between.client.send(BytesMessage(b"a", message_finished=False)))
    assert [type(one) for one in between.from_client(between.client.send(Ping(b"p")))] == [Ping]
    between.from_client(between.client.send(BytesMessage(b"b")))
    heard = between.from_client(between.client.send(CloseConnection(1000, "bye")))
    assert [(one.code, one.reason) for one in heard if isinstance(one, CloseConnection)] == [(1000, "bye")]
    assert len(between.hooks(commands.CloseConnection)) == 2
    assert between.from_client(b"more after the end") == []


@pytest.mark.parametrize("asked", [False, True])
def test_messages_stay_where_a_script_asked_for_them(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that looks at something else has no WebSocket kept for it: ten thousand messages leave nothing."""
    monkeypatch.setattr(Websocket, "watched", True)
    monkeypatch.setattr("addons.edge.websocket.looked_at", lambda *hooks: asked and "websocket_message" in hooks)
    between = Between()
    for _ in range(100):
        assert _whole(between.from_client(between.client.send(BytesMessage(b"x" * 4000)))) == b"x" * 4000
        assert _whole(between.from_server(between.server.send(BytesMessage(b"y" * 4000)))) == b"y" * 4000
    assert between.flow.websocket is not None
    assert len(between.flow.websocket.messages) == (200 if asked else 0)


def test_a_script_may_speak_though_it_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it injects arrives."""
    monkeypatch.setattr(Websocket, "watched", True)
    monkeypatch.setattr("addons.edge.websocket.looked_at", lambda *_: False)
    between = Between()
    for from_client, hears in ((True, between.server), (False, between.client)):
        message = records.WebSocketMessage(Opcode.TEXT, from_client, b"injected", injected=True)
        between._run(websocket.WebSocketMessageInjected(between.flow, message))
        (heard,) = hears.events()
        assert isinstance(heard, TextMessage)
        assert heard.data == "injected"
