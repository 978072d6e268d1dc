"""What is refused at the edge: each refusal has a class of a closed list, is counted, and is told in a bounded way.

A layer yields `EdgeRefusedHook`, whatever is no layer calls `Refusals.edge_refused`; both end in one counter and one
log line per class, client and moment. User scripts may listen to the hook, too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

from mitmproxy import connection
from mitmproxy.proxy import commands
from mitmproxy.utils import human
from prometheus_client import CollectorRegistry, Counter

from addons.records.connections import facts_of
from addons.records.facts import ErrorClass, Side

logger = logging.getLogger("hsmitm.edge")

Class = Literal[
    "not-tls",
    "malformed-hello",
    "oversized-hello",
    "slow-hello",
    "too-many-connections",
    "too-many-of-client",
    "too-many-handshakes",
    "idle",
    "oversized-head",
    "oversized-trailers",
    "malformed-request",
    "malformed-response",
    "host-mismatch",
    "http2-flood",
    "http2-error",
    "oversized-message",
    "too-many-names",
    "too-many-lookups",
    "blocked-destination",
    "blocked-by-policy",
    "broken-tls",
    "no-common-signature",
    "server-unproven",
    "server-wants-client-certificate",
]
CLASSES: tuple[Class, ...] = get_args(Class)
ERRORS: dict[Class, tuple[ErrorClass, Side]] = {
    "not-tls": ("not-tls", "client"),
    "malformed-hello": ("malformed-hello", "client"),
    "oversized-hello": ("oversized-hello", "client"),
    "slow-hello": ("too-slow", "client"),
    "too-many-connections": ("no-resources", "client"),
    "too-many-of-client": ("no-resources", "client"),
    "too-many-handshakes": ("no-resources", "client"),
    "idle": ("too-slow", "client"),
    "oversized-head": ("no-resources", "client"),
    "oversized-trailers": ("no-resources", "client"),
    "malformed-request": ("not-tls", "client"),
    "malformed-response": ("not-tls", "server"),
    "host-mismatch": ("host-mismatch", "client"),
    "http2-flood": ("no-resources", "client"),
    "http2-error": ("not-tls", "client"),
    "oversized-message": ("no-resources", "client"),
    "too-many-names": ("no-resources", "client"),
    "too-many-lookups": ("no-resources", "client"),
    "blocked-destination": ("blocked-destination", "server"),
    "blocked-by-policy": ("blocked-by-policy", "client"),
    "broken-tls": ("client-closed", "client"),
    "no-common-signature": ("no-common-cipher", "client"),
    "server-unproven": ("connect-failed", "server"),
    "server-wants-client-certificate": ("server-wants-client-certificate", "server"),
}
"""What the decryption log calls it, and whose doing it is, where nothing else is known to be the cause: not-tls is what
should be TLS or HTTP and is neither, no-resources what is more than a bound of ours."""
_MAX_DETAIL = 200
"""Characters of what a peer said that are shown."""


@dataclass
class EdgeRefusal:
    """Whose traffic is refused, as what, and what it was about (in words; what a peer said in it may be long)."""

    client: connection.Client
    kind: Class
    detail: str


@dataclass
class EdgeRefusedHook(commands.StartHook):
    """Something was refused. Not blocking: the refusal has been made."""

    data: EdgeRefusal
    blocking = False


class Refusals:
    """The addon that counts and tells."""

    name = "refusals"

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "hsmitm_edge_refused", "What was refused at the edge, by class", ("class",), registry=registry
        )
        for kind in CLASSES:
            self._counter.labels(kind)

    def edge_refused(self, refusal: EdgeRefusal) -> None:
        """Count it and say it in one line."""
        self.count(refusal.kind)
        kind, side = ERRORS[refusal.kind]
        facts_of(refusal.client).fail(kind, side, refusal.detail)
        self.tell(refusal)

    def count(self, kind: Class) -> None:
        """Count one that is told of with others."""
        self._counter.labels(kind).inc()

    @staticmethod
    def tell(refusal: EdgeRefusal) -> None:
        """Say it in one line."""
        where = human.format_address(refusal.client.peername) if refusal.client.peername else "unknown"
        detail = refusal.detail if len(refusal.detail) <= _MAX_DETAIL else refusal.detail[:_MAX_DETAIL] + "..."
        level = logging.INFO if refusal.kind == "idle" else logging.WARNING  # clients connect and change their mind
        told = {"log_class": refusal.kind}  # a flood of one class hides none of another (`proxy.processes.log_rates`)
        logger.log(level, "client %s refused (%s): %s", where, refusal.kind, detail, extra=told)
