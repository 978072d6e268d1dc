"""[proxy], [limits], [status], [run], [mitmproxy] and [log] of hsmitm.toml: how hsmitm runs.

Their defaults and bounds are owned here: what they are about has no settings of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from addons.edge.connecting.destinations import DENIED, Exemption, check_denied
from addons.edge.settings import Bounds, NotTls
from addons.edge.streaming import Streamed, by_default
from addons.tls.protocol import Suites, suites
from hsm.effect import AtStart, SaidElsewhere
from hsm.wire.worker import MAX_WORKERS
from proxy.config.section import Address, Section, named

_RUN = AtStart("[run]")

LogLevel = Literal["debug", "info", "warning", "error"]


class ProxySection(Section, frozen=True):
    """[proxy]: where and how workers serve, and how long things may take; `workers` 0 is one for each core."""

    listen: str = "127.0.0.1:8080"
    mode: str = "regular"
    workers: Annotated[int, Meta(ge=0, le=MAX_WORKERS)] = 0
    upstream_ca: str | None = None
    suites: str | list[str] = "modern"
    deny_destinations: list[str] = field(default_factory=lambda: list(DENIED))
    allow_destinations: list[str] = field(default_factory=list)
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    client_handshake_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 30.0
    mint_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    handshake_threads: Annotated[int, Meta(ge=1, le=1024)] = 64
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    not_tls: Literal["block", "pass"] = "block"
    not_tls_ports: list[int | str] = field(default_factory=list)

    def __post_init__(self) -> None:
        named("listen", Address.parse, self.listen)
        named("suites", suites, self.suites)
        for one in self.deny_destinations:
            named("deny_destinations", check_denied, one)
        for one in self.allow_destinations:
            named("allow_destinations", Exemption.parse, one)
        try:
            NotTls.parse(passed=False, listed=self.not_tls_ports)
        except ValueError as error:
            raise ValueError(f"not_tls_ports: {error}") from None
        if not re.fullmatch(r"regular|transparent|socks5|upstream:https?://.+", self.mode):
            raise ValueError(
                f"mode: '{self.mode}' is none; use regular, transparent, socks5 or upstream:http(s)://host:port"
            )

    @property
    def tls_suites(self) -> Suites:
        """The cipher suites, as they are used."""
        return suites(self.suites)

    @property
    def passing(self) -> NotTls:
        """Which streams that are neither TLS nor HTTP are passed."""
        return NotTls.parse(passed=self.not_tls == "pass", listed=self.not_tls_ports)

    @property
    def worker_count(self) -> int:
        """How many workers: what is asked for, else one for each core we may use, as far as workers are counted."""
        return self.workers or min(len(os.sched_getaffinity(0)), MAX_WORKERS)


class LimitsSection(Bounds, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[limits]: what one client or server may ask for; names, defaults and bounds are those of the edge."""


class StatusSection(Section, frozen=True):
    """[status]: where the status page is, nowhere if empty; the names that it may be asked for by, beside addresses;
    and whose process it is, where not the signer's own user's."""

    listen: str = "127.0.0.1:9797"
    hosts: list[str] = field(default_factory=list)
    user: str | None = None

    def __post_init__(self) -> None:
        if self.listen:
            named("listen", Address.parse, self.listen)
        for host in self.hosts:
            if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?", host):
                raise ValueError(f"hosts: '{host}' is no host name; write names without scheme and port")


class RunSection(Section, frozen=True):
    """[run]: what processes leave on this machine, who else may use the sockets, and what workers may do.

    `worker_user` is whom workers become when hsmitm is started as root; None: hsmitm-proxy where there is such a user,
    else nobody. `worker_paths` are directories where they may read and write, as far as that user may.
    `hang_timeout_s` is how long a worker or the signer may give no sign of life before it is killed and started again;
    0: never.
    """

    directory: Annotated[str, SaidElsewhere()] = "run"
    state: Annotated[str, SaidElsewhere()] = "state"
    group: Annotated[str | None, SaidElsewhere()] = None
    users: Annotated[list[str], SaidElsewhere()] = field(default_factory=list)
    worker_user: Annotated[str | None, _RUN] = None
    worker_paths: Annotated[list[str], _RUN] = field(default_factory=list)
    worker_environment: Annotated[list[str], _RUN] = field(default_factory=list)
    hang_timeout_s: Annotated[float, Meta(ge=0, le=3600), _RUN] = 10.0


class MitmproxySection(Section, frozen=True):
    """[mitmproxy]: the operator's own addons, options of mitmproxy, and which messages do not wait for them."""

    scripts: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    stream: list[str] | None = None

    def __post_init__(self) -> None:
        try:
            Streamed.parse(self.stream or ())
        except ValueError as error:
            raise ValueError(f"stream: {error}") from None

    @property
    def streamed(self) -> Streamed:
        """Which messages go on as they come: all where nobody looks at them."""
        if self.stream is not None:
            return Streamed.parse(self.stream)
        return by_default(scripts=bool(self.scripts), options=self.options)


class DecryptionLogSection(Section, frozen=True):
    """[decryption_log]: where the record of each connection goes: a file, "stdout", or nowhere if empty."""

    file: str = ""

    def __post_init__(self) -> None:
        if "\0" in self.file or self.file.endswith("/"):
            raise ValueError(f"file: '{self.file}' is no path of a file")

    def path(self, base: Path) -> Path | None:
        """The file, where there is one; relative paths start from `base`."""
        return base / self.file if self.file not in ("", "stdout") else None


class LogSection(Section, frozen=True):
    """[log]: from which level on."""

    level: LogLevel = "info"
