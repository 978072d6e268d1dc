"""What a client of the forward proxy speaks: decided on enough bytes, and closed where it is neither TLS nor HTTP.

mitmproxy's own decision takes what it does not know, and what has fewer than three bytes, for a stream that nobody
looks into. Here TLS is the first two bytes of a record, whatever its 3.x version; HTTP is a line that can be a request;
and anything else is refused, or passed where the operator said so, counted, and watched for TLS that begins later.

HTTP/2 without TLS (RFC 9113 section 3.3) is neither: no client of a proxy begins with it. Nor is DNS, unless a script
looks at it. No mode of ours has UDP.
"""

from __future__ import annotations

import logging
import re

from mitmproxy import connection, ctx
from mitmproxy.proxy import commands, context, events, layer, layers, tunnel
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.tls import HTTP_ALPNS
from mitmproxy.utils import human
from prometheus_client import CollectorRegistry, Counter

from addons.edge.exchanges import Exchanges
from addons.edge.listeners.client_tls import ClientTls
from addons.edge.listeners.hello import HANDSHAKE
from addons.edge.listeners.tunnel import Tunnel
from addons.edge.refusal import Class, EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds, NotTls
from addons.engine.onlookers import looked_at
from addons.policy import asked
from addons.records.connections import facts_of
from addons.upstream.layer import ServerTls

logger = logging.getLogger("hsmitm.edge")

_RECORDS = range(20, 25)
"""The content types of TLS (RFC 8446 appendix B.1, RFC 6520): none is what HTTP begins with."""
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
"""RFC 9110 section 9.1: a token; the longest that is registered has 17 characters."""
_VERSION = re.compile(rb" HTTP/[0-9.]*[ \t\r]*\Z")
_MAJOR = 3
_EMPTY_LINES = 4
_UNDECIDED_S = 1.0
_LINE = 512
"""Bytes within which a line that has not ended tells what it is: by then it is a request with a long target."""
_DNS_PORTS = {53, 5353}
_EXPLICIT = (modes.HttpProxy, modes.HttpUpstreamProxy)


class NextLayer:
    """Takes the place of mitmproxy's NextLayer, under its name. What a script has set before stays."""

    name = "nextlayer"

    def __init__(self, bounds: Bounds, not_tls: NotTls, registry: CollectorRegistry) -> None:
        self._bounds = bounds
        self._not_tls = not_tls
        self._passed = Counter(
            "hsmitm_streams_passed", "Streams passed on that are neither TLS nor HTTP", registry=registry
        )

    def next_layer(self, asked: layer.NextLayer) -> None:
        """Set the layer, once enough has come."""
        if asked.layer is None:
            asked.layer = self._next(asked.context, asked.data_client(), bool(asked.data_server()))

    def _next(self, made: context.Context, data: bytes, greeted: bool) -> layer.Layer | None:
        if made.client.transport_protocol != "tcp":
            return Closed(made, "a datagram")
        if not greeted and len(data) == 1 and data[0] in _RECORDS:
            return None
        if len(made.layers) == 1 and isinstance(made.layers[0], _EXPLICIT):
            return self._explicit(made, tls=begins_tls(data))
        if begins_tls(data, exactly=self._may_pass(made)):
            server_tls = ServerTls(made)
            server_tls.child_layer = ClientTls(made, self._bounds, begun=asked.is_decrypted(made))
            return server_tls
        decided = self.plain(made, data, greeted=greeted)
        return decided or (Undecided(made, self) if self._may_pass(made) else None)

    def plain(self, made: context.Context, data: bytes, *, greeted: bool, late: bool = False) -> layer.Layer | None:
        """The layer of what is no TLS; None while more bytes must tell, unless it is `late`."""
        alpn = made.client.alpn in HTTP_ALPNS and asked.is_decrypted(made)
        http = alpn or (False if greeted else looks_like_http(data))
        if http is None and not late:
            return None
        return Exchanges(made, HTTPMode.transparent) if http else self._other(made)

    def _may_pass(self, made: context.Context) -> bool:
        address = made.server.address
        passes = bool(ctx.options.rawtcp) and self._not_tls.passes(address[:2] if address else None)
        return passes or asked.is_decrypted(made)

    def _explicit(self, made: context.Context, *, tls: bool) -> layer.Layer:
        """A client that knows the proxy: HTTP, with TLS around it or without. What is neither is told so in HTTP."""
        stack = tunnel.LayerStack()
        if tls:
            stack /= ClientTls(made, self._bounds)
        upstream = isinstance(made.layers[0], modes.HttpUpstreamProxy)
        stack /= Exchanges(made, HTTPMode.upstream if upstream else HTTPMode.regular)
        return stack[0]

    def _other(self, made: context.Context) -> layer.Layer:
        address = made.server.address
        place = f"{address[0]}:{address[1]}" if address else "unknown"
        if not self._may_pass(made):
            return Closed(made, f"neither TLS nor HTTP to {place}")
        decision = facts_of(made.client).decision
        if decision is not None and decision.acts == "block":
            return Closed(made, f"{decision.reason} (neither TLS nor HTTP to {place})", "blocked-by-policy")
        if not asked.is_decrypted(made):
            self._passed.inc()
            logger.info(
                "client %s: neither TLS nor HTTP to %s, passed", human.format_address(made.client.peername), place
            )
        if address and address[1] in _DNS_PORTS and looked_at("dns_request", "dns_response", "dns_error"):
            return layers.DNSLayer(made)
        return Tunnel(made, self._bounds)

    def upgraded(self, made: context.Context) -> layer.Layer:
        """What follows a 101 that is no WebSocket (RFC 9110 section 7.8)."""
        return self._other(made)


