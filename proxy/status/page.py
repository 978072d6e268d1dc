"""The pages: /metrics for Prometheus, /healthz and /readyz. A request's head in, an answer's bytes out; no I/O here.

What the signer told is shown as it told it. While it tells nothing, all three are 503: a monitor that watched the
signer by whether they answer goes on to be right.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from tornado.httputil import HTTPHeaders, RequestStartLine

from hsm.errors import TryLaterError
from hsm.wire import telemetry
from hsm.wire.status import Seen
from hsm.wire.telemetry import FamilyCollector
from proxy.status.hosts import Hosts
from proxy.status.sight import Sight

_PLAIN = "text/plain; charset=utf-8"
_TARGET = re.compile(r"(?:https?://(?P<authority>[^/?#]*))?(?P<path>/[^?]*)(?:\?.*)?")
_SHOWN = 80
"""Characters of a request that are quoted in an answer."""


class Answer(NamedTuple):
    """Status, content, and its type. `refuses_body`: a body may be on its way, which nobody reads."""

    status: HTTPStatus
    content: bytes
    kind: str = _PLAIN
    refuses_body: bool = False

    def head(self) -> bytes:
        """Status and fields as bytes of HTTP/1.1, the last on its connection."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
            f"Date: {formatdate(usegmt=True)}\r\n"
            f"Content-Type: {self.kind}\r\n"
            f"Content-Length: {len(self.content)}\r\n"
            "Cache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            f"{'Allow: GET, HEAD\r\n' if self.status is HTTPStatus.METHOD_NOT_ALLOWED else ''}"
            "Connection: close\r\n\r\n"
        )
        return head.encode()


class Page:
    """Answers requests of which the head alone was read."""

    def __init__(self, sight: Sight, hosts: Hosts, registry: CollectorRegistry) -> None:
        """`registry` has this process's own counters, which are shown among the others."""
        self._sight = sight
        self._hosts = hosts
        self._registry = registry
        self._omitted = Gauge(
            "hsmitm_status_metrics_omitted", "Metrics left out of an answer that grew too large", registry=registry
        )
        self._requests = Counter(
            "hsmitm_status_requests", "Requests to the status page", ("status",), registry=registry
        )
        self._shown: tuple[Seen, bytes] | None = None

    async def answer(self, start: RequestStartLine, headers: HTTPHeaders) -> Answer:
        """What to say to a request."""
        target = _TARGET.fullmatch(start.path)
        answer = self._refusal(start, headers, target) or await self._page(target["path"] if target else "")
        self._requests.labels(str(answer.status.value)).inc()
        return answer

    def _refusal(self, start: RequestStartLine, headers: HTTPHeaders, target: re.Match[str] | None) -> Answer | None:
        if headers.get("Content-Length", "0").strip() != "0" or "Transfer-Encoding" in headers:
            return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"no request has a body here\n", refuses_body=True)
        if start.method not in ("GET", "HEAD"):
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET or HEAD\n")
        asked = headers.get_list("Host")
        if len(asked) > 1 or (not asked and start.version != "HTTP/1.0"):
            return Answer(HTTPStatus.BAD_REQUEST, b"one Host header is required (RFC 9112 section 3.2)\n")
        if target is None:
            return Answer(HTTPStatus.BAD_REQUEST, b"the target of a request begins with /\n")
        if target["authority"] is not None:  # absolute form: it takes the place of Host (RFC 9112 section 3.2.2)
            asked.append(target["authority"])
        for one in asked:
            if not self._hosts.admit(one):
                text = f"{one[:_SHOWN]!a} is no name of this page; ask for an address, or list it in [status] hosts\n"
                return Answer(HTTPStatus.MISDIRECTED_REQUEST, text.encode())
        return None

    async def _page(self, path: str) -> Answer:
        if path not in ("/metrics", "/healthz", "/readyz"):
            return Answer(HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n")
        try:
            seen = await self._sight.look()
        except TryLaterError as error:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
        if path == "/metrics":
            return Answer(HTTPStatus.OK, self._metrics(seen), CONTENT_TYPE_LATEST)
        if path == "/readyz" and seen.unready:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{seen.unready}\n".encode())
        return Answer(HTTPStatus.OK, b"ok\n" if path == "/healthz" else b"ready\n")

    def _metrics(self, seen: Seen) -> bytes:
        """Made once for each look, however often it is asked for."""
        if self._shown is None or self._shown[0] is not seen:
            self._omitted.set(seen.omitted)
            totals = telemetry.Totals()
            totals.add(seen.families)
            totals.add(telemetry.collect(self._registry))
            shown = CollectorRegistry()
            shown.register(FamilyCollector(totals.families()))
            self._shown = (seen, generate_latest(shown))
        return self._shown[1]
