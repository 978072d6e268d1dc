"""What the command line and the signer say to each other, on a socket for the signer's own user and root. No I/O."""

from __future__ import annotations

from typing import Literal, Self

from msgspec import Struct

from hsm.errors import BadNews
from hsm.unavailable import FAIL
from hsm.wire.frames import Codec, Done, Ready
from hsm.wire.member import Inspected, Partition


class Admit(Struct, frozen=True, array_like=True, tag="admit"):
    """The token that stands beside the socket, for the signer's user and root to read. First on each connection.
    -> `Done`."""

    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return "Admit()"


class Status(Struct, frozen=True, array_like=True, tag="status"):
    """Everything `hsmitm status` shows. -> `StatusReport`."""


class Info(Struct, frozen=True, array_like=True, tag="info"):
    """Everything `hsmitm hsm info` shows. -> `InfoReport`."""


class InfoReport(Struct, frozen=True, array_like=True, tag="info-report"):
    """For each member what its module tells, or why it does not."""

    modules: dict[str, Inspected]
    problems: dict[str, str]


class Reset(Struct, frozen=True, array_like=True, tag="reset"):
    """Build new sessions beside the old ones, move, drain: of one member, or of each in turn. -> `Told`."""

    member: str | None = None


class Reload(Struct, frozen=True, array_like=True, tag="reload"):
    """Read the configuration again and take over what can change at runtime. -> `Told`."""


class Told(Struct, frozen=True, array_like=True, tag="told"):
    """What was done, in lines for the operator. `failed` says of the worst of them whether it may get better by itself
    ("later") or not ("lasting"); it is empty where none tells of a failure."""

    lines: list[str]
    failed: Literal["", "later", "lasting"] = ""

    @classmethod
    def of(cls, lines: list[str]) -> Self:
        """`lines` may have `BadNews` among them."""
        bad = [line.lasting for line in lines if isinstance(line, BadNews)]
        return cls([str(line) for line in lines], "lasting" if any(bad) else "later" if bad else "")


class MemberStatus(Struct, frozen=True):
    """A member as `status` shows it. `partition` is None until the member was up once.

    `attempts` counts starts since it was last up, `next_attempt` is when the next one is due (0: none is). `last_error`
    is the last thing that went wrong, in words, at `last_error_at`; empty where nothing did. `keys` says for each key
    why this member does not serve it; empty where it does. `schemes` has of each key that it serves the signature
    schemes (names of `hsm.schemes`) that it makes, `lacking` those that it was asked for and does not make, and why.
    """

    name: str
    state: str
    since: float
    reason: str
    module: str
    module_version: str
    partition: Partition | None
    sessions_busy: int
    sessions_total: int
    starts: int
    pid: int = 0
    last_error: str = ""
    last_error_at: float = 0.0
    attempts: int = 0
    next_attempt: float = 0.0
    latency_ms: float = 0.0
    keys: dict[str, str] = {}
    schemes: dict[str, list[str]] = {}
    lacking: dict[str, dict[str, str]] = {}


class GroupStatus(Struct, frozen=True):
    """The members together. `name` is empty without high availability."""

    name: str = ""
    state: str = "unknown"
    since: float = 0.0
    high_availability: bool = False
    auto_recovery_retry: int = 0
    unavailable: str = FAIL
    waiting: int = 0


class WorkerStatus(Struct, frozen=True):
    """A worker that reports: its place among the workers, its process, and its open connections."""

    index: int
    pid: int
    started: float
    connections: int


class ListenerStatus(Struct, frozen=True):
    """A proxy address and how many workers accept on it."""

    address: str
    workers: int


class CertificateStatus(Struct, frozen=True):
    """A forward CA's certificate, whose `name` is "trust" or "untrust", or one of the inbound site `name`.

    `proved` names the members whose signature by its key was verified with the certificate's public key. `authority`
    stands for readers of `status --json` and for a command line of before: a CA's name, or "inbound " and the site's.
    `kind` is empty from a signer of before, which says `authority` alone. `refused`: it is a site's, no member can
    serve its key, and clients get an alert where the site has no other certificate.
    """

    authority: str
    subject: str
    not_after: float
    fingerprint_sha256: str
    key: str
    key_type: str
    proved: list[str]
    guarded: bool
    problems: dict[str, str]
    kind: Literal["forward", "inbound", ""] = ""
    name: str = ""
    refused: bool = False


class StatusReport(Struct, frozen=True, array_like=True, tag="status-report"):
    """The signer's whole state. Times are seconds since the epoch."""

    members: list[MemberStatus]
    workers: list[WorkerStatus]
    listeners: list[ListenerStatus]
    certificates: list[CertificateStatus]
    counters: dict[str, float]
    group: GroupStatus = GroupStatus()


Request = Admit | Status | Info | Reset | Reload | Ready
Reply = StatusReport | InfoReport | Told | Done

CODEC: Codec[Request, Reply] = Codec(Request, Reply)
