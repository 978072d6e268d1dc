"""mitmproxy's layers for inbound connections: read the ClientHello, pick the site, have the handshake done elsewhere.

    InboundListener  the outermost layer of such a connection
    InboundTls       mitmproxy's client TLS layer, whose handshake steps are a hook: a layer may not block, a hook may

mitmproxy's NextLayer has no say here: what an inbound connection carries follows from its site and ALPN alone. A client
that speaks TLS inside of TLS, say, would otherwise be served with a certificate minted for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from logging import DEBUG
from typing import Protocol

from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer, tunnel
from mitmproxy.proxy.layers.tls import (
    HTTP_ALPNS,
    ClientTLSLayer,
    TlsClienthelloHook,
)
from mitmproxy.tls import ClientHello, ClientHelloData

from addons.edge.listeners.bypass import Bypass
from addons.edge.listeners.client_tls import HelloBegunHook, let_through
from addons.edge.listeners.hello import HANDSHAKE, HelloError, HelloReader, normal
from addons.edge.listeners.tunnel import Tunnel
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.inbound import proxy_protocol
from addons.inbound.handshakes import Step
from addons.inbound.refused import CLASSES, Refused
from addons.inbound.site_http import SiteHttp
from addons.inbound.sites import Site, Sites
from addons.inbound.stepping import SteppedHandshake
from addons.policy import asked
from addons.records import classes, greeting
from addons.records.connections import destined, facts_of
from addons.tls import client_hello
from addons.tls.lingering import Lingering, LingeringTls
from addons.tls.refusal import INTERNAL_ERROR, alert
from addons.upstream.layer import ServerTls
from hsm.errors import HsmitmError

UNRECOGNIZED_NAME = 112
"""RFC 6066 section 3."""
_PROTOCOL_VERSION = 70
GONE = "the client went away"


class Guide(Protocol):
    """What the layers ask of the addon."""

    handshake_s: float
    """How long a client may take from its connection to the end of its handshake."""
    bounds: Bounds

    def sites(self, listener: int) -> Sites:
        """The sites of that listener, as they are now."""

    def refused(self, client: connection.Client, why: Refused, sni: str) -> None:
        """The client gets an alert and no more."""

    def give_up(self, step: Step, why: str) -> None:
        """End a step that runs."""

    def watch(self, listener: InboundListener) -> None:
        """Send `TimeIsUp` at the listener's deadline, unless it is unwatched before."""

    def unwatch(self, listener: InboundListener) -> None:
        """The listener's handshake is over, well or not."""


@dataclass
class TimeIsUp(events.Event):
    """The time for a handshake has passed. (A `RequestWakeup` for each connection would cost it a task.)"""


