"""hsmitm.toml -> frozen objects. Every error names the field and says what would be right.

Parsed once, at the edge, by msgspec; inside nothing is checked again. Relative paths start from the file's directory.
"""

from __future__ import annotations

import difflib
import os
import pwd
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field

from hsm import uri
from hsm.certificates.issuer import BACKDATED, MAX_VALIDITY, LeafProfile
from hsm.errors import MisconfiguredError
from hsm.group.failover import Failover
from hsm.member.settings import MemberSettings
from hsm.secrets.pin import PinSource
from hsm.signer.signer import AuthoritySettings, SignerSettings
from hsm.signer.sites import InboundSettings
from hsm.signer.workers import MAX_WORKERS
from hsm.wire.endpoint import RunDirectory
from hsm.wire.member import Selector
from hsm.wire.worker import Authority
from proxy.config.inbound import InboundSection
from proxy.config.section import Address, Section, named

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,30}\Z")]
"""A member's name: ASCII, at most 31 characters."""

LogLevel = Literal["debug", "info", "warning", "error"]

_MAX_LEAF_DAYS = (MAX_VALIDITY - BACKDATED).days


class MemberSection(Section, frozen=True):
    """[[hsm.members]]"""

    name: Name
    module: str
    pin: PinSource
    token: Annotated[str, Meta(min_length=1)] | None = None
    serial: Annotated[str, Meta(min_length=1)] | None = None
    slot: Annotated[int, Meta(ge=0)] | None = None
    sessions: Annotated[int, Meta(ge=1, le=1024)] = 8
    environment: dict[str, str] = field(default_factory=dict)
    start_timeout_s: Annotated[float, Meta(ge=1, le=600)] = 20.0

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.token, self.serial, self.slot)) != 1:
            raise ValueError("name the partition by exactly one of token (its label), serial, slot")

    def may_be(self, key: uri.KeyURI) -> bool:
        """Whether this could be the partition that the URI names, as far as the configuration tells."""
        pairs = ((key.token, self.token), (key.serial, self.serial))
        return not any(named and ours and named.strip() != ours.strip() for named, ours in pairs)


class HsmSection(Section, frozen=True):
    """[hsm]"""

    members: Annotated[list[MemberSection], Meta(min_length=1, max_length=16)]
    high_availability: bool = False
    group: Name = "hsmitm"
    auto_recovery_retry: Annotated[int, Meta(ge=0, le=500)] = 0
    attempt_timeout_ms: Annotated[int, Meta(ge=50, le=60_000)] = 500
    request_budget_ms: Annotated[int, Meta(ge=100, le=60_000)] = 1500
    keep_alive_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    unavailable: str = "fail"

    def __post_init__(self) -> None:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError("two members have the same name")
        if self.high_availability and len(names) < 2:
            raise ValueError("high_availability: an HA group has at least two members; add one, or set it to false")
        if self.attempt_timeout_ms > self.request_budget_ms:
            raise ValueError(
                f"attempt_timeout_ms: {self.attempt_timeout_ms} is more than a whole request may take "
                f"(request_budget_ms: {self.request_budget_ms})"
            )
        if not re.fullmatch(r"fail|cached-only|queue:[0-9]{1,5}", self.unavailable):
            raise ValueError(f"unavailable: '{self.unavailable}' is none; use fail, cached-only or queue:MS")

    @property
    def queue_s(self) -> float:
        """How long a request waits for a member when none is in service, beyond its budget."""
        kind, _, milliseconds = self.unavailable.partition(":")
        return int(milliseconds) / 1000 if kind == "queue" else 0.0

    def holder(self, key: uri.KeyURI) -> str:
        """Without high availability: the one member whose partition holds `key`. Raises ValueError."""
        if len(self.members) == 1:
            return self.members[0].name  # if that is another partition, the member says so, with what it sees
        possible = [member.name for member in self.members if member.may_be(key)]
        if not possible:
            raise ValueError(f"no member has the partition that {key} names")
        if len(possible) > 1:
            raise ValueError(
                f"{key} could be on the partition of {' or '.join(possible)}; name the partition in the URI by token "
                "or serial, as the member does; or, if they hold the same key, set hsm.high_availability = true"
            )
        return possible[0]


class AuthoritySection(Section, frozen=True):
    """[forward.trust] and [forward.untrust]"""

    certificate: str
    key: str

    def __post_init__(self) -> None:
        named("key", uri.parse, self.key)


class ForwardSection(Section, frozen=True):
    """[forward]"""

    trust: AuthoritySection
    untrust: AuthoritySection
    leaf_days: Annotated[int, Meta(ge=1, le=_MAX_LEAF_DAYS)] = 30
    cache_entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000


class ProxySection(Section, frozen=True):
    """[proxy]"""

    listen: str = "127.0.0.1:8080"
    mode: str = "regular"
    workers: Annotated[int, Meta(ge=0, le=MAX_WORKERS)] = 0
    upstream_ca: str | None = None
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    client_handshake_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 30.0
    mint_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    handshake_threads: Annotated[int, Meta(ge=1, le=1024)] = 64
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0

    def __post_init__(self) -> None:
        named("listen", Address.parse, self.listen)
        if not re.fullmatch(r"regular|transparent|socks5|upstream:https?://.+", self.mode):
            raise ValueError(
                f"mode: '{self.mode}' is none; use regular, transparent, socks5 or upstream:http(s)://host:port"
            )


