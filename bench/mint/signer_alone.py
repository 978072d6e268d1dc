"""A real signer with one member for the mint measurement: the measuring process is its only worker.

The member is a SoftHSM partition of its own, which `hsmitm init` makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import tomlkit

from bench import checkout
from bench.report.processes import tree
from bench.sign.signer import SignerProcess
from hsm.wire.admin import CODEC, Status, StatusReport
from hsm.wire.client import ask
from hsm.wire.run_directory import ADMIN_SOCKET
from proxy.commands.init.init import initialise
from proxy.commands.init.wanted import Wanted


class SignerAlone(SignerProcess):
    """The signer, its member and no worker. Use it as an async context manager."""

    def __init__(self, directory: Path, *, key_type: str, sessions: int, delayed: bool) -> None:
        """`sessions` are the member's. With `delayed`, which takes a checkout, its HSM can be made to answer late."""
        super().__init__(directory, {})
        self.module = checkout.faulty_module(directory / "module") if delayed else None
        self._key_type, self._sessions = key_type, sessions

    @property
    def ca(self) -> Path:
        """The CA that clients trust."""
        return self.directory / "forward-trust.pem"

    @property
    def roles(self) -> dict[int, str]:
        """For each process, what it is: signer or member."""
        return dict.fromkeys(tree(self.pid), "member") | {self.pid: "signer"}

    def delay(self, latency_ms: float) -> None:
        """Let each C_Sign take that much longer, from now on."""
        if self.module is not None:
            self.module.latency(latency_ms)

    async def signatures(self) -> int:
        """How many the member has made, test signatures among them."""
        report = await ask(self.run.socket(ADMIN_SOCKET), CODEC, Status(), 5)
        assert isinstance(report, StatusReport)
        return round(report.counters["signatures"] + report.counters["test_signatures"])

    async def __aenter__(self) -> Self:
        """Make everything and start it. Raises MisconfiguredError where SoftHSM is missing."""
        wanted = Wanted(
            directory=self.directory, module=None, token=None, key_type=self._key_type, listen="127.0.0.1:0",
            status_listen="",
        )  # fmt: skip
        await initialise(wanted, lambda _: None, lambda _: True)
        configuration: Any = tomlkit.parse(self.toml.read_text())
        (member,) = configuration["hsm"]["members"]
        member["sessions"] = self._sessions
        configuration["hsm"]["mints_per_s"] = 100_000.0  # a worker's quota is not what is measured
        if self.module is not None:
            member["environment"] |= self.module.environment(member["module"])
            member["module"] = str(self.module.path)
        self.toml.write_text(tomlkit.dumps(configuration))
        return await super().__aenter__()
