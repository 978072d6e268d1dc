"""What a client sees of a connection that is blocked or failed: one page, for whoever answers in HTTP.

It says what happened in one sentence of a closed set (`sentences`), the host, the rule, whom to ask, and an id that is
in the decryption log and in the header Hsmitm-Id, where a CONNECT's answer shows nothing else. A browser gets HTML,
others text; HEAD gets no content, a gRPC client its own kind of answer.
"""

from __future__ import annotations

import contextlib
import logging
import re
import urllib.parse
from collections.abc import Iterable
from http import HTTPStatus

from mitmproxy import ctx, http
from msgspec import Struct

from addons.pages.sentences import SAYINGS, Kind, said
from addons.pages.template import BUILT_IN, Template
from addons.records.facts import Facts
from hsm import names

logger = logging.getLogger("hsmitm.pages")

ID = "Hsmitm-Id"
"""The header that has the connection's id."""
_NOTHING_RUNS = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_NOT_IN_HOSTS = re.compile(r"[^A-Za-z0-9._:\[\]-]")
_LONGEST_HOST, _LONGEST_DETAIL = 255, 200
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?$")
"""A Host field: name or address, and port (RFC 9110 section 7.2)."""
_GRPC = {400: 13, 403: 7, 413: 8, 429: 14, 431: 8, 501: 12, 502: 14, 503: 14, 504: 14}
"""A gRPC status for one of HTTP, as gRPC's own table has them; 2 is "unknown"."""
_NOT_IN_TYPES = re.compile(r"[^a-z/+.;=, -]", re.IGNORECASE)
_PRINTABLE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_HTML = ("text/html", "application/xhtml+xml")


class Asker(Struct, frozen=True):
    """Who asks, as far as an answer goes by it. `host` is what the client itself said, before any script."""

    method: str = "GET"
    accept: str = ""
    content_type: str = ""
    host: str = ""

    @classmethod
    def of(cls, request: http.Request) -> Asker:
        """Of a request that was read."""
        # Behind a CONNECT, and at our own sites, mitmproxy has the server's address there.
        target = request.data.host if request.method.upper() == "CONNECT" else ""
        return cls.read(request.data.method, request.headers.fields, target)

    @classmethod
    def read(cls, method: bytes, fields: Iterable[tuple[bytes, bytes]], target: str = "") -> Asker:
        """From the fields of a request's head, pseudo-header fields among them; `target` is the host of its target, if
        it has one there."""
        found: dict[bytes, bytes] = {}
        for name, value in fields:
            found.setdefault(name.lower(), value)
        place = found.get(b":authority") or found.get(b"host") or b""
        host = target if method.upper() == b"CONNECT" and target else _HOST.match(place.decode("ascii", "replace"))
        if not isinstance(host, str):
            host = host.group(1) if host else ""
        return cls(
            (found.get(b":method") or method).decode("ascii", "replace"),
            found.get(b"accept", b"").decode("ascii", "replace"),
            found.get(b"content-type", b"").decode("ascii", "replace"),
            host or target,
        )


NOBODY = Asker()
"""Who asked cannot be read."""


