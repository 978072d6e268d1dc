"""What the signer needs to know: types without services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from hsm.certificates.settings import LeafProfile
from hsm.effect import AtReload, AtStart, EachAtStart
from hsm.member.settings import Failover, MemberSettings
from hsm.unavailable import FAIL
from hsm.uri import KeyURI
from hsm.wire.run_directory import RunDirectory
from hsm.wire.worker import Authority


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


class Quotas(Struct, frozen=True, kw_only=True):
    """What each worker's process may have in a second, and ten times as much at once; it is told to try later beyond.

    A worker accepts some 250 new TLS connections a second on a core, most of them for names that it knows, so 200 new
    leaves a second are more than it can use: one that was taken over asked for 29,069 names a second. RSA key exchange
    is for clients that can nothing else; an attack on it needs tens of thousands of answers and more.
    """

    mints_per_s: Annotated[float, Meta(ge=1, le=100_000)] = 200.0
    decryptions_per_s: Annotated[float, Meta(ge=1, le=100_000)] = 50.0


class SignerSettings(Struct, frozen=True, kw_only=True):
    """All that the signer needs to know. Each field says when a change takes effect; a reload goes by that alone.

    `users` are uids of workers beside our own, `monitors` that of the status page; `state` remembers refused PINs.
    `group` is the HA group's name, empty where each key is one member's: then `holders` says whose. `unavailable` is
    what workers do while no member is in service, and `outage_grace_s` how long a request waits for one then.
    `authorities` is empty where there is inbound inspection alone. `at_start` and `for_workers` are no business of
    the signer: parts of the configuration as text, by what it calls them, so that a reload can tell what becomes of a
    change there.
    """

    members: Annotated[list[MemberSettings], Meta(min_length=1, max_length=16), AtReload("[[hsm.members]]")]
    inbound: Annotated[list[InboundSettings], AtReload("[[inbound]]")] = field(default_factory=list)
    failover: Annotated[Failover, AtReload("[hsm]")] = field(default_factory=Failover)
    unavailable: Annotated[str, AtReload("[hsm] unavailable")] = FAIL
    outage_grace_s: Annotated[float, AtReload("[hsm] unavailable")] = 0.0
    quotas: Annotated[Quotas, AtReload("[hsm] mints_per_s or decryptions_per_s")] = field(default_factory=Quotas)
    for_workers: Annotated[str, AtReload("[[inbound]]")] = ""
    group: Annotated[str, AtStart("[hsm] high_availability or group")] = ""
    authorities: Annotated[dict[Authority, AuthoritySettings], AtStart("[forward.trust] or [forward.untrust]")]
    holders: Annotated[dict[str, str], AtStart("[forward.trust] or [forward.untrust]")] = field(default_factory=dict)
    profile: Annotated[LeafProfile, AtStart("[forward] leaf_days")]
    run: Annotated[RunDirectory, AtStart("[run]")]
    state: Annotated[Path, AtStart("[run]")]
    users: Annotated[frozenset[int], AtStart("[run]")] = frozenset()
    monitors: Annotated[frozenset[int], AtStart("[status]")] = frozenset()
    at_start: Annotated[dict[str, str], EachAtStart()] = field(default_factory=dict)
