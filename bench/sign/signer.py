"""`hsmitm signer` for a measurement, in a process of its own.

It is started as `hsmitm run` starts it, with the PINs on its standard input: none is written to a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from bench.report.processes import ended
from hsm.errors import MisconfiguredError
from hsm.wire.run_directory import WORKER_SOCKET, RunDirectory
from proxy.processes.supervised import READY

_READY_S, _END_S = 60.0, 10.0


class SignerProcess:
    """A signer. Use it as an async context manager: it serves inside it."""

    def __init__(self, directory: Path, pins: Mapping[str, str]) -> None:
        """`directory` has its hsmitm.toml when it is started, and gets its sockets and its log. `pins` are those of
        members whose PIN comes from a prompt."""
        self.directory, self.toml = directory, directory / "hsmitm.toml"
        self._pins = pins
        self._process: asyncio.subprocess.Process | None = None

    @property
    def run(self) -> RunDirectory:
        """Where its sockets are."""
        return RunDirectory(self.directory / "run")

    @property
    def socket(self) -> Path:
        """Where workers ask."""
        return self.run.socket(WORKER_SOCKET)

    @property
    def pid(self) -> int:
        """Its process id; the members are its children."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Start it; every member is in service, or known not to be, when this returns."""
        reading, writing = os.pipe()
        with (self.directory / "signer.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "proxy.main", "signer", "--config", str(self.toml),
                "--supervised", "--ready-fd", str(writing),
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, pass_fds=[writing], start_new_session=True,
            )  # fmt: skip
        os.close(writing)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(self._pins).encode() + b"\n")
            async with asyncio.timeout(_READY_S):
                ready = await asyncio.to_thread(_says_ready, reading)
            if not ready:
                told = (self.directory / "signer.log").read_text().strip().rpartition("\n")[2]
                raise MisconfiguredError(f"the signer did not begin to serve: {told}")
        except BaseException:
            await self.__aexit__()
            raise
        finally:
            os.close(reading)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Tell it to end; it is killed where it does not within seconds."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        await ended(self._process, _END_S)


def _says_ready(descriptor: int) -> bool:
    """Whether the process says so before it ends: signs of life come first (`proxy.processes.supervised`)."""
    while said := os.read(descriptor, 64):
        if READY in said:
            return True
    return False
