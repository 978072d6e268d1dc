"""What a client is told in HTTP of a request that came to nothing: mitmproxy's errors as kinds of pages.

An error is a text on its way through mitmproxy's layers, which goes into the log whole. The client is told its kind:
the text's own (`Sentence`), what is known of the connection's failure, or what mitmproxy's code stands for.
"""

from __future__ import annotations

from collections.abc import Sequence

from mitmproxy import connection, http
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseProtocolError

from addons.pages import pages
from addons.pages.pages import Asker
from addons.pages.sentences import SAYINGS, Kind
from addons.records.connections import facts_of
from addons.records.facts import Facts

_KINDS: dict[ErrorCode, Kind] = {
    ErrorCode.GENERIC_CLIENT_ERROR: "malformed-request",
    ErrorCode.REQUEST_VALIDATION_FAILED: "malformed-request",
    ErrorCode.DESTINATION_UNKNOWN: "no-host",
    ErrorCode.REQUEST_TOO_LARGE: "oversized-request",
    ErrorCode.CONNECT_FAILED: "connect-failed",
    ErrorCode.GENERIC_SERVER_ERROR: "connect-failed",
    ErrorCode.RESPONSE_VALIDATION_FAILED: "malformed-response",
    ErrorCode.RESPONSE_TOO_LARGE: "oversized-response",
}


Came = tuple[bytes, Sequence[tuple[bytes, bytes]], str]
"""A request's method, the fields of its head, and its target's host, as they came: what scripts make of it is not the
client's. Method and host may be empty where the fields have them (HTTP/2)."""


class Sentence(str):
    """Why there is no connection: a text for the log, with its kind for the client. mitmproxy passes it on as the
    connection's error."""

    kind: Kind

    def __new__(cls, kind: Kind, text: str) -> Sentence:
        """`kind` is what the client is told, `text` what the log says."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made

    def within(self, text: str) -> Sentence:
        """A longer text, of the same kind."""
        return Sentence(self.kind, text)

    @property
    def status(self) -> int:
        """The HTTP status that says it."""
        return SAYINGS[self.kind].status


def kind(text: str, code: ErrorCode, facts: Facts) -> Kind:
    """Of an error that mitmproxy's layers have passed on."""
    if isinstance(text, Sentence):
        return text.kind
    if code in (ErrorCode.CONNECT_FAILED, ErrorCode.GENERIC_SERVER_ERROR):
        # A client that asks a proxy for one host after the other has one set of facts, and here it is one host.
        known = facts.failure.kind if facts.failure and facts.failure.side == "server" and not facts.plain else None
        if text.startswith("no TLS with ") and known in (None, "connect-failed"):
            return "server-unproven"
        if known is not None:
            return known
    return _KINDS.get(code, "internal")


def of_error(client: connection.Client, came: Came | None, event: ResponseProtocolError) -> http.Response | None:
    """The page that says it; None where HTTP has no answer to it: the connection, or the stream, just ends."""
    if event.code.http_status_code() is None:
        return None
    facts = facts_of(client)
    found = kind(event.message, event.code, facts)
    return pages.current().page(facts, kind=found, request=_asker(came), why=event.message)


def of_kind(client: connection.Client, came: Came | None, kind: Kind, detail: str = "") -> http.Response:
    """The page of a kind. `detail` is what our parser says of the client's own bytes."""
    return pages.current().page(facts_of(client), kind=kind, request=_asker(came), detail=detail)


def _asker(came: Came | None) -> Asker | None:
    return Asker.read(*came) if came is not None else None


def sent(conn: connection.Connection, page: http.Response) -> commands.SendData:
    """A page of HTTP/1, behind which the connection ends."""
    page.headers["Connection"] = "close"
    return commands.SendData(conn, http1.assemble_response(page))
