"""Frames between processes: four bytes of length (big endian), then one msgpack value. No I/O, no clock.

Both directions of a connection carry the same two envelopes, `Call` and `Answer`. A deadline is absolute on
CLOCK_MONOTONIC, which all processes of one host share, so it travels without conversion.
msgspec decodes straight into the types below and refuses what it does not know: nothing is checked again inside.
Fields may be added at the end, with a default: processes of two versions may meet while one is restarted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from hsm.errors import HsmitmError
from hsm.uri import KeyURI

MAX_FRAME = 1 << 20
"""Bytes. A mint is below 16 KiB; a telemetry report of a busy worker below 64 KiB."""

KeyType = Literal["rsa-2048", "rsa-3072", "rsa-4096", "p256", "p384"]
Authority = Literal["trust", "untrust"]


# --- signer -> member -------------------------------------------------------------------------------------------------


class Selector(Struct, frozen=True, array_like=True):
    """Which partition of a module: exactly one of label, serial number or slot id."""

    label: str | None = None
    serial: str | None = None
    slot: int | None = None

    def __str__(self) -> str:
        if self.label is not None:
            return f"label '{self.label}'"
        return f"serial '{self.serial}'" if self.serial is not None else f"slot {self.slot}"


class Open(Struct, frozen=True, array_like=True, tag="open"):
    """The first call to a member: load, find the partition, log in once, open sessions, find the keys.

    `pin` is None for looking only (no login, no sessions). `writable` allows `Generate`. Answered with `Opened`.
    `spkis` (DER, by key) has a key that the URI does not find looked for by its public half. Idle sessions prove
    themselves alive each `keep_alive_s` seconds (0: never). `session_every_s` opens the sessions behind the first one
    after another at that pace (0: all at once): an HSM that just came back is not met by a herd.
    """

    module: str
    selector: Selector
    pin: str | None
    sessions: int
    keys: dict[str, KeyURI]
    writable: bool = False
    spkis: dict[str, bytes] = {}
    keep_alive_s: float = 0.0
    session_every_s: float = 0.0

    def __repr__(self) -> str:
        """Without the PIN: a repr may reach a log."""
        return f"Open({self.module}, {self.selector})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """msgspec makes one of every field otherwise, for rich's tracebacks."""
        return [("module", self.module)]


class KeyFound(Struct, frozen=True, array_like=True, tag="key-found"):
    """A private key on a partition. `problem` says why it cannot be used; empty when it can.

    `spki` is DER (RFC 5280 SubjectPublicKeyInfo), empty where the token keeps no public half. `schemes` are names of
    `hsm.schemes`. `guarded` is CKA_SENSITIVE and CKA_NEVER_EXTRACTABLE. `decrypts` says whether the partition
    lets an RSA key decrypt with CKM_RSA_PKCS.
    """

    problem: str = ""
    spki: bytes = b""
    schemes: list[str] = []
    guarded: bool = False
    missing: bool = False
    decrypts: bool = False


class Partition(Struct, frozen=True, array_like=True):
    """What a token says of itself (CK_TOKEN_INFO). `max_sessions` is None where it names no limit."""

    label: str
    serial: str
    slot: int
    manufacturer: str
    model: str
    firmware: str
    flags: list[str]
    max_sessions: int | None

    def __str__(self) -> str:
        return f"'{self.label}' (serial {self.serial}, slot {self.slot})"


def worrying_flags(partition: Partition) -> list[str]:
    """Flags that say something about the PIN's tries: count low, final try, locked, to be changed (CK_TOKEN_INFO)."""
    return [flag for flag in partition.flags if flag.startswith("USER_PIN_") and flag != "USER_PIN_INITIALIZED"]


class Opened(Struct, frozen=True, array_like=True, tag="opened"):
    """What a member found."""

    module: str
    module_version: str
    partition: Partition
    sessions: int
    keys: dict[str, KeyFound]


class Sign(Struct, frozen=True, array_like=True, tag="sign"):
    """Sign `digest` (of the scheme's size); `message` is there when the caller has it, for tokens that hash themselves.

    Answered with `Signature`.
    """

    key: str
    scheme: str
    digest: bytes
    message: bytes | None = None


class Signature(Struct, frozen=True, array_like=True, tag="signature"):
    """A signature as TLS and X.509 carry it (ECDSA in DER), and where the time went, in seconds."""

    signature: bytes
    queued_s: float
    executed_s: float


class Decrypt(Struct, frozen=True, array_like=True, tag="decrypt"):
    """Decrypt `ciphertext` (as long as the RSA key's modulus) with CKM_RSA_PKCS. -> `Decrypted`."""

    key: str
    ciphertext: bytes