class InboundListener(Lingering):
    """Waits for the ClientHello, builds what its site needs, and watches the clock until the handshake is done."""

    def __init__(self, context: context.Context, guide: Guide, listener: int) -> None:
        """`listener` is its number in the configuration."""
        super().__init__(context)
        self.site: Site | None = None
        self.sites: Sites | None = None
        self.server_address: connection.Address | None = None
        self.deadline = time.monotonic() + guide.handshake_s
        self.guide = guide
        self._listener = listener
        self._reader = HelloReader(guide.bounds.hello_bytes, guide.bounds.hello_records)
        self._tls: InboundTls | None = None
        self._outer: layer.Layer | None = None

    @property
    def stated(self) -> connection.Address | None:
        """The server that the operator has configured for this client's site; None where the client chose it."""
        return self.site.upstream.address if self.site is not None else None

    @property
    def patient(self) -> bool:
        """Whether a client that ends its direction after its request still waits for the answer."""
        return self.site is not None and self.site.half_close

    def preface(self, server: connection.Address | None) -> bytes:
        """What is sent first to a server at this address: to the site's own it is the PROXY header, where the site has
        one."""
        if self.site is None or not self.site.proxy_protocol or server != self.server_address:
            return b""
        client = self.context.client
        return proxy_protocol.header(client.peername[:2], client.sockname[:2])

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if self.drops(event):
            yield from self.drop(event)
        elif isinstance(event, events.Start):
            self.guide.watch(self)
        elif isinstance(event, TimeIsUp):
            yield from self._time_is_up()
        elif self._outer is not None:
            if isinstance(event, events.ConnectionClosed) and event.connection is self.context.client and self._tls:
                self._tls.client_ended()
            yield from self._outer.handle_event(event)
        elif isinstance(event, events.DataReceived):
            if not self._reader.raw:
                yield HelloBegunHook(self.context.client)
            yield from self._read(event.data)
        elif isinstance(event, events.ConnectionClosed):
            self.guide.unwatch(self)
            yield commands.CloseConnection(self.context.client)

    def _read(self, data: bytes) -> layer.CommandGenerator[None]:
        try:
            hello = self._reader.feed(data)
        except HelloError as error:
            if self._reader.raw[0] != HANDSHAKE:
                facts_of(self.context.client).fail("not-tls", "client", str(error))
                yield from self._refuse("no-tls", error.alert)
                return
            facts_of(self.context.client).fail(error.kind, "client", str(error), classes.alert_in(alert(error.alert)))
            yield EdgeRefusedHook(EdgeRefusal(self.context.client, error.kind, str(error)))
            yield from self._refuse("malformed", error.alert)
            return
        if hello is not None:
            greeting.note(facts_of(self.context.client), hello)
            yield from self._choose(hello)

    def _choose(self, hello: ClientHello) -> layer.CommandGenerator[None]:
        """The site, and what the policy says of its client."""
        self.sites = self.guide.sites(self._listener)
        self.site = self.sites.find(hello.sni)
        if self.site is None:
            yield from self._refuse("no-site", UNRECOGNIZED_NAME, hello.sni or "")
            return
        if self.site.upstream.address is not None:
            self.context.server.address = self.site.upstream.address
            facts_of(self.context.client).sni_proved = True  # the SNI has chosen it
        decision = yield from asked.at_hello(self.context)
        if decision is not None and decision.acts == "block":
            yield EdgeRefusedHook(EdgeRefusal(self.context.client, "blocked-by-policy", decision.reason))
            yield from self._refuse("blocked", asked.ACCESS_DENIED, hello.sni or "")
            return
        if decision is not None and decision.acts == "bypass":
            yield from self._pass_by()
            return
        if not self.site.served and not client_hello.returns(hello):
            yield from self._refuse("no-key", INTERNAL_ERROR, hello.sni or "")
            return
        if self.site.only_tls_1_3 and not client_hello.speaks_tls_1_3(hello):
            yield from self._refuse("old-version", _PROTOCOL_VERSION, hello.sni or "")
            return
        yield from self._begin(self.site, hello)

    def _refuse(self, why: Refused, description: int, sni: str = "") -> layer.CommandGenerator[None]:
        self.guide.unwatch(self)
        self.guide.refused(self.context.client, why, sni)
        said = alert(description)
        kind = CLASSES[why]
        facts_of(self.context.client).fail(kind, "client", f"refused: {why} {sni}".strip(), classes.alert_in(said))
        yield commands.SendData(self.context.client, said)
        yield from self.linger(self.context.client)

    def _pass_by(self) -> layer.CommandGenerator[None]:
        """The client's TLS is the server's own business, keys and versions of ours have no part in it."""
        self.guide.unwatch(self)
        self.server_address = self.context.server.address
        destined(facts_of(self.context.client), self.server_address)
        self._outer = Bypass(self.context, bytes(self._reader.raw))
        self._reader.raw.clear()
        yield from self._outer.handle_event(events.Start())

    def _begin(self, site: Site, hello: ClientHello) -> layer.CommandGenerator[None]:
        server, upstream = self.context.server, site.upstream
        self.server_address = server.address
        destined(facts_of(self.context.client), server.address)
        server.sni = upstream.name or hello.sni or site.title.removeprefix("*.")
        # In this order: a client's TLS layer looks for the server's in front of it.
        in_front = ServerTls(self.context) if upstream.tls else None
        self._tls = InboundTls(self.context, self, hello)
        if in_front is not None:
            in_front.child_layer = self._tls
        self._outer = in_front or self._tls
        yield from self._outer.handle_event(events.Start())
        data = bytes(self._reader.raw)
        self._reader.raw.clear()
        yield from self._outer.handle_event(events.DataReceived(self.context.client, data))

    def _time_is_up(self) -> layer.CommandGenerator[None]:
        """A step that runs has its own clock; here the client, or the server behind us, was too slow."""
        client = self.context.client
        if client.timestamp_tls_setup is not None or (self._tls and self._tls.stepping):
            return
        self.guide.refused(client, "too-slow", client.sni or "")
        facts_of(client).fail("too-slow", "client", f"no handshake within {self.guide.handshake_s:g} s")
        if self._tls is not None and self._tls.tls is not None:
            yield from self._tls.abort()
        else:
            yield commands.SendData(client, alert(INTERNAL_ERROR))
        yield from self.linger(client)


