"""All that is known of one client connection, in one object, filled by whoever learns it; no mitmproxy, no I/O.

The policy decides on it, the decryption log writes it down at the connection's end, and `hsmitm policy test` makes one
of what an operator asks. Where a connection has several servers in turn, the newest is told of.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from msgspec import Struct, field

Mode = Literal["explicit", "socks5", "transparent", "upstream", "inbound"]
Side = Literal["client", "server"]
Event = Literal["decrypted", "bypassed", "blocked", "failed", "plain", "passed"]
Lookup = Literal["hit", "joined", "miss"]
Missing = Literal["hello", "addresses", "proof"]
"""What a decision may wait for: the ClientHello, the host's addresses, whether the destination is the SNI's."""
ErrorClass = Literal[
    "client-distrusts-ca",
    "client-closed",
    "no-common-version",
    "no-common-cipher",
    "no-common-group",
    "ech-required",
    "server-expired",
    "server-untrusted",
    "server-incomplete-chain",
    "server-name",
    "server-self-signed",
    "server-revoked",
    "server-weak-key",
    "status-unknown",
    "status-timeout",
    "server-wants-client-certificate",
    "sni-mismatch",
    "host-mismatch",
    "hsm-unavailable",
    "hsm-busy",
    "no-resources",
    "not-tls",
    "malformed-hello",
    "oversized-hello",
    "connect-failed",
    "dns-failed",
    "blocked-by-policy",
    "blocked-destination",
    "too-slow",
    "internal",
]
"""The closed list: every failure is one of these."""


class CertificateFacts(Struct, frozen=True):
    """A server's certificate: its names as RFC 4514 writes them, its end (RFC 3339, UTC), SHA-256 of its DER (hex)."""

    subject: str
    issuer: str
    not_after: str
    sha256: str


class Verification(Struct, frozen=True):
    """What OpenSSL said of a server's chain: X509_V_* as `code` (0 is good), at which depth, in words."""

    code: int
    depth: int
    words: str


class Leg(Struct):
    """One side's TLS, as negotiated; empty while it is not. `bytes_in` and `bytes_out` are what came from that peer and
    went to it, on the wire's side of TLS."""

    version: str = ""
    cipher: str = ""
    group: str = ""
    alpn: str = ""
    resumed: bool | None = None
    certificate: CertificateFacts | None = None
    verification: Verification | None = None
    bytes_in: int = 0
    bytes_out: int = 0


class Failure(Struct, frozen=True):
    """Why a connection came to nothing. `alert` is the TLS alert in RFC 8446's words, "" where there was none."""

    kind: ErrorClass
    side: Side
    text: str
    alert: str = ""


class Decision(Struct, frozen=True):
    """What becomes of a connection. `rule` is the name of the rule that matched, "default" where none did; `profile`
    names what is demanded of the server; `reason` says in a sentence why, for log and page. `settled`: no fact that is
    still to come can change it; where it is not, this is what becomes of the connection if none of that ever comes, and
    `missing` names what to learn next. `categories` are those of the name that was judged; `log` and `hsm_unavailable`
    are the rule's; `error` is the class of a block that is no rule's. `enforced` is False where the policy warns and no
    more: then this is what would have happened."""

    rule: str
    action: Literal["decrypt", "bypass", "block"]
    profile: str = "default"
    reason: str = ""
    settled: bool = True
    missing: tuple[Missing, ...] = ()
    categories: tuple[str, ...] = ()
    log: Literal["all", "failures", "none"] = "all"
    """Of which connections of this rule there is a record in the decryption log."""
    hsm_unavailable: Literal["fail", "bypass", "cached-only"] | None = None
    error: ErrorClass | Literal[""] = ""
    enforced: bool = True

    @property
    def acts(self) -> Literal["decrypt", "bypass", "block"]:
        """What is done: everything is decrypted where the policy only warns."""
        return self.action if self.enforced else "decrypt"


_NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


class Facts(Struct, kw_only=True):
    """One client connection. Strings are "" and numbers 0 where nothing is known.

    `began` is in seconds since the epoch, `began_monotonic` on CLOCK_MONOTONIC. `at` is the time that rules are asked
    for, with a zone: when the connection began, unless its maker says otherwise. `host` is what the client asked the
    proxy for (CONNECT, SOCKS5, a plain request's URL): a name as A-labels or an address, "" in transparent mode and at
    our own sites. `destination` is the resolved address that was connected to, or is to be; `addresses` all of them,
    None while nobody has looked, empty where there are none. `sni_proved`: the destination is one that our own
    resolver gives for `sni`, or it has shown a certificate for it, or it was chosen by `sni` (our own sites' servers);
    None while nobody has looked. `hello`: the ClientHello has been read, so `sni`, `ja4`, `alpn`, `groups` and `ech`
    say what the client has, even where that is nothing.
    """

    id: str
    began: float
    began_monotonic: float
    at: dt.datetime = _NEVER
    sequence: int = 0
    """Which of its worker's connections it is, from 1: what is missing in the log is one that the worker died with."""
    listener: str = ""
    mode: Mode = "explicit"
    client_ip: str = ""
    client_port: int = 0
    user: str = ""
    user_groups: tuple[str, ...] = ()

    host: str = ""
    port: int = 0
    destination: str = ""
    addresses: tuple[str, ...] | None = None
    plain: bool = False

    hello: bool = False
    sni: str = ""
    sni_proved: bool | None = None
    ja4: str = ""
    alpn: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    """Of the client's key exchange, as IANA numbers them (supported_groups, RFC 8446 section 4.2.7)."""
    ech: bool = False
    pq_downgrade: bool = False
    """The client offered a hybrid group (with ML-KEM), and the server's leg is classic."""

    decision: Decision | None = None
    decided: bool = False
    """The decision holds: all that could change it has come."""
    policy: Any = None
    """The policy that decides on it until its end, whatever is reloaded meanwhile; no part of its record."""
    policy_version: str = ""
    categories: tuple[str, ...] = ()
    event: Event = "failed"
    failure: Failure | None = None
    client_leg: Leg = field(default_factory=Leg)
    server_leg: Leg = field(default_factory=Leg)
    requests: int = 0
    served: bool = False
    """A server's answer has gone to the client: what fails after that does not undo it."""

    authority: str = ""
    leaf_names: tuple[str, ...] = ()
    """What the client was shown a certificate for; no part of its record."""
    leaf_serial: str = ""
    leaf_cache: Lookup | Literal[""] = ""
    member: str = ""
    sign_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.at is _NEVER:
            self.at = dt.datetime.fromtimestamp(self.began, dt.UTC)

    def fail(self, kind: ErrorClass, side: Side, text: str, alert: str = "") -> None:
        """Note why it came to nothing. The first reason is the cause; what follows from it is not noted."""
        if self.failure is None:
            self.failure = Failure(kind, side, str(text), alert)  # an error that knows its page is no plain str

    @property
    def name(self) -> str:
        """Whom the client wants, as far as is known: the SNI, else what it asked the proxy for, else an address."""
        return self.sni or self.host or self.destination