class Decrypted(Struct, frozen=True, array_like=True, tag="decrypted"):
    """The plaintext; empty where the padding was wrong, so that a wrong one looks like a right one for as long as
    possible (RFC 5246 section 7.4.7.1)."""

    plaintext: bytes


class Initialise(Struct, frozen=True, array_like=True, tag="initialise"):
    """Make a new token with this label and PINs in the module's first free slot. For SoftHSM, at `init`. -> `Done`."""

    module: str
    label: str
    so_pin: str
    pin: str

    def __repr__(self) -> str:
        """Without the PINs."""
        return f"Initialise({self.module}, {self.label})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without the PINs."""
        return [("module", self.module)]


class Generate(Struct, frozen=True, array_like=True, tag="generate"):
    """Make a key pair on the partition: token objects, private half sensitive and never extractable. -> `KeyFound`."""

    label: str
    key_type: KeyType


class Ping(Struct, frozen=True, array_like=True, tag="ping"):
    """Is the process answering, and how are its sessions? -> `Vital`."""


class Vital(Struct, frozen=True, array_like=True, tag="vital"):
    """The age of the oldest call into the module that has not returned (seconds, 0: none), sessions that serve, calls
    that wait for one, and sessions that were replaced so far."""

    oldest_s: float
    sessions: int
    queued: int
    replaced: int


class Describe(Struct, frozen=True, array_like=True, tag="describe"):
    """Look for the keys again. -> `KeysFound`."""


class KeysFound(Struct, frozen=True, array_like=True, tag="keys-found"):
    """Every key of the configuration as the partition holds it now."""

    keys: dict[str, KeyFound]


class Inspect(Struct, frozen=True, array_like=True, tag="inspect"):
    """Tell of every slot of the module. -> `Inspected`."""


class Slot(Struct, frozen=True, array_like=True):
    """A slot with what its token reports (CK_TOKEN_INFO); numbers that it does not tell are None. Memory in bytes."""

    partition: Partition
    mechanisms: list[str]
    sessions: int | None
    rw_sessions: int | None
    max_rw_sessions: int | None
    free_public_memory: int | None
    total_public_memory: int | None
    free_private_memory: int | None
    total_private_memory: int | None
    hardware: str


class Inspected(Struct, frozen=True, array_like=True, tag="inspected"):
    """A module and its slots."""

    module: str
    module_version: str
    slots: list[Slot]


class Done(Struct, frozen=True, array_like=True, tag="done"):
    """Nothing to say but that it was done."""


# --- worker -> signer -------------------------------------------------------------------------------------------------


class Mint(Struct, frozen=True, array_like=True, tag="mint"):
    """A leaf for `names` (A-labels, one left-most wildcard, or IP addresses) and a worker's public key (DER SPKI)."""

    authority: Authority
    names: list[str]
    spki: bytes


class Minted(Struct, frozen=True, array_like=True, tag="minted"):
    """A leaf (DER) and its validity in seconds since the epoch."""

    certificate: bytes
    not_before: float
    not_after: float


class Authorities(Struct, frozen=True, array_like=True, tag="authorities"):
    """Which CAs sign. -> `Chains`."""


class Chains(Struct, frozen=True, array_like=True, tag="chains"):
    """For each CA its certificate (DER) and those of its issuers, in that order."""

    chains: dict[Authority, list[bytes]]


class InboundKeys(Struct, frozen=True, array_like=True, tag="inbound-keys"):
    """Which inbound keys are there? -> `InboundTerms`."""


class InboundTerms(Struct, frozen=True, array_like=True, tag="inbound-terms"):
    """For each inbound key (by `hsm.member.key.inbound_name`) the schemes (names of `hsm.schemes`) that it may be asked
    for; the ticket key of all workers (64 bytes); and the `generation` that they belong to (see `Reported`)."""

    keys: dict[str, list[str]]
    ticket_key: bytes
    generation: int

    def __repr__(self) -> str:
        """Without the ticket key."""
        return f"InboundTerms({self.keys}, generation {self.generation})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without the ticket key."""
        return [("generation", self.generation)]


class TlsSign(Struct, frozen=True, array_like=True, tag="tls-sign"):
    """A handshake's signature by an inbound key, of a digest of the scheme's size. -> `TlsSigned`."""

    key: str
    scheme: str
    digest: bytes


class TlsSigned(Struct, frozen=True, array_like=True, tag="tls-signed"):
    """The signature as TLS carries it (ECDSA in DER)."""

    signature: bytes


class TlsDecrypt(Struct, frozen=True, array_like=True, tag="tls-decrypt"):
    """A premaster secret under an inbound key whose site turns on RSA key exchange. -> `Decrypted`."""

    key: str
    ciphertext: bytes


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """Can a mint succeed now? -> `Done`, or a fault that says why not."""


