"""What a client is told of a connection that is blocked or failed: one sentence for each kind, and no other. Pure.

What a server, the network or the HSM said stays in the log: it may name members, modules, partitions, paths, and
addresses that are nobody's business outside. A page has the kind's sentence, with the host that the client itself asked
for, and an id by which the rest is found.
"""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

from addons.records.facts import ErrorClass

HttpKind = Literal[
    "malformed-request",
    "malformed-name",
    "no-host",
    "oversized-head",
    "oversized-request",
    "not-supported",
    "too-many-names",
    "too-many-lookups",
    "server-unproven",
    "malformed-response",
    "oversized-response",
    "not-begun",
]
"""What else ends a request, but no connection: the decryption log's classes are those of connections."""
Kind = ErrorClass | HttpKind
KINDS: tuple[Kind, ...] = (*get_args(ErrorClass), *get_args(HttpKind))


class Saying(Struct, frozen=True):
    """What is said. `status` is HTTP's (RFC 9110 section 15); `{host}` in `text` is what the client asked for."""

    status: int
    text: str


_UNPROVEN = "no TLS with {host}, which must prove who it is"
_UNINSPECTED = "{host} cannot be inspected now, and it is not let through"

SAYINGS: dict[Kind, Saying] = {
    # the policy
    "blocked-by-policy": Saying(403, "{host} is blocked by the policy of this network"),
    "blocked-destination": Saying(
        403,
        "{host} is not reached through this proxy: its address is denied (deny_destinations); whoever runs the proxy "
        "can make an exception for address and port: [proxy] allow_destinations",
    ),
    "sni-mismatch": Saying(403, "{host} was asked for under two different names, and it is not let through"),
    "host-mismatch": Saying(421, "this connection is for {host}; ask for another site on a connection of its own"),
    "ech-required": Saying(403, "{host} is asked for in a way that cannot be inspected (Encrypted Client Hello)"),
    # the server
    "server-unproven": Saying(502, _UNPROVEN),
    "server-expired": Saying(502, f"{_UNPROVEN}: its certificate has expired, or is not valid yet"),
    "server-untrusted": Saying(502, f"{_UNPROVEN}: nobody who is trusted here vouches for its certificate"),
    "server-incomplete-chain": Saying(502, f"{_UNPROVEN}: it leaves out a certificate between its own and the root"),
    "server-name": Saying(502, f"{_UNPROVEN}: its certificate is for another name"),
    "server-self-signed": Saying(502, f"{_UNPROVEN}: nobody but itself vouches for its certificate"),
    "server-revoked": Saying(502, f"{_UNPROVEN}: its certificate has been revoked"),
    "server-weak-key": Saying(502, f"{_UNPROVEN}: its certificate has a key or a signature that is too weak"),
    "status-unknown": Saying(502, f"{_UNPROVEN}: it is not known whether its certificate was revoked"),
    "status-timeout": Saying(502, f"{_UNPROVEN}: nobody says in time whether its certificate was revoked"),
    "server-wants-client-certificate": Saying(502, "{host} wants a client certificate, and got none that it takes"),
    "no-common-version": Saying(502, "no TLS with {host}: it speaks no version in common with this proxy"),
    "no-common-cipher": Saying(502, "no TLS with {host}: it has no cipher suite in common with this proxy"),
    "no-common-group": Saying(502, "no TLS with {host}: it has no group in common with this proxy"),
    "connect-failed": Saying(502, "{host} cannot be connected to, or its connection broke"),
    "dns-failed": Saying(502, "{host} was not found: no address is known for this name"),
    "malformed-response": Saying(502, "{host} gave an answer that cannot be passed on"),
    "oversized-response": Saying(502, "{host} gave an answer that is too large to be passed on"),
    "not-begun": Saying(502, "{host} has refused this request before it began with it; it may be sent again"),
    "too-slow": Saying(504, "{host} did not answer in time"),
    "too-many-lookups": Saying(502, "{host} was not looked up: this client asks for too many names at a time"),
    # the HSM, and this machine
    "hsm-unavailable": Saying(502, f"{_UNINSPECTED}: the keys for that are out of reach"),
    "hsm-busy": Saying(502, f"{_UNINSPECTED}: the keys for that are busy; try again soon"),
    "no-resources": Saying(503, "there is no room for a connection to {host} now; try again soon"),
    "internal": Saying(502, "the connection to {host} failed in this proxy, whose log says why"),
    # the client
    "too-many-names": Saying(429, "{host} is not inspected now: this client asks for too many new names"),
    "malformed-name": Saying(400, "{host} is a name that no certificate can carry"),
    "malformed-request": Saying(400, "this request is not one that HTTP knows, or could be read in two ways"),
    "no-host": Saying(400, "this request does not say for which host it is"),
    "oversized-head": Saying(431, "this request's head is too large"),
    "oversized-request": Saying(413, "this request is too large to be passed on"),
    "not-supported": Saying(501, "this proxy does not do what is asked of it"),
    "not-tls": Saying(502, "{host} does not speak TLS, and what is neither TLS nor HTTP is not let through"),
    "malformed-hello": Saying(400, "the TLS connection to {host} does not begin as one does"),
    "oversized-hello": Saying(400, "the TLS connection to {host} begins with too large a message"),
    "client-distrusts-ca": Saying(502, "the client does not trust the authority that this proxy signs with"),
    "client-closed": Saying(502, "the client has closed its connection to {host}"),
}
"""The closed set."""


EXPLAINED: frozenset[Kind] = frozenset({"malformed-request", "malformed-name", "oversized-head"})
"""Where a client is told more: what our own parser says of the bytes that the client itself has sent."""


def said(kind: Kind, host: str, detail: str = "") -> str:
    """The sentence of `kind` about `host`; without one it is about "the server"."""
    text = SAYINGS[kind].text.replace("{host}", host or "the server")
    return f"{text}: {detail}" if detail and kind in EXPLAINED else f"{text}."
