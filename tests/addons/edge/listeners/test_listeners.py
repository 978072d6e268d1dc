"""Who is let in, and who is let go: by what a client is busy with, and for how long."""

from __future__ import annotations

import resource
import time
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import connection, tls
from mitmproxy.test import taddons, tflow
from prometheus_client import CollectorRegistry

from addons.edge.listeners import listeners
from addons.edge.listeners.listeners import Listeners
from addons.edge.refusal import EdgeRefusal
from addons.edge.settings import Bounds
from tests.addons.forward.arrivals import arrival

_FIRST_S, _IDLE_S, _TUNNEL_S = 30, 75, 600


class _Handler:
    """Stands in for a connection's handler."""

    unopened = False

    def __init__(self, client: connection.Client) -> None:
        self.client = client
        self.last_activity = self.last_written = 0.0
        self.ended, self.last = "", b""

    def cut(self, why: str, last: bytes = b"") -> None:
        self.ended, self.last = why, last


class _Refused:
    """Notes what is refused."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def edge_refused(self, data: EdgeRefusal) -> None:
        self.kinds.append(data.kind)


class _World:
    """A worker's listeners, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **bounds: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(listeners, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.refused = _Refused()
        self.listeners = Listeners(Bounds(**bounds), CollectorRegistry())
        monkeypatch.setattr(self.listeners, "running", lambda: None)
        self.tctx = taddons.context(self.refused, self.listeners)
        self.tctx.options.add_option("tcp_timeout", int, 600, "") if "tcp_timeout" not in self.tctx.options else None

    def client(self) -> _Handler:
        """One that is let in."""
        handler = _Handler(arrival(self.tctx).client)
        assert self.listeners.admit(handler)
        return handler

    def later(self, seconds: float) -> None:
        """Time passes, and everybody is looked at."""
        self.now += seconds
        self.listeners._look()  # what its timer calls


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> _World:
    """A worker that has just begun."""
    return _World(monkeypatch)


def _flow(handler: _Handler, **kind: Any) -> Any:
    flow = tflow.tflow(**kind)
    flow.client_conn = handler.client
    return flow


async def test_a_client_has_its_time_for_a_request_and_for_the_next_one(world: _World) -> None:
    """Before its first request, and between requests, a client has so long; while one is in progress it stays."""
    handler = world.client()
    world.later(_FIRST_S - 1)
    flow = _flow(handler, resp=True)
    world.listeners.requestheaders(flow)
    handler.last_activity = world.now
    world.later(_TUNNEL_S - 1)
    assert not handler.ended
    world.listeners.response(flow)
    world.later(_IDLE_S - 1)
    assert not handler.ended
    world.later(2)
    assert handler.ended == "idle"


async def test_bytes_are_no_request(world: _World) -> None:
    """A client that goes on sending bytes is let go at the same time as one that is silent."""
    handler = world.client()
    for _ in range(_FIRST_S):
        handler.last_activity = world.now
        world.later(1)
    world.later(1)
    assert handler.ended == "idle"
    assert world.refused.kinds == ["idle"]


async def test_http_2_says_goodbye_itself(world: _World) -> None:
    """An HTTP/2 client gets a moment more, in which its own layer says GOAWAY."""
    handler = world.client()
    handler.client.alpn = b"h2"
    flow = _flow(handler, resp=True)
    world.listeners.requestheaders(flow)
    world.listeners.response(flow)
    world.later(_IDLE_S + 1)
    assert not handler.ended
    world.later(5)
    assert handler.ended == "idle"


async def test_an_answer_on_its_way_is_not_cut(world: _World) -> None:
    """A client that reads slowly what was answered long ago is not idle."""
    handler = world.client()
    flow = _flow(handler, resp=True)
    world.listeners.requestheaders(flow)
    world.listeners.response(flow)
    handler.last_written = world.now + _IDLE_S - 5
    world.later(_IDLE_S + 1)
    assert not handler.ended


