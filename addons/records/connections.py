"""The one place where the facts of each client connection are: from its first byte, or its refusal, to its record.

They hang on mitmproxy's own object for the client, which is one for a connection, whatever is nested in it: TLS to the
proxy itself and the TLS inside of it have the same facts. So nothing is looked up, and nothing is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from mitmproxy import connection, http, tcp, tls
from mitmproxy.proxy import context, mode_specs, server_hooks
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import HttpStream

from addons.modes import InboundMode, InboundTransparentMode
from addons.records import legs
from addons.records.facts import Facts, Mode

_FACTS = "_hsmitm_facts"
"""The attribute; mitmproxy writes a client's dataclass fields into flow files, and no others."""
_MODES: dict[type[mode_specs.ProxyMode], Mode] = {
    mode_specs.Socks5Mode: "socks5",
    mode_specs.TransparentMode: "transparent",
    mode_specs.UpstreamMode: "upstream",
    InboundMode: "inbound",
    InboundTransparentMode: "inbound",
}


def facts_of(client: connection.Client) -> Facts:
    """The facts of `client`'s connection; they are made when they are asked for first."""
    found = client.__dict__.get(_FACTS)
    if found is None:
        found = client.__dict__[_FACTS] = _new(client)
    return cast(Facts, found)


def _new(client: connection.Client) -> Facts:
    mode, address = client.proxy_mode, client.peername if client.peername else ("", 0)
    return Facts(
        id=client.id,
        began=client.timestamp_start,
        began_monotonic=time.monotonic(),
        listener=_listener(client),
        mode=_MODES.get(type(mode), "explicit"),
        client_ip=address[0],
        client_port=address[1],
    )


def _listener(client: connection.Client) -> str:
    """Where the client came in, as the configuration has it: host:port. Redirected traffic has its server's address."""
    mode, default = client.proxy_mode, client.sockname if client.sockname else ("", 0)
    host = mode.listen_host(default[0])
    port = mode.listen_port(default[1]) or 0
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def destined(facts: Facts, address: connection.Address | None) -> None:
    """The client wants a server at `address`; who asked the proxy for it in words of its own has said so before."""
    if address is None or facts.mode in ("explicit", "upstream"):
        return
    facts.port = address[1]
    if facts.mode == "socks5":
        facts.host = facts.host or host(address[0])
    elif not facts.destination:
        facts.destination = address[0]


def host(text: str) -> str:
    """A name or an address as it is compared: lower case, without a trailing dot."""
    return text.lower().removesuffix(".")


def outermost(made: context.Context) -> bool:
    """Whether TLS in this place is that of the proxy itself, reached over TLS: no server's traffic is in it yet."""
    explicit = bool(made.layers) and isinstance(made.layers[0], modes.HttpProxy | modes.HttpUpstreamProxy)
    return explicit and not any(isinstance(one, HttpStream) for one in made.layers)


class Connections:
    """The addon: first in the chain, so that the facts are there for all others, and last to let go of them."""

    name = "connections"

    def __init__(self, *ended: Callable[[Facts], None], begun: Callable[[], None] = lambda: None) -> None:
        """`begun` is called when a connection begins, each of `ended` when it is over, with all that is known of it."""
        self._begun = begun
        self.told = ended
        self._open: dict[str, connection.Client] = {}
        self._sequence = 0

    # a connection's life

    def client_connected(self, client: connection.Client) -> None:
        """A connection begins."""
        self._count(client)
        self._open[client.id] = client

    def client_disconnected(self, client: connection.Client) -> None:
        """A connection is over."""
        if self._open.pop(client.id, None) is not None:
            self._end(client)

    def turned_away(self, client: connection.Client) -> None:
        """A connection that was closed before anything could come of it (`EdgeHandler`)."""
        self._count(client)
        self._end(client)

    def done(self) -> None:
        """The worker ends, and with it the connections that are still open."""
        for client in list(self._open.values()):
            self.client_disconnected(client)

    def _count(self, client: connection.Client) -> None:
        self._sequence += 1
        self._begun()
        facts_of(client).sequence = self._sequence

    def _end(self, client: connection.Client) -> None:
        facts = facts_of(client)
        if client.error and facts.failure is None:
            # Who may not come in at all: mitmproxy's Block, or a script.
            facts.fail("blocked-by-policy", "client", client.error)
        conclude(facts)
        for tell in self.told:
            tell(facts)

    # what becomes known

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Whom the client asks for."""
        facts = facts_of(flow.client_conn)
        facts.host, facts.port = host(flow.request.host), flow.request.port

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A request; the first one in plain HTTP says what the connection is."""
        facts = facts_of(flow.client_conn)
        facts.requests += 1
        if flow.request.scheme == "http" and facts.event != "decrypted":
            facts.event, facts.plain = "plain", True
            if facts.mode in ("explicit", "upstream"):
                facts.host, facts.port = host(flow.request.host), flow.request.port
            else:
                destined(facts, flow.server_conn.address)

    def response(self, flow: http.HTTPFlow) -> None:
        """An answer has gone to the client; a server's, if there was one."""
        if flow.error is None and flow.server_conn.timestamp_tcp_setup is not None:
            facts_of(flow.client_conn).served = True

    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """A stream that is no HTTP, in the clear unless TLS is around it."""
        facts = facts_of(flow.client_conn)
        destined(facts, flow.server_conn.address)
        if facts.event == "failed":
            facts.event = "passed"

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Where the connection really goes."""
        facts, address = facts_of(data.client), data.server.peername
        destined(facts, data.server.address)
        if address:
            facts.destination, facts.port = address[0], facts.port or address[1]

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Why there is no connection is known where it was tried (`Connecting`), but for its time and scripts' will."""
        facts = facts_of(data.client)
        destined(facts, data.server.address)
        facts.fail("connect-failed", "server", str(data.server.error or ""))

    def tls_established_client(self, data: tls.TlsData) -> None:
        """The client's handshake is complete."""
        facts = facts_of(data.context.client)
        legs.note(facts.client_leg, data.conn, data.ssl_conn)
        if facts.client_leg.resumed:
            facts.client_leg.certificate = None  # a client that comes back is shown none
        if not outermost(data.context):
            facts.event, facts.plain = "decrypted", False

    def tls_established_server(self, data: tls.TlsData) -> None:
        """The handshake with a server, or with a proxy on the way to it, is complete: the last one is told of."""
        leg = facts_of(data.context.client).server_leg
        legs.note(leg, data.conn, data.ssl_conn)
        if data.conn.certificate_list:
            leg.certificate = legs.certificate(data.conn.certificate_list[0].to_cryptography())
        leg.verification = legs.verification(data.ssl_conn)

    def tls_failed_server(self, data: tls.TlsData) -> None:
        """What the server has shown, if it came to that."""
        leg = facts_of(data.context.client).server_leg
        if (shown := legs.shown(data.ssl_conn)) is not None:
            leg.certificate = legs.certificate(shown)


_BLOCKED = frozenset(("blocked-by-policy", "blocked-destination", "sni-mismatch"))


def conclude(facts: Facts) -> None:
    """The connection is over: what became of it in the end. A failure has a reason, whatever was said."""
    decision = facts.decision
    if decision is not None and decision.acts == "block":
        facts.fail(decision.error or "blocked-by-policy", "client", decision.reason)
        facts.event = "blocked"
    elif facts.failure is not None and not facts.served:
        facts.event = "blocked" if facts.failure.kind in _BLOCKED else "failed"
    elif facts.event == "failed":
        facts.fail("client-closed", "client", "the client closed the connection before anything could come of it")
