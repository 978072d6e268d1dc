"""`hsmitm run` with an HA group: two members, each on an HSM that fails on command, with the same keys.

The HSMs are SoftHSM stores, the second a copy of the first, as one vendor's HA would have made it, each behind a module
of `bench.rig.faulty_module`. `Visits` is load on it: ever new hosts, each a CONNECT, a handshake that is verified, a
request.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from bench.rig.faulty_module import FaultyModule
from bench.rig.visits import Visit, Visitors
from hsm.wire.admin import MemberStatus
from proxy.config import edit
from proxy.main import main
from tests.integration.harness import System
from tests.softhsm import MODULE
from tests.waiting import wait_until

DEAD = "C_Initialize rv 0x30"


@dataclass
class HaSystem(System):
    """Members go by their names, m1 and m2; `member` makes one more."""

    hsms: dict[str, FaultyModule] = field(default_factory=dict)

    @classmethod
    def make_ha(
        cls, directory: Path, upstream_ca: str, prepare: Callable[[Self], None] | None = None, **edits: str
    ) -> Self:
        """A directory with a configuration, not started. `prepare` may put keys on the partition before the copies."""
        plain = System.make(directory, upstream_ca=upstream_ca, workers="1")
        made = cls(plain.directory)
        if prepare is not None:
            prepare(made)
        text = made.toml.read_text()
        (first,) = plain.config.file.hsm.members
        for name in ("m1", "m2"):
            text = edit.with_member(text, made.member(name))
        text = edit.without_member(text, first.name)
        made.toml.write_text(text.replace("high_availability = false", "high_availability = true"))
        # Visitors come from one address, and ask for new names all the time.
        made.edit(keep_alive_s="0.5", new_names_per_s="100000.0", new_names_burst="1000000", **edits)
        return made

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def member(self, name: str) -> dict[str, Any]:
        """A copy of the partition that `init` made, as a member of the configuration."""
        store = self.directory / name
        shutil.copytree(self.directory / "softhsm", store / "tokens")
        made = (self.directory / "softhsm2.conf").read_text()
        (store / "softhsm2.conf").write_text(made.replace(str(self.directory / "softhsm"), str(store / "tokens")))
        hsm = self.hsms[name] = FaultyModule(store / "faults")
        environment = {"SOFTHSM2_CONF": str(store / "softhsm2.conf")} | hsm.environment(MODULE)
        return {
            "name": name, "module": str(hsm.path), "token": "hsmitm", "pin": {"file": "pin"}, "sessions": 4,
            "environment": environment,
        }  # fmt: skip

    def hsmitm(self, *arguments: str, status: int = 0) -> str:
        """A command on this configuration: what it says where an operator looks. `status` is how it must end.

        It runs in this process: most of what a command costs is the start of Python, which `harness.hsmitm` shows too.
        """
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["hsmitm", *arguments, "--config", str(self.toml)])
            patch.setenv("COLUMNS", "200")
            with pytest.raises(SystemExit) as ended:
                main()
        assert (ended.value.code or 0) == status, f"{out.getvalue()}{err.getvalue()}"
        assert "Traceback" not in out.getvalue() + err.getvalue()
        return (err if status else out).getvalue()

    def states(self) -> dict[str, str]:
        """Each member's state."""
        return {one.name: one.state for one in self.status().members}

    def of(self, name: str) -> MemberStatus:
        """The member as the signer reports it."""
        return next(one for one in self.status().members if one.name == name)

    def pid(self, name: str) -> int:
        """The member's process, 0 where there is none."""
        return self.of(name).pid

    def until_up(self, *names: str) -> None:
        """Return once these members, and all others, are in service with every key."""

        def up() -> bool:
            members = {one.name: one for one in self.status().members}
            return all(members[name].state == "up" and not any(members[name].keys.values()) for name in names)

        wait_until(up, f"{names} are up", 15)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """No HSM answers any more: every member process is killed, and no new one can start."""
        for hsm in self.hsms.values():
            hsm.rules(DEAD)
        try:
            for name in self.hsms:
                with suppress(ProcessLookupError):
                    if pid := self.pid(name):  # 0 would be ourselves, and all our processes
                        os.kill(pid, signal.SIGKILL)
            wait_until(lambda: set(self.states().values()) <= {"down", "starting"}, "no member is in service")
            yield
        finally:
            for hsm in self.hsms.values():
                hsm.clear()


class Visits:
    """Visitors on an event loop of their own, for tests that block. A context manager; leaving it, none has failed."""

    def __init__(self, system: System, port: int, clients: int = 3) -> None:
        """`port` is the origin's."""
        self._made = system.proxy, system.ca, port, clients, 0.02
        self._leave: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._begun = threading.Event()
        self.visits: list[Visit] = []

    async def _run(self) -> None:
        self._leave, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with Visitors(*self._made) as visitors:
            self.visits = visitors.visits
            self._begun.set()
            await self._leave.wait()

    def more(self, visits: int = 10) -> None:
        """Return once that many more were made."""
        goal = len(self.visits) + visits
        wait_until(lambda: len(self.visits) >= goal, f"{visits} more visits", 30)

    @property
    def failed(self) -> list[str]:
        """What went wrong."""
        return [visit.error for visit in self.visits if visit.error]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._begun.wait(10)
        self.more(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(60)
        if error is None:
            assert self.failed == [], f"{len(self.failed)} of {len(self.visits)} failed: {self.failed[:3]}"