class StatusSection(Section, frozen=True):
    """[status]"""

    listen: str = "127.0.0.1:9797"

    def __post_init__(self) -> None:
        if self.listen:
            named("listen", Address.parse, self.listen)


class RunSection(Section, frozen=True):
    """[run]"""

    directory: str = "run"
    state: str = "state"
    group: str | None = None
    users: list[str] = field(default_factory=list)


class MitmproxySection(Section, frozen=True):
    """[mitmproxy]"""

    scripts: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


class LogSection(Section, frozen=True):
    """[log]"""

    level: LogLevel = "info"


class File(Section, frozen=True):
    """The whole file."""

    hsm: HsmSection
    forward: ForwardSection | None = None
    inbound: list[InboundSection] = field(default_factory=list)
    proxy: ProxySection = field(default_factory=ProxySection)
    status: StatusSection = field(default_factory=StatusSection)
    run: RunSection = field(default_factory=RunSection)
    mitmproxy: MitmproxySection = field(default_factory=MitmproxySection)
    log: LogSection = field(default_factory=LogSection)

    def __post_init__(self) -> None:
        if self.forward is None and not self.inbound:
            raise ValueError("there is nothing to do: configure [forward], [[inbound]] or both")
        if self.hsm.queue_s > self.proxy.mint_timeout_s:
            raise ValueError(
                f"hsm.unavailable: {self.hsm.unavailable} waits longer than proxy.mint_timeout_s "
                f"({self.proxy.mint_timeout_s:g} s) lets a client wait"
            )
        listening = ([self.proxy.listen] if self.forward else []) + [one.listen for one in self.inbound]
        taken = [Address.parse(one) for one in listening]
        for place, address in enumerate(taken):
            if address.port and address in taken[:place]:
                raise ValueError(f"inbound: two listeners have the address {address}")
        if not self.hsm.high_availability:
            self._check_holders()

    def _check_holders(self) -> None:
        for name, section in self.authorities.items():
            named(f"forward.{name}.key", lambda text: self.hsm.holder(uri.parse(text)), section.key)
        for number, listener in enumerate(self.inbound):
            for place, site in enumerate(listener.sites):
                for key in site.keys:
                    where = f"inbound[{number}].sites[{place}].key"
                    named(where, lambda text: self.hsm.holder(uri.parse(text)), key)

    @property
    def authorities(self) -> dict[Authority, AuthoritySection]:
        """Both CAs; none where there is no forward proxy."""
        return {"trust": self.forward.trust, "untrust": self.forward.untrust} if self.forward else {}