class Pages:
    """The pages of a worker. As an addon it is found by others (`current`)."""

    name = "pages"

    def __init__(self, contact: str = "", template: Template = BUILT_IN) -> None:
        """`contact` is whom to ask, in words: a name, a number, an address."""
        self._contact = contact
        self._template = template

    def page(
        self,
        facts: Facts,
        *,
        kind: Kind,
        request: http.Request | Asker | None = None,
        host: str = "",
        status: int | None = None,
        detail: str = "",
        why: str = "",
        retry_after_s: int | None = None,
    ) -> http.Response:
        """The answer to `request`, None where it could not be read.

        `host` is what the page is about, where that is not what the client asked for; `status` is another than the
        kind's; `retry_after_s` goes into Retry-After (RFC 9110 section 10.2.3). `detail` is shown with requests that
        the client itself has made badly (`sentences.EXPLAINED`), and nowhere else; `why` is for the log alone.
        """
        status = status or SAYINGS[kind].status
        asker = Asker.of(request) if isinstance(request, http.Request) else request or NOBODY
        shown = _shown(host or _host(facts, asker))
        values = {
            "status": str(status),
            "title": f"{status} {HTTPStatus(status).phrase}",
            "sentence": said(kind, shown, _short(detail)),
            "host": shown or "-",
            "rule": _rule(facts),
            "id": facts.id,
            "contact": self._contact or "whoever runs this proxy",
        }
        made = self._made(status, values, asker)
        made.headers[ID] = facts.id
        _tell(facts, kind, status, shown, why)
        if retry_after_s is not None:
            made.headers["Retry-After"] = str(retry_after_s)
        return made

    def _made(self, status: int, values: dict[str, str], asker: Asker) -> http.Response:
        if asker.content_type.lower().startswith("application/grpc"):
            return _for_grpc(status, values, asker.content_type)
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": _NOTHING_RUNS,
        }
        if _wants_html(asker.accept):
            headers["Content-Type"] = "text/html; charset=utf-8"
            text = self._template.filled(values)
        else:
            text = _TEXT.format_map(values)
        made = http.Response.make(status, text, headers)
        if asker.method.upper() == "HEAD":
            made.raw_content = b""  # the length stays that of the page (RFC 9110 section 8.6)
        return made


_TEXT = """hsmitm: {sentence}

Host: {host}
Rule: {rule}
Id:   {id}
Ask:  {contact}
"""


def current() -> Pages:
    """The running worker's; where no worker runs, as in tests of single layers, one without a contact."""
    master = getattr(ctx, "master", None)
    return (master.addons.get("pages") if master is not None else None) or _PLAIN


_PLAIN = Pages()


def _tell(facts: Facts, kind: Kind, status: int, host: str, why: str) -> None:
    """Have the id in the log for people, too, with what the page does not say."""
    failure = facts.failure
    if not why and failure is not None and failure.kind == kind:
        why = failure.text
    more = f": {why[:_LONGEST_DETAIL]}" if why else ""
    client = facts.client_ip or "a client"
    told = {"log_class": f"page-{kind}"}  # a flood of one kind hides none of another (`proxy.processes.log_rates`)
    logger.info("page %s for %s about %s: %d, %s%s", facts.id, client, host or "-", status, kind, more, extra=told)


def _for_grpc(status: int, values: dict[str, str], content_type: str) -> http.Response:
    """What gRPC calls Trailers-Only: its status is in the head, of HTTP's its clients show a number at best."""
    message = f"hsmitm: {values['sentence']} Id: {values['id']}"
    headers = {
        "Content-Type": _NOT_IN_TYPES.sub("", content_type),
        "Cache-Control": "no-store",
        "grpc-status": str(_GRPC.get(status, 2)),
        "grpc-message": urllib.parse.quote(message, safe=_PRINTABLE),
    }
    return http.Response.make(200, b"", headers)


def _wants_html(accept: str) -> bool:
    """Whether a client names HTML, and likes text no better (RFC 9110 section 12.5.1). `*/*` names nothing."""
    likes = {"text/plain": 0.0}
    for one in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        weight = next((part[2:].strip() for part in parameters if part.startswith("q=")), "1")
        try:
            likes[kind] = float(weight)
        except ValueError:
            likes[kind] = 0.0
    html = max(likes.get(kind, 0.0) for kind in _HTML)
    return html > 0 and html >= likes["text/plain"]


def _host(facts: Facts, asker: Asker) -> str:
    """What the client itself said, never where one of our own sites has its server."""
    return asker.host or facts.sni or facts.host or ("" if facts.mode == "inbound" else facts.destination)


def _short(detail: str) -> str:
    cut = detail[:_LONGEST_DETAIL] + ("..." if len(detail) > _LONGEST_DETAIL else "")
    return "".join(one if one.isprintable() else "?" for one in cut)


def _shown(host: str) -> str:
    """Fit for a page: a name as certificates have it, and never markup."""
    with contextlib.suppress(ValueError):
        host = names.to_ascii(host)
    return _NOT_IN_HOSTS.sub("?", host[:_LONGEST_HOST])


def _rule(facts: Facts) -> str:
    """Whose word holds: where the policy only warns no rule's does."""
    decision = facts.decision
    if decision is None:
        return "-"
    return decision.rule if decision.enforced else "default"
