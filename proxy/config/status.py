"""hsmitm.toml as the status page's process reads it: [status], [run] and [log], whatever else stands there."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from hsm.errors import MisconfiguredError
from hsm.wire.run_directory import STATUS_SOCKET, RunDirectory
from proxy.config import messages
from proxy.config.operation import LogSection, RunSection, StatusSection
from proxy.config.section import Address


class _Part(Struct, frozen=True, kw_only=True):
    """Tables of the file; others may stand beside them."""

    status: StatusSection = field(default_factory=StatusSection)
    run: RunSection = field(default_factory=RunSection)
    log: LogSection = field(default_factory=LogSection)


class StatusConfig(Struct, frozen=True):
    """What the status page's process starts from. `listen` is None where there is to be no page."""

    path: Path
    listen: Address | None
    hosts: list[str]
    run: RunDirectory
    log: LogSection

    @property
    def signer(self) -> Path:
        """The socket on which the signer is asked. Raises MisconfiguredError where no address can hold its path."""
        return self.run.socket(STATUS_SOCKET)


def load(path: Path) -> StatusConfig:
    """Read the status page's part of `path`. Raises MisconfiguredError as `proxy.config.file.load`."""
    path = path.absolute()
    part = messages.decoded(messages.read(path), _Part, path.name)
    return StatusConfig(
        path=path,
        listen=Address.parse(part.status.listen) if part.status.listen else None,
        hosts=part.status.hosts,
        run=RunDirectory(path.parent / part.run.directory, part.run.group),
        log=part.log,
    )


def run_directory(path: Path) -> RunDirectory:
    """Where the sockets are of whoever runs with `path`: as [run] has it, or where `hsmitm init` puts them while the
    file cannot be read at all."""
    path = path.absolute()
    try:
        return load(path).run
    except MisconfiguredError:
        return RunDirectory(path.parent / RunSection().directory)