class Config(Struct, frozen=True):
    """A file that was read, with its path: what each process starts from."""

    path: Path
    file: File

    @property
    def base(self) -> Path:
        """The directory that relative paths start from."""
        return self.path.parent

    @property
    def listen(self) -> Address | None:
        """Where the forward proxy listens, if there is one."""
        return Address.parse(self.file.proxy.listen) if self.file.forward else None

    @property
    def inbound(self) -> list[Address]:
        """Where our own sites are served."""
        return [Address.parse(one.listen) for one in self.file.inbound]

    @property
    def status_listen(self) -> Address | None:
        """Where the status page listens, if it does."""
        return Address.parse(self.file.status.listen) if self.file.status.listen else None

    @property
    def workers(self) -> int:
        """How many workers: what is asked for, else one for each core we may use."""
        return self.file.proxy.workers or len(os.sched_getaffinity(0))

    @property
    def run(self) -> RunDirectory:
        """The directory of the sockets."""
        return RunDirectory(self.base / self.file.run.directory, self.file.run.group)

    @property
    def upstream_ca(self) -> Path | None:
        """Roots that upstream servers are verified with; None for Mozilla's (certifi)."""
        given = self.file.proxy.upstream_ca
        return self.base / given if given else None

    @property
    def secret_variables(self) -> set[str]:
        """Environment variables that hold a PIN: no worker gets them."""
        return {member.pin.env for member in self.file.hsm.members if member.pin.env} | {"CREDENTIALS_DIRECTORY"}

    def members(self) -> list[MemberSettings]:
        """The members, for the signer. Values of `environment` are taken as they stand."""
        return [
            MemberSettings(
                name=one.name,
                module=str(self.base / one.module) if "/" in one.module else one.module,
                selector=Selector(one.token, one.serial, one.slot),
                pin=one.pin,
                sessions=one.sessions,
                environment=one.environment,
                base=self.base,
                start_timeout_s=one.start_timeout_s,
            )
            for one in self.file.hsm.members
        ]

    def signer(self) -> SignerSettings:
        """What the signer needs. Raises MisconfiguredError for a user that does not exist."""
        hsm, sections = self.file.hsm, self.file.authorities
        keys = {name: uri.parse(section.key) for name, section in sections.items()}
        return SignerSettings(
            members=self.members(),
            authorities={
                name: AuthoritySettings(self.base / section.certificate, keys[name])
                for name, section in sections.items()
            },
            inbound=self.inbound_keys(),
            at_start=self._at_start(),
            for_workers=_text(self.file.inbound),
            profile=LeafProfile(days=self.file.forward.leaf_days) if self.file.forward else LeafProfile(),
            run=self.run,
            state=self.base / self.file.run.state,
            users=frozenset(_uid(user) for user in self.file.run.users),
            group=hsm.group if hsm.high_availability else "",
            holders={} if hsm.high_availability else {str(name): hsm.holder(key) for name, key in keys.items()},
            failover=Failover(
                auto_recovery_retry=hsm.auto_recovery_retry,
                attempt_timeout_s=hsm.attempt_timeout_ms / 1000,
                budget_s=hsm.request_budget_ms / 1000,
                keep_alive_s=hsm.keep_alive_s,
            ),
            unavailable=hsm.unavailable,
            outage_grace_s=hsm.queue_s,
        )

    def _at_start(self) -> dict[str, str]:
        """What is read once by processes other than the signer."""
        file = self.file
        listeners = [(one.listen, one.transparent) for one in file.inbound]
        cache = file.forward.cache_entries if file.forward else 0
        return {
            "[proxy]": _text(file.proxy),
            "[status]": _text(file.status),
            "[log]": _text(file.log),
            "[mitmproxy]": _text(file.mitmproxy),
            "[forward] cache_entries": _text(cache),
            "[[inbound]] listen or transparent": _text(listeners),
        }

    def inbound_keys(self) -> list[InboundSettings]:
        """The keys of our own sites, in the file's order: one for each certificate of each site of each listener."""
        found = self.file.hsm
        return [
            InboundSettings(
                site=site.names[0],
                certificate=self.base / certificate,
                key=key,
                decrypt=site.rsa_key_exchange,
                holder="" if found.high_availability else found.holder(key),
            )
            for listener in self.file.inbound
            for site in listener.sites
            for certificate, key in zip(site.certificates, map(uri.parse, site.keys), strict=True)
        ]


def _text(part: object) -> str:
    return msgspec.json.encode(part).decode()


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise MisconfiguredError(f"run.users: there is no user '{user}' on this machine") from None


def load(path: Path) -> Config:
    """Read and check `path`. Raises MisconfiguredError: the file, the field, what is wrong, what would be right."""
    path = path.absolute()
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise MisconfiguredError(f"there is no configuration at {path}; make one with 'hsmitm init'") from None
    except OSError as error:
        raise MisconfiguredError(f"cannot read {path}: {error.strerror}") from error
    return parse(raw, path)


def parse(raw: bytes, path: Path) -> Config:
    """The configuration that stands, or would stand, at the absolute `path`. Raises MisconfiguredError as `load`."""
    try:
        return Config(path, msgspec.toml.decode(raw, type=File))
    except msgspec.ValidationError as error:
        raise MisconfiguredError(f"{path.name}: {_explained(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{path.name} is not TOML: {error}") from None


def _explained(text: str) -> str:
    """msgspec's message with the field first, and the known fields where one is unknown."""
    message, _, where = text.partition(" - at `$")
    place = where.rstrip("`").lstrip(".")
    if unknown := re.search(r"unknown field `(.+)`", message):
        known = _fields(place)
        close = difflib.get_close_matches(unknown[1], known, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
        return f"{f'{place}.' if place else ''}{unknown[1]}: unknown field; {hint}"
    if missing := re.search(r"missing required field `(.+)`", message):
        return f"{f'{place}.' if place else ''}{missing[1]}: this field is required"
    if "regex" in message:
        message = "1 to 31 ASCII letters, digits, dots, underscores or hyphens, beginning with a letter or digit"
    if "enum value" in message:
        message += f"; one of {', '.join(_choices(place))}"
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message


def _choices(place: str) -> list[str]:
    """What may stand at `place`, the name of a field with a few choices."""
    table, _, name = re.sub(r"\[[^]]*\]", "", place).rpartition(".")
    kinds = [next(f.type for f in msgspec.structs.fields(_table(table)) if f.name == name)]
    for kind in kinds:
        if get_origin(kind) is Literal:
            return list(get_args(kind))
        kinds += get_args(kind)
    return []


def _fields(place: str) -> list[str]:
    """The fields of the table at `place` ("hsm.members[0]")."""
    return [f.name for f in msgspec.structs.fields(_table(place))]


def _table(place: str) -> type[Struct]:
    kind: Any = File
    for part in filter(None, re.sub(r"\[[^]]*\]", "", place).split(".")):
        kind = next(f.type for f in msgspec.structs.fields(kind) if f.name == part)
        while not (isinstance(kind, type) and issubclass(kind, Struct)):
            kind = next(
                (a for a in getattr(kind, "__args__", ()) if a is not type(None)), getattr(kind, "__origin__", None)
            )
    found: type[Struct] = kind
    return found
