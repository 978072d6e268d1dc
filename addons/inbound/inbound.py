"""Inbound inspection: present our own servers' certificates, with handshakes signed on the HSM.

The order in which a client of one of our sites is served:
1. `layer` reads its ClientHello, and the SNI picks the site (`sites`).
2. mitmproxy connects to the site's server and verifies it as the site says (`tls_start_server`).
3. `tls_start_client`: the site's TLS connection, speaking the protocol that the server chose.
4. `inbound_handshake`: each step of the handshake on a thread, which waits there for the signature.
5. `requestheaders`: the server is told of the client in headers; what a client says there itself is not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Literal

from mitmproxy import connection, ctx, http, tls
from mitmproxy.proxy import context, layer
from mitmproxy.proxy.mode_servers import AsyncioServerInstance
from mitmproxy.utils import human
from msgspec import Struct
from OpenSSL import SSL
from prometheus_client import CollectorRegistry, Counter, Gauge

from addons.gnutls.connection import Connection
from addons.inbound import told
from addons.inbound.handshakes import HandshakeData, Handshakes, Step
from addons.inbound.layer import InboundListener, TimeIsUp
from addons.inbound.refused import Refused
from addons.inbound.settings import Forwarded, HandshakeSettings
from addons.inbound.sites import Site, Sites
from addons.modes import InboundMode, InboundTransparentMode, Modes
from addons.tls.refusal import Refusal
from addons.upstream import stated
from addons.upstream.stated import Upstream
from hsm.errors import DeadlineError

logger = logging.getLogger("hsmitm.inbound")


class InboundInstance(AsyncioServerInstance[InboundMode]):
    """mitmproxy's server of the mode."""

    def make_top_layer(self, made: context.Context) -> layer.Layer:
        """The outermost layer of a connection."""
        return InboundListener(made, ctx.master.addons.get("inbound"), int(self.mode.data))


class InboundTransparentInstance(AsyncioServerInstance[InboundTransparentMode]):
    """mitmproxy's server of the mode."""

    def make_top_layer(self, made: context.Context) -> layer.Layer:
        """The outermost layer of a connection."""
        return InboundListener(made, ctx.master.addons.get("inbound"), int(self.mode.data))


class _Served(Struct):
    """A client whose handshake is complete: for its line in the log."""

    site: Site
    handshake: Literal["full", "resumed"]
    server: str
    began: float
    requests: int = 0

    def line(self, client: connection.Client) -> str:
        """What is said when it has gone."""
        peer, seconds = human.format_address(client.peername), time.monotonic() - self.began
        asked = "1 request" if self.requests == 1 else f"{self.requests} requests"
        return (
            f"client {peer} served as {client.sni or self.site.title} by {self.server}: {client.tls_version} "
            f"({self.handshake}), {asked}, {seconds:.1f} s"
        )


