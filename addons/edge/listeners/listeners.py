"""Who is connected, how busy each client is, and whom to let go: the addon behind every listener.

A client is in one of three phases. Before its first request (again after a CONNECT), and between requests, it has so
many seconds, whatever it sends meanwhile: a head that comes byte by byte is no request. While a request or a stream is
in progress it has as many seconds without a byte as a tunnel has.

HTTP/2 connections take their leave by themselves at `idle_s`, with GOAWAY; here they are given a little longer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from typing import Protocol

from mitmproxy import connection, ctx, dns, http, tcp, tls
from mitmproxy.proxy import layer, layers
from prometheus_client import CollectorRegistry, Counter, Gauge

from addons.edge.listeners.hello import DECODE_ERROR, HANDSHAKE
from addons.edge.listeners.limits import Limits
from addons.edge.refusal import Class, EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.engine.leaving import Leaving
from addons.tls.refusal import alert

logger = logging.getLogger("hsmitm.edge")

_LOOK_EVERY_S = 1.0
_GOAWAY_S = 5.0
"""For HTTP/2's own farewell."""


class Handler(Protocol):
    """What is asked of a connection's handler."""

    client: connection.Client
    unopened: bool
    """A script lets its TLS through."""

    @property
    def last_activity(self) -> float:
        """When something was read or written (time.monotonic); now, while a hook thinks about it."""

    @property
    def last_written(self) -> float:
        """When something that waited to be written was."""

    async def leave(self) -> None:
        """Let the client know that no further request is taken."""

    def cut(self, why: str, last: bytes = b"") -> None:
        """End the client's connection, with `last` as the last that it hears."""