class InboundTls(LingeringTls, ClientTLSLayer, SteppedHandshake):
    """TLS with a client of one of our sites. In between it and the world: plain HTTP, or what ALPN says."""

    listener: InboundListener

    def __init__(self, context: context.Context, listener: InboundListener, hello: ClientHello) -> None:
        super().__init__(context)
        self.listener = listener
        self._hello = hello

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """As ClientTLSLayer, which would parse the ClientHello once more."""
        if self.client_hello_parsed:
            return (yield from super().receive_handshake_data(data))
        self.conn.sni, self.conn.alpn_offers = self._hello.sni, self._hello.alpn_protocols
        asked = ClientHelloData(self.context, self._hello)
        yield TlsClienthelloHook(asked)
        if asked.ignore_connection:
            facts_of(self.context.client).event = "bypassed"
            return (yield from let_through(super().receive_handshake_data(data)))
        self.client_hello_parsed = True
        if asked.establish_server_tls_first and not self.context.server.tls_established:
            error = yield from self.start_server_tls()
            if error:  # the client is told in HTTP
                yield commands.Log(f"no TLS with the site's server: {error}", DEBUG)
        yield from self.start_tls()
        if not self.conn.connected:
            return False, "connection closed early"
        return (yield from super().receive_handshake_data(normal(data)))

    @property
    def stepping(self) -> bool:
        """Whether a step of the handshake runs."""
        return self._step is not None

    def client_ended(self) -> None:
        """The client says no more. During the first step, which signs, that is the end of the handshake; later it may
        have said all that it has to say, and waits for its answer."""
        if self._step is not None and self._steps == 1:
            self.listener.guide.give_up(self._step, GONE)

    def abort(self) -> layer.CommandGenerator[None]:
        """Tell the client that it is over."""
        self.ours.abort(INTERNAL_ERROR)
        yield from self.tls_interact()

    def on_handshake_error(self, err: str) -> layer.CommandGenerator[None]:
        """As TLSLayer: ClientTLSLayer's words are about clients that do not trust a proxy's CA."""
        facts = facts_of(self.context.client)
        ours = self.failure if isinstance(self.failure, HsmitmError) and str(self.failure) != GONE else None
        kind = classes.of_client(err, ech=facts.ech, groups=facts.groups) if ours is None else classes.of_hsm(ours)
        facts.fail(kind, "client", err, classes.alert(err) or self.last_alert)
        yield from self.fail_handshake(err)
        self.event_to_child = self.errored  # type: ignore[method-assign]

    def _handshake_finished(self, err: str | None) -> layer.CommandGenerator[None]:
        self.listener.guide.unwatch(self.listener)
        if err is None and self.tls is not None:  # else a script lets the connection through unopened
            http = not self.conn.alpn or self.conn.alpn in HTTP_ALPNS
            site, sites = self.listener.site, self.listener.sites
            assert site is not None
            assert sites is not None
            self.child_layer = (
                SiteHttp(self.context, site, sites) if http else Tunnel(self.context, self.listener.guide.bounds)
            )
        yield from super()._handshake_finished(err)
        yield from self._end_if_broken()

    def receive_data(self, data: bytes) -> layer.CommandGenerator[None]:
        """A connection that is broken ends now; mitmproxy would keep it until it has been idle for minutes."""
        yield from super().receive_data(data)
        yield from self._end_if_broken()

    def _end_if_broken(self) -> layer.CommandGenerator[None]:
        is_open = self.tls is not None and self.tunnel_state is tunnel.TunnelState.OPEN
        if is_open and self.ours.broken:
            self.tunnel_state = tunnel.TunnelState.CLOSED
            why = self.ours.broken
            facts_of(self.context.client).fail(classes.of_client(why), "client", why, classes.alert(why))
            yield from self.linger(self.conn)

    def send_close(self, command: commands.CloseConnection) -> layer.CommandGenerator[None]:
        """Say goodbye first: without close_notify a client cannot tell an end from a cut (RFC 8446 section 6.1)."""
        if self.tls is not None and self.conn.timestamp_tls_setup is not None and self._lingers is None:
            self.tls.shutdown()
            yield from self.tls_interact()
        yield from super().send_close(command)
