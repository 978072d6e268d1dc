"""The depth `signer`'s system: `hsmitm signer` on members and inbound keys of the measurement, in a process of its own.

It is started as `hsmitm run` starts it, with the PINs on its standard input: none is written to a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import tomlkit

from bench.report.processes import ended
from bench.rig.site import SiteCA
from bench.sign.target import Target, TargetKey
from hsm.errors import MisconfiguredError
from hsm.member.settings import MemberSettings
from hsm.wire.endpoint import WORKER_SOCKET, RunDirectory

_READY_S, _END_S = 60.0, 10.0


class SigningSystem:
    """A signer. Use it as an async context manager: it serves inside it."""

    def __init__(self, directory: Path, target: Target, sessions: int) -> None:
        """`directory` is made, for its configuration, its log and its socket; `sessions` are those of each member."""
        directory.mkdir(mode=0o700)
        self._directory, self._target = directory, target
        self._process: asyncio.subprocess.Process | None = None
        self._toml = directory / "hsmitm.toml"
        self._toml.write_text(tomlkit.dumps(self._configuration(sessions)))

    @property
    def socket(self) -> Path:
        """The socket of workers."""
        return RunDirectory(self._directory / "run").socket(WORKER_SOCKET)

    @property
    def pid(self) -> int:
        """The signer's process id."""
        assert self._process is not None
        return self._process.pid

    def _configuration(self, sessions: int) -> dict[str, Any]:
        return {
            "hsm": {
                "high_availability": len(self._target.members) > 1,
                # An HSM that is slow is measured, not given up.
                "attempt_timeout_ms": 10_000,
                "request_budget_ms": 30_000,
                "members": [_member(one, sessions) for one in self._target.members],
            },
            "inbound": [{"listen": "127.0.0.1:0", "sites": list(self._sites(set(self._target.keys.values())))}],
            "status": {"listen": ""},
            "log": {"level": "warning"},
        }

    def _sites(self, keys: Iterable[TargetKey]) -> Iterable[dict[str, Any]]:
        ca = SiteCA()
        for number, key in enumerate(keys):
            name, certificate = f"site-{number}.bench.test", self._directory / f"site-{number}.pem"
            ca.certify(name, key.public, certificate)
            yield {
                "names": [name],
                "certificate": certificate.name,
                "key": str(key.uri),
                "upstream": "http://127.0.0.1",
            }

    async def __aenter__(self) -> Self:
        """Start it; it serves when this returns."""
        reading, writing = os.pipe()
        with (self._directory / "signer.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "proxy.main", "signer", "--config", str(self._toml),
                "--supervised", "--ready-fd", str(writing),
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, pass_fds=[writing], start_new_session=True,
            )  # fmt: skip
        os.close(writing)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(self._target.pins).encode() + b"\n")
            async with asyncio.timeout(_READY_S):
                ready = await asyncio.to_thread(os.read, reading, 1)  # ends with the process, if not before
            if not ready:
                told = (self._directory / "signer.log").read_text().strip().rpartition("\n")[2]
                raise MisconfiguredError(f"the signer did not begin to serve: {told}")
        except BaseException:
            await self.__aexit__()
            raise
        finally:
            os.close(reading)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it in order."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        await ended(self._process, _END_S)


def _member(settings: MemberSettings, sessions: int) -> dict[str, Any]:
    selector = settings.selector
    named = {"token": selector.label, "serial": selector.serial, "slot": selector.slot}
    return {
        "name": settings.name,
        "module": settings.module,
        "pin": {"prompt": True},
        "sessions": sessions,
        "environment": settings.environment,
        "start_timeout_s": settings.start_timeout_s,
    } | {name: value for name, value in named.items() if value is not None}
