"""hsmitm.toml as a worker reads it: what the data path needs, and nothing of members, PINs or keys.

The supervisor and `hsmitm check` validate the whole file (`proxy/config/file.py`), whose sections know the signer's
settings. A worker loads none of those: here every other table is passed over, whatever it says. What is wrong in a
worker's part is said in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from addons.edge.settings import Bounds
from addons.inbound.settings import HandshakeSettings, ListenerSettings
from addons.policy.rules import Compiled
from addons.policy.settings import Profile
from addons.upstream.settings import Own
from hsm.errors import MisconfiguredError
from hsm.wire.run_directory import WORKER_SOCKET, RunDirectory
from proxy.config import messages
from proxy.config.forward import ForwardSection
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
from proxy.config.policy import PolicySection, UpstreamSection, taken
from proxy.config.section import Address


class _Part(Struct, frozen=True, kw_only=True):
    """Tables of the file; others may stand beside them."""

    forward: ForwardSection | None = None
    inbound: list[InboundSection] = field(default_factory=list)
    proxy: ProxySection = field(default_factory=ProxySection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    status: StatusSection = field(default_factory=StatusSection)
    run: RunSection = field(default_factory=RunSection)
    mitmproxy: MitmproxySection = field(default_factory=MitmproxySection)
    pages: PagesSection = field(default_factory=PagesSection)
    log: LogSection = field(default_factory=LogSection)
    decryption_log: DecryptionLogSection = field(default_factory=DecryptionLogSection)
    policy: PolicySection = field(default_factory=PolicySection)
    profiles: dict[str, Profile] = field(default_factory=dict)
    upstream: UpstreamSection = field(default_factory=UpstreamSection)

    def compiled(self) -> Compiled:
        """The policy as it is decided by. Raises ValueError."""
        forward = [self.proxy.listen] if self.forward else []
        return taken(self.policy, self.profiles, self.upstream, forward + [one.listen for one in self.inbound])


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """What a worker starts from.

    `cache_entries` is None where there is no forward proxy. `inbound` are the listeners of our own sites, in the file's
    order. `status_listen` is where the status page is: no client must reach it through us. `upstream_ca` are the roots
    that servers are verified with; None for Mozilla's (certifi). `policy` decides what becomes of each connection.
    `certificates` are ours, for servers that ask for one.
    """

    path: Path
    proxy: ProxySection
    limits: Bounds
    mitmproxy: MitmproxySection
    pages: PagesSection
    log: LogSection
    decryption_log: DecryptionLogSection
    run: RunDirectory
    upstream_ca: Path | None
    cache_entries: int | None
    inbound: tuple[ListenerSettings, ...]
    policy: Compiled
    certificates: Mapping[str, Own]
    status_listen: Address | None = None

    @property
    def base(self) -> Path:
        """The directory that relative paths start from."""
        return self.path.parent

    @property
    def signer(self) -> Path:
        """The signer's socket. Raises MisconfiguredError where no address can hold its path."""
        return self.run.socket(WORKER_SOCKET)

    @property
    def handshakes(self) -> HandshakeSettings:
        """Of handshakes with clients of our own sites."""
        return HandshakeSettings(
            threads=self.proxy.handshake_threads,
            handshake_s=self.proxy.client_handshake_timeout_s,
            signature_s=self.proxy.mint_timeout_s,
            bounds=self.limits,
        )


def load(path: Path) -> WorkerConfig:
    """Read a worker's part of `path`. Raises MisconfiguredError as `proxy.config.file.load`."""
    path = path.absolute()
    raw = messages.read(path)
    part, base = messages.decoded(raw, _Part, path.name), path.parent
    return WorkerConfig(
        path=path,
        proxy=part.proxy,
        limits=part.limits,
        mitmproxy=part.mitmproxy,
        pages=part.pages,
        log=part.log,
        decryption_log=part.decryption_log,
        run=RunDirectory(base / part.run.directory, part.run.group),
        upstream_ca=base / part.proxy.upstream_ca if part.proxy.upstream_ca else None,
        cache_entries=part.forward.cache_entries if part.forward else None,
        inbound=tuple(one.settings(base) for one in part.inbound),
        policy=policy_in(raw, path),
        certificates=part.upstream.own(base),
        status_listen=Address.parse(part.status.listen) if part.status.listen else None,
    )


def policy_in(raw: bytes, path: Path) -> Compiled:
    """The policy of the file's text, `raw`: it takes a while where there are a thousand rules. Raises
    MisconfiguredError as `load`."""
    part = messages.decoded(raw, _Part, path.name)
    try:
        return part.compiled()
    except ValueError as error:
        raise MisconfiguredError(f"{path.name}: {error}") from None


def listeners(path: Path) -> tuple[ListenerSettings, ...]:
    """The listeners of our own sites as `path` has them now. Raises MisconfiguredError as `load`."""
    part = messages.decoded(messages.read(path), _Part, path.name)
    return tuple(one.settings(path.parent) for one in part.inbound)
