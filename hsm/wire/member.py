"""What the signer and a member process say to each other. The PIN travels here, and nowhere else. No I/O, no clock."""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

from hsm.codes import Kind
from hsm.uri import KeyURI
from hsm.wire.frames import Codec, Decrypted, Done

KeyType = Literal["rsa-2048", "rsa-3072", "rsa-4096", "p256", "p384"]
KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)


class Selector(Struct, frozen=True, array_like=True):
    """Which partition of a module: exactly one of label, serial number or slot id."""

    label: str | None = None
    serial: str | None = None
    slot: int | None = None

    def __str__(self) -> str:
        if self.label is not None:
            return f"label '{self.label}'"
        return f"serial '{self.serial}'" if self.serial is not None else f"slot {self.slot}"


USER = 1
"""CKU_USER (PKCS#11 v3.0 section 3.4): the user type of a login, where a vendor has no other."""


class Open(Struct, frozen=True, array_like=True, tag="open"):
    """The first call to a member: load the module, find the partition, see that it gives sessions. -> `Opened`, without
    sessions and keys. `LogIn` comes next, or `Begin` where nobody logs in; a caller that only looks leaves it at that.

    With a `pin`, one that was accepted before, all is done at once: log in once, open sessions, find the keys.
    `writable` opens sessions read-write, as `Generate` needs and as some tokens want it.
    `spkis` (DER, by key) are public halves: of several keys that a URI fits they tell the right one. The keys named in
    `anywhere` (None: all) are looked for by their public half where the URI does not find them. Idle sessions prove
    themselves alive each `keep_alive_s` seconds (0: never). `session_every_s` opens the sessions behind the first one
    after another at that pace (0: all at once): an HSM that just came back is not met by a herd.
    `codes` is what the operator says that vendors' own return codes call for.
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
    codes: dict[int, Kind] = {}
    user_type: int = USER
    anywhere: list[str] | None = None

    def __repr__(self) -> str:
        """Without the PIN: a repr may reach a log."""
        return f"Open({self.module}, {self.selector})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """msgspec makes one of every field otherwise, for rich's tracebacks."""
        return [("module", self.module)]


class LogIn(Struct, frozen=True, array_like=True, tag="log-in"):
    """Log in to the partition that `Open` found: one C_Login, and `Done` as soon as the token has accepted it.

    `pin` is None where it is typed at the HSM's own PIN pad (CKF_PROTECTED_AUTHENTICATION_PATH): C_Login with NULL,
    which answers when somebody has. A PinRefusedError or LoginError is the token's answer to C_Login; any other error
    comes before it was called.
    """

    pin: str | None

    def __repr__(self) -> str:
        """Without the PIN."""
        return "LogIn()"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without the PIN."""
        return []


class Begin(Struct, frozen=True, array_like=True, tag="begin"):
    """Open the sessions that `Open` asked for, and find its keys. -> `Opened`."""


class KeyFound(Struct, frozen=True, array_like=True, tag="key-found"):
    """A private key on a partition. `problem` says why it cannot be used; empty when it can.

    `spki` is DER (RFC 5280 SubjectPublicKeyInfo), empty where the token keeps no public half. `schemes` are names of
    `hsm.schemes`. `guarded` is CKA_SENSITIVE and CKA_NEVER_EXTRACTABLE. `decrypts` says whether the partition
    lets an RSA key decrypt with CKM_RSA_PKCS. `exposure` says what is not guarded, and whether the key can leave now.
    `hearsay` is whether `spki` is what another object says: one with the label and CKA_ID of this key. `uri` is how the
    token calls a key that was just made, where that is not as it was told.
    """

    problem: str = ""
    spki: bytes = b""
    schemes: list[str] = []
    guarded: bool = False
    missing: bool = False
    decrypts: bool = False
    exposure: str = ""
    hearsay: bool = False
    uri: KeyURI | None = None


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


def counts_wrong_pin(partition: Partition) -> bool:
    """Whether the token says that a wrong PIN was given since the last good one (CKF_USER_PIN_COUNT_LOW)."""
    return not DANGEROUS.isdisjoint(partition.flags)


DANGEROUS = frozenset({"USER_PIN_COUNT_LOW", "USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"})
"""Flags of CK_TOKEN_INFO (PKCS#11 v3.0 section 3.2) that a wrong PIN leaves behind."""


def worrying_flags(partition: Partition) -> list[str]:
    """Flags that say something about the PIN's tries: count low, final try, locked, to be changed (CK_TOKEN_INFO)."""
    return [flag for flag in partition.flags if flag.startswith("USER_PIN_") and flag != "USER_PIN_INITIALIZED"]


class Opened(Struct, frozen=True, array_like=True, tag="opened"):
    """What a member found. `makes` are the key types that the partition can make and sign with."""

    module: str
    module_version: str
    partition: Partition
    sessions: int
    keys: dict[str, KeyFound]
    makes: list[KeyType] = []


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
    """How the sessions are. Times are in seconds.

    `oldest_s` is the age of the oldest call into the module that has not returned though its time is up (0: none), and
    `overtaken` how many calls that came later than that one were answered. `silent_s` is for how long calls have been
    in the module and none has returned. `sessions` serve, `queued` calls wait for one, and `replaced` so far were lost.
    """

    oldest_s: float
    sessions: int
    queued: int
    replaced: int
    overtaken: int = 0
    silent_s: float = 0.0


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
    """A module and its slots. `problems` says of a slot why it tells nothing."""

    module: str
    module_version: str
    slots: list[Slot]
    problems: dict[int, str] = {}


Request = Open | LogIn | Begin | Sign | Decrypt | Initialise | Generate | Ping | Describe | Inspect
Reply = Opened | Signature | Decrypted | KeyFound | KeysFound | Vital | Inspected | Done

CODEC: Codec[Request, Reply] = Codec(Request, Reply)