class Inbound:
    """The addon. It serves connections whose outermost layer is an InboundListener, and leaves all others alone."""

    name = "inbound"

    def __init__(
        self,
        listeners: Sequence[Sites],
        handshakes: Handshakes,
        settings: HandshakeSettings,
        registry: CollectorRegistry,
    ) -> None:
        """`listeners` in the configuration's order; assign others to have them serve new connections."""
        self.listeners = listeners
        self.handshake_s = settings.handshake_s
        self.bounds = settings.bounds
        self._handshakes = handshakes
        self._watched: dict[str, InboundListener] = {}  # by the client's id, the oldest first
        self._served: dict[str, _Served] = {}  # by the client's id
        self._timer: asyncio.TimerHandle | None = None
        self._expiring: set[asyncio.Task[None]] = set()
        self._handshakes_counted = Counter(
            "hsmitm_inbound_handshakes", "Handshakes with clients of our sites: full, resumed or failed",
            ("site", "result"), registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "hsmitm_inbound_refused", "Clients that got an alert before or instead of a handshake",
            ("reason",), registry=registry,
        )  # fmt: skip
        Gauge("hsmitm_inbound_steps", "Handshake steps that run or wait for a thread", registry=registry).set_function(
            lambda: handshakes.in_progress
        )

    # what the layers ask (`layer.Guide`)

    def sites(self, listener: int) -> Sites:
        """The sites of that listener, as they are now."""
        return self.listeners[listener]

    def refused(self, client: connection.Client, why: Refused, sni: str) -> None:
        """Count the client by the reason, and name both in one line."""
        self._refused.labels(why).inc()
        logger.info("client %s refused: %s %r", human.format_address(client.peername), why, sni)

    def give_up(self, step: Step, why: str) -> None:
        """End a step that runs, and free its thread."""
        self._handshakes.give_up(step, why)

    def watch(self, listener: InboundListener) -> None:
        """One timer for all: each has the same time."""
        self._watched[listener.context.client.id] = listener
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.handshake_s, self._expire)

    def unwatch(self, listener: InboundListener) -> None:
        """The listener's handshake is over: its deadline means nothing any more."""
        self._watched.pop(listener.context.client.id, None)

    def _expire(self) -> None:
        self._timer = None
        now, loop = time.monotonic(), asyncio.get_running_loop()
        handlers = ctx.master.addons.get("proxyserver").connections
        for client, listener in list(self._watched.items()):
            if listener.deadline > now:
                self._timer = loop.call_later(listener.deadline - now, self._expire)
                break
            del self._watched[client]
            if handler := handlers.get(client):
                task = loop.create_task(handler.server_event(TimeIsUp()))
                self._expiring.add(task)
                task.add_done_callback(self._expiring.discard)

    # hooks

    async def inbound_handshake(self, data: HandshakeData) -> None:
        """Run a step of a handshake."""
        await self._handshakes.run(data.step)
        if data.step.failure is not None and not isinstance(data.step.failure, SSL.Error | DeadlineError):
            logger.error("a handshake failed for a reason that is ours", exc_info=data.step.failure)

    def tls_start_client(self, data: tls.TlsData) -> None:
        """The site's TLS connection. A failure here must not leave the client to `forward`, which mints."""
        if data.ssl_conn is not None or (site := _site(data)) is None:
            return
        client, server = data.context.client, data.context.server
        try:
            data.ssl_conn = Connection(site.credentials, _alpn(client, server, site.upstream))  # type: ignore[assignment]
        except SSL.Error as error:
            logger.error("no TLS for a client of %s: %s", site.title, error)  # noqa: TRY400  # an operator's sentence
            data.ssl_conn = Refusal()  # type: ignore[assignment]

    def tls_start_server(self, data: tls.TlsData) -> None:
        """The site's server is verified as the site says; others, that a script chose, as any server is."""
        if data.ssl_conn is not None or (site := _site(data)) is None:
            return
        upstream, listener, server = site.upstream, data.context.layers[0], data.conn
        assert isinstance(listener, InboundListener)
        assert isinstance(server, connection.Server)
        if (upstream.ca or upstream.pinned) and server.address == listener.server_address:
            data.ssl_conn = stated.connection(upstream, data)

    def tls_established_client(self, data: tls.TlsData) -> None:
        """Count the handshake by its site, and by whether a key was asked for it."""
        if (site := _site(data)) is not None:
            how: Literal["full", "resumed"] = "resumed" if data.ssl_conn.resumed else "full"  # type: ignore[union-attr]
            self._handshakes_counted.labels(site.title, how).inc()
            self._served[data.context.client.id] = _Served(site, how, _where(data.context.server), time.monotonic())

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """Count the handshake by its site."""
        if (site := _site(data)) is not None:
            self._handshakes_counted.labels(site.title, "failed").inc()

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Tell the server of the client, and never what a client claims there itself."""
        client = flow.client_conn
        if not isinstance(client.proxy_mode, Modes):
            return
        if (served := self._served.get(client.id)) is not None:
            served.requests += 1
        request = flow.request
        forwarded = served.site.forwarded if served is not None else Forwarded()
        told.tell(request.headers, forwarded, client.peername[0], request.host_header, client.certificate_list)

    def request(self, flow: http.HTTPFlow) -> None:
        """What a client claims in trailers does not get through either."""
        client = flow.client_conn
        if flow.request.trailers is not None and isinstance(client.proxy_mode, Modes):
            served = self._served.get(client.id)
            forwarded = served.site.forwarded if served is not None else Forwarded()
            told.forget(flow.request.trailers, forwarded, client.peername[0])

    def client_disconnected(self, client: connection.Client) -> None:
        """A client that is gone is not waited for, whatever became of its handshake; one that was served is told of."""
        self._watched.pop(client.id, None)
        if (served := self._served.pop(client.id, None)) is not None:
            logger.info("%s", served.line(client), extra={"log_class": "served"})

    def done(self) -> None:
        """The worker ends: clients in a handshake are let go, and its threads with them."""
        if self._timer is not None:
            self._timer.cancel()
        self._handshakes.close()


def _where(server: connection.Server) -> str:
    return human.format_address(server.address) if server.address else "no server"


def _site(data: tls.TlsData) -> Site | None:
    """The site that the connection is for; None for a connection of another mode."""
    outermost = data.context.layers[0]
    return outermost.site if isinstance(outermost, InboundListener) else None


def _alpn(client: connection.Client, server: connection.Server, upstream: Upstream) -> Sequence[bytes]:
    """What to offer to the client: what the server speaks. An unreachable server's clients get a 502 page in any."""
    if not client.alpn_offers:
        return ()
    if not upstream.tls:
        return (b"http/1.1",)
    if server.tls_established:
        return (server.alpn,) if server.alpn else ()
    return (b"h2", b"http/1.1") if ctx.options.http2 else (b"http/1.1",)