class Report(Struct, frozen=True, array_like=True, tag="report"):
    """What a worker tells of itself, each second. `metrics` is `hsm.wire.telemetry.collect`'s. -> `Reported`."""

    pid: int
    index: int
    started: float
    listeners: list[str]
    connections: int
    metrics: list[Family]


class Reported(Struct, frozen=True, array_like=True, tag="reported"):
    """The answer to a report: whether each CA's key is served by a member, and what to do where it is not
    (`hsm.unavailable`). A `generation` other than before: configuration, inbound keys or ticket key have changed."""

    in_service: bool
    unavailable: str
    generation: int = 0


class Family(Struct, frozen=True, array_like=True):
    """One metric with its samples (name, labels, value), as in Prometheus' text format."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]]


# --- command line -> signer -------------------------------------------------------------------------------------------


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
    """What was done, in lines for the operator."""

    lines: list[str]


class MemberStatus(Struct, frozen=True):
    """A member as `status` shows it. `partition` is None until the member was up once.

    `attempts` counts starts since it was last up, `next_attempt` is when the next one is due (0: none is). `last_error`
    is the last thing that went wrong, in words, at `last_error_at`; empty where nothing did. `keys` says for each key
    why this member does not serve it; empty where it does.
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


class GroupStatus(Struct, frozen=True):
    """The members together. `name` is empty without high availability."""

    name: str = ""
    state: str = "unknown"
    since: float = 0.0
    high_availability: bool = False
    auto_recovery_retry: int = 0
    unavailable: str = "fail"
    waiting: int = 0


class WorkerStatus(Struct, frozen=True):
    """A connected worker."""

    index: int
    pid: int
    started: float
    connections: int


class ListenerStatus(Struct, frozen=True):
    """A proxy address and how many workers accept on it."""

    address: str
    workers: int


class CertificateStatus(Struct, frozen=True):
    """A CA's certificate, or an inbound site's: then `authority` is "inbound " and the site's name. `proved` names the
    members whose signature by its key was verified with the certificate's public key."""

    authority: str
    subject: str
    not_after: float
    fingerprint_sha256: str
    key: str
    key_type: str
    proved: list[str]
    guarded: bool
    problems: dict[str, str]


class StatusReport(Struct, frozen=True, array_like=True, tag="status-report"):
    """The signer's whole state. Times are seconds since the epoch."""

    members: list[MemberStatus]
    workers: list[WorkerStatus]
    listeners: list[ListenerStatus]
    certificates: list[CertificateStatus]
    counters: dict[str, float]
    group: GroupStatus = GroupStatus()


# --- envelopes --------------------------------------------------------------------------------------------------------

Request = (
    Open
    | Sign
    | Decrypt
    | Initialise
    | Generate
    | Ping
    | Describe
    | Inspect
    | Mint
    | Authorities
    | InboundKeys
    | TlsSign
    | TlsDecrypt
    | Ready
    | Report
    | Status
    | Info
    | Reset
    | Reload
)
Reply = (
    Opened
    | Signature
    | Decrypted
    | KeyFound
    | KeysFound
    | Vital
    | Inspected
    | Done
    | Minted
    | Chains
    | InboundTerms
    | TlsSigned
    | Reported
    | StatusReport
    | InfoReport
    | Told
)


class Call(Struct, frozen=True, tag="call", tag_field="t"):
    """A request. `deadline` is seconds on CLOCK_MONOTONIC; an answer after it is of no use."""

    id: int
    deadline: float
    body: Request


class Cancel(Struct, frozen=True, tag="cancel", tag_field="t"):
    """Nobody waits any more for the answer to the call of that id. There is no answer to this."""

    id: int


class Answer(Struct, frozen=True, tag="answer", tag_field="t"):
    """The reply to the call of the same id."""

    id: int
    body: Reply


class Fault(Struct, frozen=True, tag="fault", tag_field="t"):
    """The call failed: a class name of `hsm.errors`, its message, and the PKCS#11 return code behind it or 0."""

    id: int
    kind: str
    message: str
    code: int = 0


def fault(call_id: int, error: HsmitmError) -> Fault:
    """`error` as the answer to a call."""
    return Fault(call_id, type(error).__name__, str(error), error.code)


Frame = Call | Cancel | Answer | Fault

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """`frame` as bytes with its length in front. Raises ValueError above MAX_FRAME."""
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes; at most {MAX_FRAME} are sent")
    return len(body).to_bytes(4) + body


class Framer:
    """Bytes in, whole frames out. Feed it whatever a socket gives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises ValueError for what is not a frame: end the connection then."""
        self._buffer += data
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4])
            if end - 4 > MAX_FRAME:
                raise ValueError(f"a frame of {end - 4} bytes; at most {MAX_FRAME} are accepted")
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[4:end])
            del self._buffer[:end]
            try:
                yield _decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise ValueError(f"not a frame of ours: {error}") from error
