"""What the signer needs to know: types without services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from hsm.certificates.settings import LeafProfile
from hsm.member.settings import Failover, MemberSettings
from hsm.unavailable import FAIL
from hsm.uri import KeyURI
from hsm.wire.run_directory import RunDirectory
from hsm.wire.worker import (
    Authority,
)


class InboundSettings(Struct, frozen=True):
    """A site: a name for messages, its certificate (PEM, the leaf first), and its key on the partition.

    `decrypt` turns on RSA key exchange. `holder` is the member that holds the key; empty where any may (an HA group).
    """

    site: str
    certificate: Path
    key: KeyURI
    decrypt: bool = False
    holder: str = ""


class AuthoritySettings(Struct, frozen=True):
    """A CA: a PEM file (the CA first, then its issuers) and its key."""

    certificate: Path
    key: KeyURI


class SignerSettings(Struct, frozen=True, kw_only=True):
    """All that the signer needs to know. `users` are uids of workers beside our own; `state` remembers refused PINs.

    `group` is the HA group's name, empty where each key is one member's: then `holders` says whose. `unavailable` is
    what workers do while no member is in service, and `outage_grace_s` how long a request waits for one then.
    `authorities` is empty where there is inbound inspection alone. `at_start` and `for_workers` are no business of the
    signer: parts of the configuration by name, as text, so that `reload` can tell what became of a change there.
    """

    members: Annotated[list[MemberSettings], Meta(min_length=1, max_length=16)]
    authorities: dict[Authority, AuthoritySettings]
    profile: LeafProfile
    run: RunDirectory
    state: Path
    users: frozenset[int] = frozenset()
    group: str = ""
    holders: dict[str, str] = field(default_factory=dict)
    failover: Failover = field(default_factory=Failover)
    unavailable: str = FAIL
    outage_grace_s: float = 0.0
    inbound: list[InboundSettings] = field(default_factory=list)
    at_start: dict[str, str] = field(default_factory=dict)
    for_workers: str = ""
