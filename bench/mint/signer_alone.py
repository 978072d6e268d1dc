"""A real signer with one member for a measurement, `hsmitm signer`: the measuring process is its only worker."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Self

from bench.rig.system import System, all_up
from hsm.errors import HsmitmError, MisconfiguredError
from hsm.wire.admin import StatusReport
from hsm.wire.run_directory import WORKER_SOCKET

_READY_S = 60.0


class SignerAlone(System):
    """The signer, its member and no worker. Use it as an async context manager."""

    def __init__(self, directory: Path, *, key_type: str, sessions: int, seed: int) -> None:
        """`sessions` are the member's."""
        super().__init__(directory, 1, key_type=key_type, workers=1, sessions=sessions, seed=seed)
        (self.module,) = self.modules.values()

    @property
    def socket(self) -> Path:
        """Where workers ask."""
        return self.config.run.socket(WORKER_SOCKET)

    def delay(self, latency_ms: float) -> None:
        """Let each C_Sign take that much longer, from now on."""
        self.module.rules(*([f"C_Sign delay {latency_ms:g}"] if latency_ms else []))

    async def roles(self) -> dict[int, str]:
        """For each process, what it is: signer or member."""
        members = {one.pid: "member" for one in (await self.status()).members}
        return dict.fromkeys(self.pids, "signer") | members

    async def __aenter__(self) -> Self:
        """Make everything, start it, and return when the member serves every key."""
        await self.prepare()
        with (self.directory / "run.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "proxy.main", "signer", "--config", str(self.config.path),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            async with asyncio.timeout(_READY_S):
                await self._until_served(self._process)
        except BaseException as error:
            await self.__aexit__()
            if isinstance(error, TimeoutError):
                raise MisconfiguredError(f"the signer did not serve within {_READY_S:g} s:\n{self._told()}") from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it in order. The origin never ran."""
        self.module.clear()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _until_served(self, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None:
            if await self._serves():
                return
            await asyncio.sleep(0.05)  # another process's doing
        raise MisconfiguredError(f"the signer ended with {process.returncode}:\n{self._told()}")

    async def _serves(self) -> bool:
        try:
            report: StatusReport = await self.status()
        except HsmitmError:
            return False
        return all_up(report)

    def _told(self) -> str:
        """The end of its log: the directory may be gone when somebody wants to look."""
        return (self.directory / "run.log").read_text(errors="replace")[-2000:]
