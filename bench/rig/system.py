"""A whole hsmitm for a measurement: `hsmitm run` on a directory of its own, with members that can be made to fail.

Each member is a SoftHSM partition in a store of its own behind a `FaultyModule`; the stores are copies, so that all
members hold the same keys, as partitions of one vendor's HA group do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Self

from bench.report.processes import tree
from bench.rig.faulty_module import FaultyModule
from bench.rig.loopback_names import resolving
from hsm.errors import HsmitmError, MisconfiguredError
from hsm.wire.admin import CODEC, Reset, Status, StatusReport
from hsm.wire.client import ask
from hsm.wire.run_directory import ADMIN_SOCKET
from proxy.commands.init.init import initialise
from proxy.commands.init.wanted import Wanted
from proxy.config import edit
from proxy.config.file import Config, load
from proxy.demo.origin import Origin, OriginCA

_READY_S = 60.0


class System:
    """hsmitm and its origin. Use it as an async context manager; `members` are m1, m2, ..."""

    def __init__(self, directory: Path, members: int, *, key_type: str, workers: int, sessions: int, seed: int) -> None:
        self.directory = directory
        self.names = [f"m{number}" for number in range(1, members + 1)]
        self.modules = {name: FaultyModule(directory / name / "faults", seed) for name in self.names}
        self.origin_ca = OriginCA()
        self.origin = Origin(self.origin_ca, alpn=("http/1.1",))
        self._key_type, self._workers, self._sessions = key_type, workers, sessions
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        assert self._process is not None
        return tree(self._process.pid)

    @property
    def config(self) -> Config:
        """What hsmitm.toml says now."""
        return load(self.directory / "hsmitm.toml")

    @property
    def ca(self) -> Path:
        """The CA that clients trust."""
        return self.directory / "forward-trust.pem"

    def store(self, member: str) -> Path:
        """The directory of a member's tokens."""
        return self.directory / member / "tokens"

    async def __aenter__(self) -> Self:
        """Make everything, start it, and return when every member is in service and every worker listens."""
        await self.prepare()
        await self.origin.__aenter__()
        with (self.directory / "run.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "proxy.main", "run", "--config", str(self.config.path),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | resolving(self.directory),
            )  # fmt: skip
        try:
            await self._until_ready(self._process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take all faults away, and stop it as a service manager does."""
        for module in self.modules.values():
            module.clear()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        await self.origin.__aexit__()

    async def prepare(self) -> None:
        """Make the directory: partitions, keys, configuration. Nothing runs yet."""
        (self.directory / "roots.pem").write_text(self.origin_ca.pem)
        wanted = Wanted(
            directory=self.directory,
            module=None,
            token=None,
            key_type=self._key_type,
            listen="127.0.0.1:0",
            status_listen="",
            upstream_ca="roots.pem",
            allow_destinations=("127.0.0.0/8",),  # the origin
        )
        await initialise(wanted, lambda _: None, lambda _: True)
        path = self.directory / "hsmitm.toml"
        text = edit.read(path)
        (first,) = load(path).file.hsm.members
        made = Path(first.environment["SOFTHSM2_CONF"])
        for name in self.names:
            shutil.copytree(self.directory / "softhsm", self.store(name))
            configuration = self.directory / name / made.name
            configuration.write_text(made.read_text().replace(str(self.directory / "softhsm"), str(self.store(name))))
            module = self.modules[name]
            environment = {"SOFTHSM2_CONF": str(configuration)} | module.environment(first.module)
            member = {"name": name, "module": str(module.path), "token": first.token, "pin": {"file": "pin"},
                      "sessions": self._sessions, "environment": environment}  # fmt: skip
            text = edit.with_member(text, member)
        text = edit.without_member(text, first.name)
        text = text.replace("high_availability = false", f"high_availability = {str(len(self.names) > 1).lower()}")
        # One client is the whole office here.
        text = text.replace("new_names_per_s = 20.0", "new_names_per_s = 100000.0")
        text = text.replace("new_names_burst = 200", "new_names_burst = 1000000")
        text = text.replace("\nworkers = 0\n", f"\nworkers = {self._workers}\n")
        text = text.replace('\n# worker_environment = ["NAME"]\n', '\nworker_environment = ["LD_PRELOAD"]\n')
        edit.write(path, text)

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        until = time.monotonic() + _READY_S
        while process.returncode is None and time.monotonic() < until:
            try:
                report = await self.status()
            except HsmitmError:
                report = None
            if report and all_up(report) and any(one.workers == self._workers for one in report.listeners):
                self.proxy = report.listeners[0].address
                return
            await asyncio.sleep(0.1)  # another process's doing
        raise MisconfiguredError(f"hsmitm did not begin to serve; see {self.directory / 'run.log'}")

    async def status(self) -> StatusReport:
        """What `hsmitm status` shows. Raises HsmitmError where the signer does not answer."""
        reply = await ask(self.config.run.socket(ADMIN_SOCKET), CODEC, Status(), 5)
        assert isinstance(reply, StatusReport)
        return reply

    async def roles(self) -> dict[int, str]:
        """For each process what it is: CPU time is reported by that."""
        status = await self.status()
        workers = {one.pid: f"worker {one.index}" for one in status.workers}
        members = {one.pid: f"member {one.name}" for one in status.members}
        return dict.fromkeys(self.pids, "signer and supervisor") | workers | members

    async def reset(self, member: str) -> None:
        """`hsmitm hsm reset MEMBER`."""
        await ask(self.config.run.socket(ADMIN_SOCKET), CODEC, Reset(member), 60)


def all_up(report: StatusReport) -> bool:
    """Whether every member is in service and serves every key."""
    return all(one.state == "up" and not any(one.keys.values()) for one in report.members)
