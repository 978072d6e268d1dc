"""What `hsmitm explain` has found: the keys of `--json`. A part that is not known has a `problem`, in a sentence."""

from __future__ import annotations

from msgspec import Struct


class Question(Struct, frozen=True):
    """Which connection is asked about. `host` is a name as A-labels, or an address; `client` an address, or "" for
    anybody's."""

    host: str
    port: int = 443
    client: str = ""
    user: str = ""


class Missed(Struct, frozen=True):
    """A rule that stands before the one that decides, and why it does not match."""

    rule: str
    field: str
    why: str


class PolicyPart(Struct, frozen=True):
    """What becomes of the connection. `exclusions` are sentences about what keeps it from inspection, or a fault of its
    server from being one."""

    action: str = ""
    rule: str = ""
    profile: str = ""
    reason: str = ""
    mode: str = "enforce"
    missed: tuple[Missed, ...] = ()
    exclusions: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    denied: str = ""
    problem: str = ""


class Connection(Struct, frozen=True):
    """One of the past. `at` is its end, RFC 3339; `kind`, `side` and `text` say why it came to nothing."""

    at: str
    id: str
    client: str
    action: str
    rule: str
    kind: str = ""
    side: str = ""
    text: str = ""
    authority: str = ""
    leaf_serial: str = ""
    leaf_cache: str = ""
    member: str = ""


class PastPart(Struct, frozen=True):
    """The newest connections first. `whole`: the log was read to its beginning."""

    log: str = ""
    connections: tuple[Connection, ...] = ()
    whole: bool = True
    problem: str = ""


class ServerPart(Struct, frozen=True):
    """The server as it is seen from here, now. `outcome` is what the policy makes of it: trust, untrust or block. The
    proxy may know more (`note`): it fetches certificates that a server leaves out, and asks whether one is revoked."""

    address: str = ""
    version: str = ""
    subject: str = ""
    issuer: str = ""
    not_before: str = ""
    not_after: str = ""
    sha256: str = ""
    wrong: tuple[str, ...] = ()
    outcome: str = ""
    kind: str = ""
    note: str = ""
    problem: str = ""


class HsmPart(Struct, frozen=True):
    """What the signer says: which members are in service, and of the others why they are not."""

    running: bool = False
    state: str = ""
    in_service: tuple[str, ...] = ()
    away: dict[str, str] = {}
    unavailable: str = ""
    problem: str = ""


class Report(Struct, frozen=True):
    """All of it, with the answer in one sentence."""

    question: Question
    short: str
    policy: PolicyPart
    past: PastPart
    server: ServerPart
    hsm: HsmPart
