"""What a worker and the signer say to each other: all that a worker that is taken over can say. No I/O, no clock."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from hsm.wire.frames import Codec, Decrypted, Done, Ready

MAX_WORKERS = 256
"""Worker indices go up to this; for each one that is gone a last report is kept."""


MAX_STAPLE = 65536
"""Bytes of an OCSP response that is kept. Responses have 300 bytes to 3 KiB."""


Authority = Literal["trust", "untrust", "trust-2", "untrust-2"]
"""A forward CA. The second of a kind has a key of the other sort: one is RSA, one EC."""


class Mint(Struct, frozen=True, array_like=True, tag="mint"):
    """A leaf for `names` (A-labels, one left-most wildcard, or IP addresses) and a worker's public key (DER SPKI)."""

    authority: Authority
    names: list[str]
    spki: bytes


class Minted(Struct, frozen=True, array_like=True, tag="minted"):
    """A leaf (DER) and its validity in seconds since the epoch; which member signed it, and how long that took. A
    signer of the version before does not say."""

    certificate: bytes
    not_before: float
    not_after: float
    member: str = ""
    sign_ms: float = 0.0


class Authorities(Struct, frozen=True, array_like=True, tag="authorities"):
    """Which CAs sign. -> `Chains`. `several`: the worker knows that there may be two of a kind; one of before does not,
    and is told of the first ones alone."""

    several: bool = False


class Chains(Struct, frozen=True, array_like=True, tag="chains"):
    """For each CA its certificate (DER) and those of its issuers, in that order."""

    chains: dict[Authority, list[bytes]]


class InboundKeys(Struct, frozen=True, array_like=True, tag="inbound-keys"):
    """Which inbound keys are there? -> `InboundTerms`."""


class InboundTerms(Struct, frozen=True, array_like=True, tag="inbound-terms"):
    """For each inbound key (by `hsm.certificates.files.inbound_name`) the schemes (names of `hsm.schemes`) that it may
    be asked for; the ticket key of all workers (64 bytes); and the numbers `terms` and `configuration` that this is the
    state of (see `Reported`). `keeps_staples`: the signer knows `FindStaple` and `KeepStaple`; one that does not would
    end the connection."""

    keys: dict[str, list[str]]
    ticket_key: bytes
    terms: int
    configuration: int | None = None
    keeps_staples: bool = False

    def __repr__(self) -> str:
        """Without the ticket key."""
        return f"InboundTerms({self.keys}, terms {self.terms}, configuration {self.configuration})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without the ticket key."""
        return [("terms", self.terms), ("configuration", self.configuration)]

    @property
    def of_configuration(self) -> int:
        """`configuration`, also where a signer of the version before tells."""
        return self.terms if self.configuration is None else self.configuration


class TlsSign(Struct, frozen=True, array_like=True, tag="tls-sign"):
    """A handshake's signature by an inbound key, of a digest of the scheme's size. -> `TlsSigned`."""

    key: str
    scheme: str
    digest: bytes


class TlsSigned(Struct, frozen=True, array_like=True, tag="tls-signed"):
    """The signature as TLS carries it (ECDSA in DER), and whose it is, as in `Minted`."""

    signature: bytes
    member: str = ""
    sign_ms: float = 0.0


class TlsDecrypt(Struct, frozen=True, array_like=True, tag="tls-decrypt"):
    """A premaster secret of TLS 1.2 under an inbound key whose site turns on RSA key exchange. -> `Decrypted`, always
    with 48 bytes: made up where there is no such secret (RFC 5246 section 7.4.7.1)."""

    key: str
    ciphertext: bytes


class FindStaple(Struct, frozen=True, array_like=True, tag="find-staple"):
    """The OCSP response of a site's certificate (SHA-256 of its DER), or the turn to fetch it. -> `StapleFound`.

    `seen` is the SHA-256 of the response that the worker last looked at, which is not sent again; empty for none. A
    responder that another worker has asked within `within_s` seconds need not be asked again. Without `fetches` the
    worker only looks: it gets no turn.
    """

    certificate: bytes
    seen: bytes
    within_s: float
    fetches: bool = True


class StapleFound(Struct, frozen=True, array_like=True, tag="staple-found"):
    """A response that a worker handed in (DER, if that worker was not taken over: verify it), or empty; and whose turn
    it is to fetch: "yours", "other": ask again in a moment, "tried": another one has just asked, and has nothing new.
    """

    response: bytes
    turn: Literal["kept", "yours", "other", "tried"]


class KeepStaple(Struct, frozen=True, array_like=True, tag="keep-staple"):
    """A response that the worker fetched and verified (DER, up to MAX_STAPLE), for the others; empty where it got none:
    its turn is over. -> `Done`."""

    certificate: bytes
    response: bytes


class Report(Struct, frozen=True, array_like=True, tag="report"):
    """What a worker tells of itself, each second. -> `Reported`.

    `metrics` is `hsm.wire.telemetry.collect`'s: of them those are taken that `hsm.wire.measures` lists. `full`: it
    turns clients away for want of room. Every length is bounded, and a frame that exceeds one ends the connection.
    """

    pid: int
    index: int
    started: Annotated[float, Meta(ge=0, le=1e11)]
    listeners: Annotated[list[Annotated[str, Meta(pattern=r"^[!-~]{1,80}\Z")]], Meta(max_length=256)]
    connections: Annotated[int, Meta(ge=0, le=10_000_000)]
    metrics: Annotated[list[Family], Meta(max_length=128)]
    full: bool = False


class Reported(Struct, frozen=True, array_like=True, tag="reported"):
    """The answer to a report: whether each CA's key is served by a member, and what to do where it is not
    (`hsm.unavailable`); and two numbers, which say by being others than before that something has changed.

    `configuration` moves with each reload and for no other reason, over restarts of the signer, too: files are read
    again. `terms` moves with the ticket key, with the schemes of keys, with a restarted signer, and with a reload: ask
    `InboundKeys` and apply the answer to what is loaded.

    In the version before there was one number, the generation, in the place of `terms`. A worker of then finds in it
    what it expects, a number that moves with everything. A signer of then tells no `configuration`, and a worker of now
    takes the one number for both (`of_configuration`), as it was meant.
    """

    in_service: bool
    unavailable: str
    terms: int = 0
    configuration: int | None = None

    @property
    def of_configuration(self) -> int:
        """`configuration`, also where a signer of the version before tells."""
        return self.terms if self.configuration is None else self.configuration


_Text = Annotated[str, Meta(max_length=256)]


class Family(Struct, frozen=True, array_like=True):
    """One metric with its samples (name, labels, value), as in Prometheus' text format."""

    name: _Text
    kind: _Text
    help: _Text
    samples: Annotated[
        list[tuple[_Text, Annotated[dict[_Text, _Text], Meta(max_length=4)], float]], Meta(max_length=8192)
    ]


Request = Mint | Authorities | InboundKeys | TlsSign | TlsDecrypt | FindStaple | KeepStaple | Ready | Report
Reply = Minted | Chains | InboundTerms | TlsSigned | Decrypted | StapleFound | Done | Reported

CODEC: Codec[Request, Reply] = Codec(Request, Reply)
