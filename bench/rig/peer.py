"""A proxy of others that hsmitm is measured against, as a process of ours: start, wait, stop.

Which ones there are is in `bench.forward.peers`.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Self

from msgspec import Struct, field

from bench.report.processes import ended, tree
from hsm.errors import MisconfiguredError

_READY_S = 30.0
_KEPT = ("PATH", "LANG")


class Program(Struct, frozen=True, kw_only=True):
    """How a peer is run: `argv` in `directory`, where `ca` is, or will be, the CA of its leaves. `connect` says whether
    it takes CONNECT at `address`; `doubts` what one must know to compare it."""

    name: str
    version: str
    directory: Path
    argv: list[str]
    address: str
    ca: Path
    connect: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    doubts: str = ""


class Peer:
    """One peer that runs. Use it as an async context manager."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        assert self._process is not None
        return tree(self._process.pid)

    async def __aenter__(self) -> Self:
        """Start it and wait until it accepts connections. Raises MisconfiguredError with its log where it does not."""
        told = self.program.directory
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with (told / "output.log").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.argv, cwd=told, env=environment | {"HOME": str(told)} | self.program.environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            await self._until_ready(self._process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it, at once if it must be."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        await ended(self._process, 5)

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        until = time.monotonic() + _READY_S
        host, _, port = self.program.address.rpartition(":")
        while process.returncode is None and time.monotonic() < until:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.05)  # another process's doing
            else:
                writer.close()
                return
        log = "".join(path.read_text(errors="replace") for path in sorted(self.program.directory.glob("*.log")))
        raise MisconfiguredError(f"{self.program.name} did not begin to serve: {log[-2000:]}")
