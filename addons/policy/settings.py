"""The decryption policy as an operator writes it: rules in order, profiles, exceptions. Types without services.

`[policy]`, `[profiles.NAME]` and `[[upstream.accept]]` of hsmitm.toml have these names. A field that is not in a table
is an error.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
NAME_WORDS = "a name has letters, digits, '.', '_' and '-', at most 63, and begins with a letter or digit"
Action = Literal["decrypt", "bypass", "block"]
Fault = Literal["block", "untrusted", "allow"]
"""What becomes of a server's fault: an error page, a leaf of the untrust CA, or nothing."""
Probe = Literal["before", "beside", "off"]
OnOutage = Literal["fail", "bypass", "cached-only"]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class From(_Table, frozen=True):
    """Whose connections: networks in CIDR, users and groups by name."""

    networks: tuple[str, ...] = ()
    except_networks: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class Suffix(_Table, frozen=True):
    """Everything below a public suffix, meant as such: `{ suffix = ".com" }`."""

    suffix: str


class To(_Table, frozen=True):
    """Where to. "example.com" is that name, ".example.com" it and everything below. `everything` says that a bypass of
    all is meant."""

    domains: tuple[str | Suffix, ...] = ()
    categories: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    ports: tuple[int | str, ...] = ()
    everything: bool = False


class Client(_Table, frozen=True):
    """What the ClientHello looks like: its JA4 fingerprints, a protocol of its ALPN."""

    ja4: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()


class When(_Table, frozen=True):
    """At which times: "mon-fri" or "sat,sun", "07:00-19:00" (over midnight, too), in a zone of the IANA database."""

    days: str = ""
    hours: str = ""
    zone: str = "UTC"


class Rule(_Table, frozen=True, rename={"from_": "from"}):
    """One rule; the first that matches decides. `from`, `to`, `client` and `when` are and-ed, and so are the lists in
    them; within a list entries are or-ed. Users and groups are one list (who it is), domains and categories are one
    (what it is called). What is empty holds for all."""

    name: Annotated[str, Meta(pattern=NAME, description=NAME_WORDS)]
    action: Action
    expires: datetime.date | None = None
    from_: From = field(default_factory=From)
    to: To = field(default_factory=To)
    client: Client = field(default_factory=Client)
    when: When | None = None
    listener: str = ""
    profile: str = "default"
    hsm_unavailable: OnOutage | None = None
    log: Literal["all", "failures", "none"] = "all"


class Profile(_Table, frozen=True):
    """What is demanded of a server, and what becomes of each fault. Its defaults are the built-in profile "default"."""

    expired: Fault = "block"
    untrusted: Fault = "untrusted"
    self_signed: Fault = "untrusted"
    name_mismatch: Fault = "untrusted"
    revoked: Fault = "block"
    status_unknown: Fault = "allow"
    status_timeout: Fault = "allow"
    incomplete_chain: Literal["fetch", "block", "untrusted", "allow"] = "fetch"
    weak_key: Fault = "untrusted"
    min_rsa: Annotated[int, Meta(ge=1024, le=8192)] = 2048
    versions: str = "1.2-1.3"
    suites: str | list[str] = "modern"
    client_certificate: str = "block"
    sni_mismatch: Literal["block", "decrypt"] = "block"
    host_mismatch: Literal["block", "allow"] = "block"
    pq_downgrade: Literal["log", "block"] = "log"
    ech: Literal["decrypt", "block"] = "decrypt"

    @property
    def status_wait_s(self) -> float | None:
        """How long a connection may wait to know whether its server's certificates are revoked; None: nobody asks.

        Where the lack of an answer changes nothing, long enough for most responders and no longer; else as long as
        PAN-OS waits.
        """
        if self.revoked == self.status_unknown == self.status_timeout == "allow":
            return None
        return 1.0 if self.status_unknown == self.status_timeout == "allow" else 5.0


_SPKI = "the SHA-256 of a public key (SubjectPublicKeyInfo) is 64 hexadecimal digits in lower case"


class Accept(_Table, frozen=True):
    """One host's broken certificate, accepted by its public key until a day, for a reason, and still inspected."""

    host: str
    spki_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description=_SPKI)]
    reason: Annotated[str, Meta(min_length=1, max_length=200)]
    expires: datetime.date


class ClientCertificate(_Table, frozen=True):
    """A certificate of ours, for servers of whose profile `client_certificate` is "present:" and this name: files in
    PEM, the certificate with those of its CAs behind it; without a `key` that is in the same file."""

    name: Annotated[str, Meta(pattern=NAME, description=NAME_WORDS)]
    certificate: Annotated[str, Meta(min_length=1)]
    key: str | None = None


class Policy(_Table, frozen=True):
    """The whole of it. `default` is what no rule matches, but at our own sites, which are decrypted then; "warn"
    decrypts as if there were no rules and tells what would have happened. `categories` are lists of domains by their
    names."""

    default: Action = "decrypt"
    mode: Literal["enforce", "warn"] = "enforce"
    no_sni: Literal["decrypt", "block"] = "decrypt"
    probe: Probe = "before"
    categories: dict[str, tuple[str | Suffix, ...]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