class _Occupant:
    """A client that was let in, and what it is busy with."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.since = time.monotonic()
        self.served = False
        self.flows: set[str] = set()
        self.hello: float | None = None
        self.handshaking = False

    def idle(self) -> None:
        """Nothing is in progress from now on."""
        self.since = time.monotonic()


class Listeners:
    """The addon, by the name "listeners"."""

    name = "listeners"

    def __init__(self, bounds: Bounds, registry: CollectorRegistry) -> None:
        self._bounds = bounds
        self.limits = Limits(bounds, _descriptors())
        self._occupants: dict[str, _Occupant] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._exhausted = False
        self._idle = Counter(
            "hsmitm_connections_idle", "Client connections closed for being idle: before a request, between, within",
            ("phase",), registry=registry,
        )  # fmt: skip
        for phase in ("before", "between", "within"):
            self._idle.labels(phase)
        limits = self.limits
        gauge = Gauge("hsmitm_connections_limit", "Client connections that there may be", registry=registry)
        gauge.set(limits.most)
        gauge = Gauge("hsmitm_connections_servers", "Connections to servers open now", registry=registry)
        gauge.set_function(lambda: limits.servers)
        if limits.lowered:
            logger.warning(
                "limits.connections is %d, and this worker's descriptors carry %d: raise LimitNOFILE",
                bounds.connections, limits.most,
            )  # fmt: skip

    # what handlers ask

    def admit(self, handler: Handler) -> bool:
        """Whether this client may stay: if so, it is to `leave`."""
        client = handler.client
        if (refused := self.limits.refusal(_address(client))) is not None:
            _tell(client, refused, f"{self.limits.clients} clients and {self.limits.servers} servers are connected")
            return False
        self.limits.join(_address(client))
        self._occupants[client.id] = _Occupant(handler)
        return True

    def leave(self, client: connection.Client) -> None:
        """An admitted client is gone."""
        self._end_handshake(client)
        self._occupants.pop(client.id, None)
        self.limits.leave(_address(client))

    async def take_leave(self) -> None:
        """The worker stops: every client hears of it, and what is in progress goes on."""
        Leaving.begun = True
        for occupant in list(self._occupants.values()):
            await occupant.handler.leave()

    def cut(self, client: connection.Client, why: str) -> None:
        """End a client's connection."""
        if (occupant := self._occupants.get(client.id)) is not None:
            occupant.handler.cut(why)

    def begin_handshake(self, client: connection.Client) -> bool:
        """A client's TLS begins; False where it has too many of them: then it is cut."""
        occupant = self._occupants.get(client.id)
        if occupant is None or occupant.handshaking:
            return True
        if not self.limits.begin_handshake(_address(client)):
            _tell(client, "too-many-handshakes", f"over {self._bounds.handshakes_per_client} at a time")
            occupant.handler.cut("too many handshakes")
            return False
        occupant.handshaking = True
        return True

    def begin_hello(self, client: connection.Client) -> None:
        """The first byte of a ClientHello is here."""
        occupant = self._occupants.get(client.id)
        if occupant is not None and occupant.hello is None:
            occupant.hello = time.monotonic()

    # time

    def running(self) -> None:
        """Look at everybody, again and again."""
        self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def done(self) -> None:
        """The worker ends."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def full(self) -> bool:
        """Whether the next client is turned away, by us or, for want of a descriptor, by the loop below us."""
        return self.limits.full or self._exhausted

    def _look_for_descriptors(self) -> None:
        """libuv closes clients unheard when there is no descriptor for them, so somebody else has to say it. Our limits
        keep clear of that; a script may not."""
        try:
            os.close(os.dup(2))
        except OSError as error:
            if not self._exhausted:
                logger.error("no descriptor is left, clients are turned away: %s; raise LimitNOFILE", error)  # noqa: TRY400
            self._exhausted = True
        else:
            self._exhausted = False

    def _look(self) -> None:
        self.running()
        self._look_for_descriptors()
        now = time.monotonic()
        for occupant in list(self._occupants.values()):
            if occupant.hello is not None and now - occupant.hello > self._bounds.hello_s:
                occupant.hello = None
                _tell(occupant.handler.client, "slow-hello", f"no ClientHello within {self._bounds.hello_s:g} s")
                occupant.handler.cut("slow ClientHello", alert(DECODE_ERROR))
            elif (phase := self._expired(occupant, now)) is not None:
                self._idle.labels(phase).inc()
                if phase == "before":
                    _tell(occupant.handler.client, "idle", f"no request within {self._bounds.first_request_s:g} s")
                occupant.handler.cut("idle")

    def _expired(self, occupant: _Occupant, now: float) -> str | None:
        """The phase in which a client has been for too long."""
        if occupant.flows:
            limit = min(self._bounds.tunnel_idle_s, ctx.options.tcp_timeout)
            return "within" if now - occupant.handler.last_activity > limit else None
        if occupant.handshaking:
            return None  # `HandshakeTimeout` has its own time
        if not occupant.served:
            return "before" if now - occupant.since > self._bounds.first_request_s else None
        farewell = _GOAWAY_S if occupant.handler.client.alpn == b"h2" else 0
        late = now - occupant.since > self._bounds.idle_s + farewell
        # What was answered may still be on its way to a client that reads slowly.
        return "between" if late and now - occupant.handler.last_written > self._bounds.idle_s else None

    # hooks: what a client is busy with

    def _begin(self, client: connection.Client, flow: str) -> None:
        if (occupant := self._occupants.get(client.id)) is not None:
            occupant.flows.add(flow)

    def _end(self, client: connection.Client, flow: str) -> None:
        if (occupant := self._occupants.get(client.id)) is not None:
            occupant.flows.discard(flow)
            occupant.served = True
            occupant.idle()

    def _end_handshake(self, client: connection.Client) -> None:
        occupant = self._occupants.get(client.id)
        if occupant is not None:
            occupant.hello = None
            if occupant.handshaking:
                occupant.handshaking = False
                self.limits.end_handshake(_address(client))

    def next_layer(self, chosen: layer.NextLayer) -> None:
        """A client's TLS may begin, or a stream that nobody looks into, by a script's choice."""
        client = chosen.context.client
        if chosen.layer is None and chosen.data_client()[:1] == bytes((HANDSHAKE,)):
            self.begin_hello(client)
        elif isinstance(chosen.layer, layers.TCPLayer) and chosen.layer.flow is None:
            self._begin(client, client.id)

    def hello_begun(self, client: connection.Client) -> None:
        """A client's TLS begins, with the connection or in its middle."""
        if self.begin_handshake(client):
            self.begin_hello(client)

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """The hello is whole. A script may let the connection through unopened."""
        if (occupant := self._occupants.get(data.context.client.id)) is not None:
            occupant.hello = None
            occupant.handler.unopened = data.ignore_connection
        if data.ignore_connection:
            self.bypass_begun(data.context.client)

    def bypass_begun(self, client: connection.Client) -> None:
        """Its TLS is not opened: from here on it is a stream."""
        if (occupant := self._occupants.get(client.id)) is not None:
            occupant.handler.unopened = True
        self._end_handshake(client)
        self._begin(client, client.id)

    def tls_established_client(self, data: tls.TlsData) -> None:
        """Its first request comes now, or within the time for it."""
        client = data.context.client
        self._end_handshake(client)
        if (occupant := self._occupants.get(client.id)) is not None and not occupant.served:
            occupant.idle()

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """Its handshake is over."""
        self._end_handshake(data.context.client)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """We have work to do for it."""
        self._begin(flow.client_conn, flow.id)

    def http_connected(self, flow: http.HTTPFlow) -> None:
        """What it wants comes behind the CONNECT."""
        self._end(flow.client_conn, flow.id)
        if (occupant := self._occupants.get(flow.client_conn.id)) is not None:
            occupant.served = False

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        """It may ask for something else."""
        self._end(flow.client_conn, flow.id)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A request begins."""
        self._begin(flow.client_conn, flow.id)

    def response(self, flow: http.HTTPFlow) -> None:
        """It is answered, unless it becomes a WebSocket."""
        if flow.websocket is None:
            self._end(flow.client_conn, flow.id)

    def error(self, flow: http.HTTPFlow) -> None:
        """It is over without an answer."""
        self._end(flow.client_conn, flow.id)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """The WebSocket is closed."""
        self._end(flow.client_conn, flow.id)

    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """A stream begins."""
        self._begin(flow.client_conn, flow.id)

    def tcp_end(self, flow: tcp.TCPFlow) -> None:
        """It is closed, or goes on as TLS."""
        self._end(flow.client_conn, flow.id)

    def tcp_error(self, flow: tcp.TCPFlow) -> None:
        """It is cut."""
        self._end(flow.client_conn, flow.id)

    def dns_request(self, flow: dns.DNSFlow) -> None:
        """A question; its answer counts as one, too."""
        self._end(flow.client_conn, flow.id)


def _address(client: connection.Client) -> str:
    return client.peername[0] if client.peername else ""


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def _tell(client: connection.Client, kind: Class, detail: str) -> None:
    ctx.master.addons.trigger(EdgeRefusedHook(EdgeRefusal(client, kind, detail)))
