"""The whole of hsmitm.toml, read and checked (`File`), and what the signer and the supervisor start from (`Config`).

Parsed once, at the edge, by msgspec; inside nothing is checked again. Every error names the field and says what would
be right. Relative paths start from the file's directory.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct, field

from addons.policy.rules import Compiled
from addons.policy.settings import Profile
from hsm import uri, vendor_codes
from hsm.certificates.settings import LeafProfile
from hsm.effect import AtReload, AtStart, SaidElsewhere, marked
from hsm.errors import MisconfiguredError
from hsm.member.settings import MemberSettings
from hsm.signer.settings import AuthoritySettings, InboundSettings, SignerSettings
from hsm.wire.member import Selector
from hsm.wire.run_directory import RunDirectory, group_of
from hsm.wire.worker import Authority
from proxy.config import messages
from proxy.config.forward import AuthoritySection, ForwardSection, written
from proxy.config.hsm import HsmSection, user_type_number
from proxy.config.inbound import InboundSection
from proxy.config.operation import (
    DecryptionLogSection,
    LimitsSection,
    LogSection,
    MitmproxySection,
    ProxySection,
    RunSection,
    StatusSection,
)
from proxy.config.pages import PagesSection
from proxy.config.policy import TAKEN_OVER, PolicySection, UpstreamSection, taken
from proxy.config.section import Address, Section, named


class File(Section, frozen=True):
    """The whole file. A section says when a change of it takes effect, or its fields do (`hsm.effect`)."""

    hsm: Annotated[HsmSection, SaidElsewhere()]
    forward: ForwardSection | None = None
    inbound: list[InboundSection] = field(default_factory=list)
    proxy: Annotated[ProxySection, AtStart("[proxy]")] = field(default_factory=ProxySection)
    limits: Annotated[LimitsSection, AtStart("[limits]")] = field(default_factory=LimitsSection)
    status: Annotated[StatusSection, AtStart("[status]")] = field(default_factory=StatusSection)
    run: RunSection = field(default_factory=RunSection)
    mitmproxy: Annotated[MitmproxySection, AtStart("[mitmproxy]")] = field(default_factory=MitmproxySection)
    pages: Annotated[PagesSection, AtStart("[pages]")] = field(default_factory=PagesSection)
    log: Annotated[LogSection, AtStart("[log]")] = field(default_factory=LogSection)
    policy: Annotated[PolicySection, TAKEN_OVER] = field(default_factory=PolicySection)
    profiles: Annotated[dict[str, Profile], TAKEN_OVER] = field(default_factory=dict)
    upstream: UpstreamSection = field(default_factory=UpstreamSection)
    decryption_log: Annotated[DecryptionLogSection, AtStart("[decryption_log]")] = field(
        default_factory=DecryptionLogSection
    )

    def __post_init__(self) -> None:
        if self.forward is None and not self.inbound:
            raise ValueError("there is nothing to do: configure [forward], [[inbound]] or both")
        if self.hsm.queue_s > self.proxy.mint_timeout_s:
            raise ValueError(
                f"hsm.unavailable: {self.hsm.unavailable} waits longer than proxy.mint_timeout_s "
                f"({self.proxy.mint_timeout_s:g} s) lets a client wait"
            )
        listening = [Address.parse(one) for one in self._listeners]
        for place, address in enumerate(listening):
            if address.port and address in listening[:place]:
                raise ValueError(f"inbound: two listeners have the address {address}")
        for name in self.run.worker_environment:
            if name in self.secret_variables:
                raise ValueError(f"run.worker_environment: {name} leads to a PIN, which is not for workers")
        if not self.hsm.high_availability:
            self._check_holders()
        self.compiled()

    @property
    def _listeners(self) -> list[str]:
        return ([self.proxy.listen] if self.forward else []) + [one.listen for one in self.inbound]

    def compiled(self) -> Compiled:
        """The policy as it is decided by. Raises ValueError, but for a file that was read."""
        return taken(self.policy, self.profiles, self.upstream, self._listeners)

    def _check_holders(self) -> None:
        for name, section in self.authorities.items():
            named(f"forward.{written(name)}.key", lambda text: self.hsm.holder(uri.parse(text)), section.key)
        for number, listener in enumerate(self.inbound):
            for place, site in enumerate(listener.sites):
                for key in site.keys:
                    where = f"inbound[{number}].sites[{place}].key"
                    named(where, lambda text: self.hsm.holder(uri.parse(text)), key)

    @property
    def secret_variables(self) -> frozenset[str]:
        """Environment variables that lead to a PIN."""
        return frozenset({one.pin.env for one in self.hsm.members if one.pin.env} | {"CREDENTIALS_DIRECTORY"})

    @property
    def authorities(self) -> dict[Authority, AuthoritySection]:
        """The CAs; none where there is no forward proxy."""
        return self.forward.authorities if self.forward else {}


class Config(Struct, frozen=True):
    """A file that was read, with its path: what each process starts from.

    `workers_as` is the user whom the supervisor has given to workers; empty where it is our own.
    """

    path: Path
    file: File
    workers_as: str = ""

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
    def status_elsewhere(self) -> bool:
        """Whether the status page is another user's process, which we have no right to start."""
        user = self.file.status.user
        return user is not None and os.geteuid() != 0 and _uid("status.user", user) != os.geteuid()

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self.file.proxy.worker_count

    @property
    def run(self) -> RunDirectory:
        """The directory of the sockets."""
        group = self.file.run.group or (group_of(self.workers_as) if self.workers_as else None)
        return RunDirectory(self.base / self.file.run.directory, group)

    @property
    def upstream_ca(self) -> Path | None:
        """Roots that upstream servers are verified with; None for Mozilla's (certifi)."""
        given = self.file.proxy.upstream_ca
        return self.base / given if given else None

    @property
    def decryption_log(self) -> Path | None:
        """The file of the decryption log, where it has one."""
        return self.file.decryption_log.path(self.base)

    @property
    def secret_variables(self) -> frozenset[str]:
        """Environment variables that lead to a PIN: no worker gets them."""
        return self.file.secret_variables

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
                codes=dict(vendor_codes.row(code, word) for code, word in one.codes.items()),
                user_type=user_type_number(one.user_type),
                read_write=one.read_write,
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
            for_workers=self._for_workers(),
            profile=LeafProfile(days=self.file.forward.leaf_days) if self.file.forward else LeafProfile(),
            run=self.run,
            state=self.base / self.file.run.state,
            users=frozenset(_uid("run.users", one) for one in (*self.file.run.users, *filter(None, [self.workers_as]))),
            monitors=frozenset(_uid("status.user", one) for one in (self.file.status.user, self.workers_as) if one),
            group=hsm.group if hsm.high_availability else "",
            holders={} if hsm.high_availability else {str(name): hsm.holder(key) for name, key in keys.items()},
            failover=hsm.failover,
            unavailable=hsm.unavailable,
            outage_grace_s=hsm.queue_s,
            quotas=hsm.quotas,
        )

    def _at_start(self) -> dict[str, str]:
        """What processes other than the signer read once, by what the file calls it."""
        found: dict[str, list[object]] = {}
        for _, effect, value in marked(self.file):
            if isinstance(effect, AtStart):
                found.setdefault(effect.where, []).append(value)
        return {where: _text(values) for where, values in found.items()}

    def _for_workers(self) -> str:
        """What workers read again after a reload."""
        return _text([value for _, effect, value in marked(self.file) if isinstance(effect, AtReload)])

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


def _uid(field: str, user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise MisconfiguredError(f"{field}: there is no user '{user}' on this machine") from None


def load(path: Path, workers_as: str = "") -> Config:
    """Read and check `path`. Raises MisconfiguredError: the file, the field, what is wrong, what would be right."""
    path = path.absolute()
    return parse(messages.read(path), path, workers_as)


def parse(raw: bytes, path: Path, workers_as: str = "") -> Config:
    """The configuration that stands, or would stand, at the absolute `path`. Raises MisconfiguredError as `load`."""
    return Config(path, messages.decoded(raw, File, path.name), workers_as)