class Undecided(layer.Layer):
    """A client that may speak what it wants, and whose first bytes could be the beginning of a request: it is asked
    again with each byte, and taken at its word after a while. Who waits for an answer to them sends no more."""

    def __init__(self, made: context.Context, decision: NextLayer) -> None:
        super().__init__(made)
        self._decision = decision
        self._timer = commands.RequestWakeup(_UNDECIDED_S)
        self._events: list[events.Event] = []
        self._data = b""
        self._child: layer.Layer | None = None

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        ours = isinstance(event, events.Wakeup) and event.command is self._timer
        if self._child is not None:
            if not ours:
                yield from self._child.handle_event(event)
            return
        greeted = False
        if isinstance(event, events.Start):
            yield self._timer
        elif isinstance(event, events.DataReceived):
            greeted = event.connection is not self.context.client
            self._data += b"" if greeted else event.data
        if not ours:
            self._events.append(event)
        late = ours or isinstance(event, events.ConnectionClosed)
        if self._data or greeted or late:
            self._child = self._decision.plain(self.context, self._data, greeted=greeted, late=late)
        waiting = self._events if self._child is not None else []
        while waiting and self._child is not None:
            yield from self._child.handle_event(waiting.pop(0))


class Closed(layer.Layer):
    """A client that gets no more than this."""

    def __init__(self, made: context.Context, why: str, kind: Class = "not-tls") -> None:
        super().__init__(made)
        self._why, self._kind = why, kind

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if not isinstance(event, events.Start):
            return
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, self._kind, self._why))
        for side in (self.context.server, self.context.client):
            if side.state is not connection.ConnectionState.CLOSED:
                yield commands.CloseConnection(side)


def begins_tls(data: bytes, *, exactly: bool = False) -> bool:
    """Whether a client that begins like this is served by a layer of TLS: with a handshake's record, whatever its
    version says (RFC 8446 section 5.1); or with one that must not come first, which gets its alert there. `exactly`:
    what else it could be passes, so only the first record of today's clients is meant."""
    if len(data) < 2 or data[0] not in _RECORDS:
        return False
    if exactly:
        return data[0] == HANDSHAKE and data[1] == _MAJOR
    return data[0] == HANDSHAKE or data[1] == _MAJOR


def looks_like_http(received: bytes) -> bool | None:
    """Whether a client that begins like this speaks HTTP/1 (RFC 9112 section 3); None where more must come."""
    data = received.lstrip(b"\r\n")  # RFC 9112 section 2.2: one empty line before the request is ignored
    if len(received) - len(data) > _EMPTY_LINES:
        return False
    method = _METHOD.match(data)
    if method is None:
        return False if data else None
    if method.end() == len(data):
        return None
    if data[method.end() : method.end() + 1] != b" " or data.startswith(b"PRI * HTTP/2"):
        return False
    line, ended, _ = data.partition(b"\n")
    if ended:
        return _VERSION.search(line) is not None
    return True if len(data) > _LINE else None


def upgraded(made: context.Context) -> layer.Layer:
    """The layer of what follows a 101 that is no WebSocket. A tunnel where no worker runs, as in tests of layers."""
    master = getattr(ctx, "master", None)
    asked = master.addons.get(NextLayer.name) if master is not None else None
    return asked.upgraded(made) if isinstance(asked, NextLayer) else Tunnel(made, Bounds())
