"""A line of the decryption log: one JSON object for one client connection (`translation` makes it of facts).

Names are those of the Elastic Common Schema (ECS 8) where it has them; what is ours stands under "hsmitm". `schema()`
is the JSON Schema (draft 2020-12) that ships beside this file. Of the client's leg are `tls`, `source.bytes` (what came
from the client), `destination.bytes` (what went to it) and `network.bytes` (both); `hsmitm.upstream` has the server's.
What is not known is left out. A line has MAX_BYTES at most with its end, whatever a peer put into it, so that one
write puts it into a pipe whole (pipe(7), PIPE_BUF). No I/O but for reading the schema.
"""

from __future__ import annotations

import datetime
import select
from importlib import resources
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct, field

from addons.records.facts import ErrorClass, Event, Lookup, Mode, Side

MAX_BYTES = select.PIPE_BUF
_CUT = (256, 96, 48)
"""Characters of a text, tried in turn, where a line would be too long."""
_NEVER_CUT = frozenset(("@timestamp", "ecs", "event", "source", "sha256", "ja4", "mode", "class"))


class _Part(Struct, omit_defaults=True, kw_only=True, gc=False):
    """A part of a record; others may have more fields than we know."""


class Ecs(_Part):
    """The schema that names are of."""

    version: str = ""


class EventPart(_Part, kw_only=True):
    """What became of it, when, and which one it was."""

    action: Event
    id: str
    duration: int
    """Nanoseconds."""
    start: datetime.datetime
    outcome: Literal["success", "failure"]
    sequence: int = 0
    kind: str = ""
    category: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    dataset: str = ""


class Source(_Part, kw_only=True):
    """The client, and what came from it."""

    ip: str = ""
    port: int = 0
    bytes: int


class User(_Part):
    """Whose connection it was."""

    name: str = ""


class Destination(_Part, kw_only=True):
    """The server, and what went to the client."""

    address: str = ""
    ip: str = ""
    port: int = 0
    bytes: int


class Network(_Part, kw_only=True):
    """Both directions of the client's leg."""

    bytes: int
    transport: str = ""


class Hash(_Part):
    """A fingerprint in lower-case hex."""

    sha256: str = ""


class ServerCertificate(_Part):
    """As the leg's client was shown it."""

    subject: str = ""
    issuer: str = ""
    not_after: str = ""
    hash: Hash = field(default_factory=Hash)


class TlsClient(_Part):
    """What the client asked for."""

    server_name: str = ""
    ja4: str = ""


class Tls(_Part):
    """A leg's TLS as it was negotiated."""

    version: str = ""
    version_protocol: str = ""
    cipher: str = ""
    curve: str = ""
    next_protocol: str = ""
    resumed: bool | None = None
    client: TlsClient | None = None
    server: ServerCertificate | None = None


class Directions(_Part):
    """Bytes from the peer and to it."""

    in_: int = field(name="in", default=0)
    out: int = 0


class Upstream(_Part):
    """The leg to the server."""

    tls: Tls | None = None
    bytes: Directions | None = None
    pq_downgrade: bool = False


class Client(_Part):
    """More of the ClientHello."""

    hello: bool = False
    alpn: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    ech: bool = False


class Leaf(_Part):
    """The certificate that was minted for it."""

    serial: str = ""
    cache: Lookup | Literal[""] = ""


class Hsm(_Part):
    """The signature that this connection waited for."""

    member: str = ""
    sign_ms: float = 0.0


class Verify(_Part):
    """What OpenSSL said of the server's chain."""

    result: str = ""
    code: int = -1
    depth: int = -1


class Error(_Part, kw_only=True):
    """Why it came to nothing."""

    class_: ErrorClass = field(name="class")
    side: Side
    alert: str = ""
    text: str = ""


class Ours(_Part, kw_only=True):
    """What ECS has no names for."""

    listener: str = ""
    mode: Mode
    worker: int = 0
    host: str = ""
    plain: bool = False
    addresses: tuple[str, ...] | None = None
    sni_proved: bool | None = None
    groups: tuple[str, ...] = ()
    """Of the user."""
    rule: str = ""
    action: str = ""
    profile: str = ""
    reason: str = ""
    enforced: bool = True
    decided: datetime.datetime | None = None
    """For which time rules were asked, where that is in another minute than the connection's beginning."""
    categories: tuple[str, ...] = ()
    policy_version: str = ""
    requests: int = 0
    client: Client | None = None
    upstream: Upstream | None = None
    authority: str = ""
    leaf: Leaf | None = None
    hsm: Hsm | None = None
    verify: Verify | None = None
    error: Error | None = None


class Record(_Part, kw_only=True):
    """One line of the log."""

    timestamp: datetime.datetime = field(name="@timestamp")
    ecs: Ecs = field(default_factory=Ecs)
    event: EventPart
    source: Source
    user: User | None = None
    destination: Destination
    network: Network
    tls: Tls | None = None
    hsmitm: Ours


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def line(made: Record) -> bytes:
    """`made` as a line of the log with its end."""
    try:
        whole = _encoder.encode(made)
    except UnicodeEncodeError:  # a lone surrogate, which no JSON has
        whole = b""
    return whole + b"\n" if 0 < len(whole) < MAX_BYTES else _bounded(made)


def _bounded(made: Record) -> bytes:
    whole = b""
    for most in _CUT:
        whole = _encoder.encode(_cut(msgspec.to_builtins(made, builtin_types=(datetime.datetime,)), most))
        if len(whole) < MAX_BYTES:
            return whole + b"\n"
    short = Ours(mode=made.hsmitm.mode, listener=made.hsmitm.listener[: _CUT[-1]], error=made.hsmitm.error)
    where = Destination(ip=made.destination.ip, port=made.destination.port, bytes=made.destination.bytes)
    bare = Record(
        timestamp=made.timestamp, ecs=made.ecs, event=made.event, source=made.source, destination=where,
        network=made.network, hsmitm=short,
    )  # fmt: skip
    return _encoder.encode(_cut(msgspec.to_builtins(bare, builtin_types=(datetime.datetime,)), _CUT[-1])) + b"\n"


def _cut(value: Any, most: int) -> Any:
    """`value` with texts of at most so many characters, and lists of an eighth of that."""
    if isinstance(value, dict):
        return {key: one if key in _NEVER_CUT else _cut(one, most) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(one, most) for one in value[: most // 8]]
    if isinstance(value, str):
        text = value if len(value) <= most else value[: most - 3] + "..."
        return text.encode(errors="replace").decode()
    return value


def read(text: bytes | str) -> Record:
    """A line of the log. Raises msgspec.DecodeError (ValidationError among them) for what is none."""
    return _decoder.decode(text)


def schema() -> dict[str, Any]:
    """The JSON Schema that every line keeps to."""
    text = resources.files("addons.records").joinpath("decryption_log.schema.json").read_bytes()
    return cast(dict[str, Any], msgspec.json.decode(text))