async def test_a_stream_without_a_byte_is_let_go(world: _World) -> None:
    """A tunnel or WebSocket has its own, longer time, counted from the last byte."""
    handler = world.client()
    flow = tflow.ttcpflow()
    flow.client_conn = handler.client
    world.listeners.tcp_start(flow)
    handler.last_activity = world.now + 100
    world.later(_TUNNEL_S + 1)
    assert not handler.ended
    world.later(100)
    assert handler.ended == "idle"


async def test_after_a_connect_the_time_for_the_first_request_begins_anew(world: _World) -> None:
    """A CONNECT is answered, and what is behind it has its own time."""
    handler = world.client()
    world.later(_FIRST_S - 1)
    flow = _flow(handler)
    world.listeners.http_connect(flow)
    world.listeners.http_connected(flow)
    world.later(_FIRST_S - 1)
    assert not handler.ended
    world.later(2)
    assert handler.ended == "idle"


async def test_a_hello_has_its_own_time(world: _World) -> None:
    """From the first byte of a ClientHello on the rest of it has ten seconds."""
    handler = world.client()
    world.listeners.hello_begun(handler.client)
    world.later(9)
    assert not handler.ended
    world.later(2)
    assert handler.ended == "slow ClientHello"
    assert handler.last == b"\x15\3\3\0\2\2\x32"  # decode_error (50)
    assert world.refused.kinds == ["slow-hello"]


async def test_handshakes_of_a_client_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake beyond the bound is cut; one that was completed makes room."""
    world = _World(monkeypatch, handshakes_per_client=2)
    first, second, third = world.client(), world.client(), world.client()
    for one in (first, second, third):
        world.listeners.hello_begun(one.client)
    assert [bool(one.ended) for one in (first, second, third)] == [False, False, True]
    assert world.refused.kinds == ["too-many-handshakes"]
    world.listeners.tls_established_client(tls.TlsData(first.client, arrival(world.tctx)))
    data = tls.TlsData(first.client, SimpleNamespace(client=first.client))  # type: ignore[arg-type]
    world.listeners.tls_established_client(data)
    fourth = world.client()
    world.listeners.hello_begun(fourth.client)
    assert not fourth.ended


async def test_who_is_gone_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of connections of an address is that of those that are open."""
    world = _World(monkeypatch, connections_per_client=1)
    handler = world.client()
    assert not world.listeners.admit(_Handler(arrival(world.tctx).client))
    assert world.refused.kinds == ["too-many-of-client"]
    world.listeners.leave(handler.client)
    world.client()


async def test_a_connection_that_a_script_lets_through_is_a_stream(world: _World) -> None:
    """TLS that is not opened has a tunnel's time, not that of a handshake."""
    handler = world.client()
    made = arrival(world.tctx)
    made.client = handler.client
    world.listeners.hello_begun(handler.client)
    data = tls.ClientHelloData(made, None)  # type: ignore[arg-type]
    data.ignore_connection = True
    world.listeners.tls_clienthello(data)
    handler.last_activity = world.now
    assert handler.unopened
    world.later(_IDLE_S + 10)
    assert not handler.ended
    assert time.monotonic() > 0


async def test_a_bypassed_connection_is_a_stream(world: _World) -> None:
    """So has TLS that the policy passes by."""
    handler = world.client()
    world.listeners.hello_begun(handler.client)
    world.listeners.bypass_begun(handler.client)
    handler.last_activity = world.now
    assert handler.unopened
    world.later(_IDLE_S + 10)
    assert not handler.ended


async def test_a_worker_without_descriptors_says_so(world: _World, caplog: pytest.LogCaptureFixture) -> None:
    """Where the last descriptor is gone the log has a line, and the worker is not ready; both until there is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        world.later(1)
        world.later(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [line for line in caplog.messages if "no descriptor is left" in line] == caplog.messages[-1:]
    assert world.listeners.full
    world.later(1)
    assert not world.listeners.full
