"""Count connections, failed handshakes and flows in progress, in a registry of this worker's own."""

from __future__ import annotations

from typing import Literal

from mitmproxy import connection, flow, http, tcp, tls
from mitmproxy.proxy import server_hooks
from prometheus_client import CollectorRegistry, Counter, Gauge

Outcome = Literal["hit", "joined", "miss"]


_CLASSES = (
    ("disconnected during the handshake", "closed"),  # goes on "may indicate that the client does not trust"
    ("signatures in certificates", "no-common-signature"),
    ("no suitable signature algorithm", "no-common-signature"),
    ("certificate verify failed", "certificate"),
    ("did not prove who it is", "certificate"),
    ("unknown ca", "distrusted"),
    ("bad certificate", "distrusted"),
    ("certificate unknown", "distrusted"),
    ("certificate expired", "distrusted"),
    ("certificate revoked", "distrusted"),
    ("unsupported certificate", "distrusted"),
    ("does not trust the proxy", "distrusted"),
    ("clienthello", "malformed"),
    ("no shared cipher", "no-common-cipher"),
    ("no supported cipher suites", "no-common-cipher"),
    ("the client went away", "closed"),
    ("handshake failure", "no-common-cipher"),
    ("protocol version", "no-common-version"),
    ("unsupported protocol", "no-common-version"),
    ("agree on a tls version", "no-common-version"),
    ("does not speak tls", "no-tls"),
    ("connection closed", "closed"),
    ("closed", "closed"),
)
"""mitmproxy hands a handshake's failure over as text; the first fragment that it holds (in lower case) is its class."""


def failure_class(error: str | None) -> str:
    """A handshake failure's class, one of a small fixed set."""
    text = (error or "").lower()
    return next((name for fragment, name in _CLASSES if fragment in text), "other")


class Metrics:
    """The counters; an addon like the others."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._connections = Counter("hsmitm_connections", "Client connections accepted", registry=registry)
        self._open = Gauge("hsmitm_connections_open", "Client connections open now", registry=registry)
        self._failures = Counter(
            "hsmitm_handshake_failures", "TLS handshakes that failed, towards clients and servers",
            ("side", "class"), registry=registry,
        )  # fmt: skip
        self._connect_errors = Counter(
            "hsmitm_upstream_connect_errors", "Servers that could not be connected to", registry=registry
        )
        self._lookups = Counter(
            "hsmitm_leaf_cache_lookups", "Look-ups of a leaf: hit, joined (another's mint in flight), miss",
            ("result",), registry=registry,
        )  # fmt: skip
        self._leaves = Gauge("hsmitm_leaf_cache_entries", "Leaves kept", registry=registry)
        self._requests = Counter("hsmitm_requests", "HTTP requests", registry=registry)
        for outcome in ("hit", "joined", "miss"):
            self._lookups.labels(outcome)
        self._flows: dict[str, set[str]] = {}
        self.connections = 0

    @property
    def flows(self) -> int:
        """HTTP exchanges, WebSockets, TCP flows and bypassed connections in progress."""
        return sum(map(len, self._flows.values()))

    def count_lookup(self, outcome: Outcome) -> None:
        """How a look-up in the leaf cache ended."""
        self._lookups.labels(outcome).inc()

    def set_leaves(self, number: int) -> None:
        """How many leaves the cache holds."""
        self._leaves.set(number)

    def client_connected(self, _client: connection.Client) -> None:
        """One more client in all, and one more open."""
        self._connections.inc()
        self.connections += 1
        self._open.set(self.connections)

    def client_disconnected(self, client: connection.Client) -> None:
        """One less open, and no flow outlasts its client: a worker that ends waits for none that nobody ends."""
        self._flows.pop(client.id, None)
        self.connections -= 1
        self._open.set(self.connections)

    def server_connect_error(self, _data: server_hooks.ServerConnectionHookData) -> None:
        """A server that TCP does not reach; those whose TLS fails are counted as handshakes."""
        self._connect_errors.inc()

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """A client's handshake failed: counted by `failure_class`."""
        self._failures.labels("client", failure_class(data.conn.error)).inc()

    def tls_failed_server(self, data: tls.TlsData) -> None:
        """A server's handshake failed: counted by `failure_class`."""
        self._failures.labels("server", failure_class(data.conn.error)).inc()

    def bypass_begun(self, client: connection.Client) -> None:
        """A connection that is not opened is in progress until its client is gone."""
        self._flows.setdefault(client.id, set()).add(client.id)

    def _begin(self, one: flow.Flow) -> None:
        self._flows.setdefault(one.client_conn.id, set()).add(one.id)

    def _end(self, one: flow.Flow) -> None:
        flows = self._flows.get(one.client_conn.id)
        if flows is not None:
            flows.discard(one.id)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A request is counted; a worker that ends waits for its flow, until the answer is complete."""
        self._requests.inc()
        self._begin(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        """The flow is over, unless it becomes a WebSocket: that goes on in it."""
        if flow.websocket is None:
            self._end(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """The flow is over without an answer."""
        self._end(flow)

    def websocket_start(self, flow: http.HTTPFlow) -> None:
        """The flow of the request that asked for a WebSocket goes on."""
        self._begin(flow)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """The flow is over: one side closed the WebSocket, or was cut."""
        self._end(flow)

    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """What is no HTTP is in progress until both sides are closed."""
        self._begin(flow)

    def tcp_end(self, flow: tcp.TCPFlow) -> None:
        """The flow is over: both sides are closed."""
        self._end(flow)

    def tcp_error(self, flow: tcp.TCPFlow) -> None:
        """The flow is over: a side was cut."""
        self._end(flow)
