"""What attackers are aimed at, and what they saw. Types without services."""

from __future__ import annotations

from msgspec import Struct, field

NAME = "evil.edge.test"
"""The attackers' own server: it leads to this machine, and has a certificate that verifies."""
SILENT = "silent.edge.test"
"""Nobody answers questions for names below it."""
MADE_UP = "hsmitm_made_up"
"""How metrics begin that a worker that is taken over makes up."""
CLIENT_A, CLIENT_B = "rsa-2048.example.com", "p256.example.com"
"""Our own sites: the first demands a certificate of its clients, the second none."""


class Target(Struct, frozen=True, kw_only=True):
    """Where everything is. Addresses are "host:port"; `passing` is a proxy that lets through what is
    neither TLS nor HTTP; `worker_ids` are user, group and further
    groups of a worker; `source` is the attackers' own, which is not that of the client
    that does nothing wrong. `certificate` and `key` (PEM files) are of *.edge.test, `client_certificate` and
    `client_key` of a client of the first site. `h2_port` is that of an HTTP/2 server, `tls_port` that of an HTTP/1.1
    server. At `inbound_h2` the second site leads to the HTTP/2 server, and the first to the attacker's `own_port`."""

    seconds: float
    proxy: str
    socks: str
    passing: str
    inbound: str
    inbound_h2: str
    own_port: int
    status: str
    worker_socket: str
    worker_ids: list[int]
    ca: str
    origin_ca: str
    certificate: str
    key: str
    client_certificate: str
    client_key: str
    tls_port: int
    h2_port: int
    source: str = "127.9.9.9"


class Seen(Struct):
    """What an attacker saw: outcomes with their counts; variants that `passed` though they had to be refused or looked
    into; variants of what is right that `broke`; and megabytes that it could send."""

    outcomes: dict[str, int] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    broke: list[str] = field(default_factory=list)
    sent_mb: float = 0.0
