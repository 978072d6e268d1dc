"""The hsmitm that is attacked: set up and started by its own command line alone, so that it can be another version.

One worker; a SoftHSM partition behind the module that can be told to answer late; two sites of our own; the soft limit
of descriptors that is usual. Its log is a pipe that somebody reads, until told not to.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from bench.edge import watch
from bench.report.processes import ended, tree
from bench.rig.any_version import settled
from bench.rig.faulty_module import FaultyModule
from bench.rig.port import free_port
from bench.rig.site import Site, token_sites
from hsm.errors import MisconfiguredError
from proxy.config import edit
from proxy.demo.origin import OriginCA

Kind = Literal["regular", "socks5", "passing"]

_READY_S, _END_S = 60.0, 10.0
_SOFT_LIMIT = 1024
_ASK_S, _STATUS_S = 3.0, 10.0


class Setting(Struct, frozen=True, kw_only=True):
    """What a system is made of: the `command` of hsmitm, what is put in front of it (`prefix`) and its environment, the
    CA of servers and the file with it, and the URLs behind the sites: plain, with HTTP/2, and the attacker's own."""

    command: list[str]
    prefix: list[str]
    environment: dict[str, str]
    ca: OriginCA
    roots: Path
    client_ca: Path
    upstream: str
    upstream_h2: str
    upstream_own: str


class EdgeSystem:
    """Use `start` and `stop`, in turn, as often as need be: addresses stay."""

    def __init__(self, directory: Path, setting: Setting, kind: Kind = "regular") -> None:
        """`directory` is made. Only a regular proxy has sites; a passing one lets all else through."""
        self.directory, self._setting, self._kind = directory, setting, kind
        self.proxy, self.inbound, self.inbound_h2, self.page = (f"127.0.0.1:{free_port()}" for _ in range(4))
        self.log = directory / "run.log"
        self._process: asyncio.subprocess.Process | None = None
        self._reads = threading.Event()
        self._reads.set()

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        assert self._process is not None
        return tree(self._process.pid)

    @property
    def ca(self) -> Path:
        """The CA that clients trust."""
        return self.directory / "forward-trust.pem"

    @property
    def worker_socket(self) -> Path:
        """Where workers ask the signer."""
        return self.directory / "run" / "signer.sock"

    async def prepare(self) -> None:
        """Partition, keys, configuration. Raises MisconfiguredError with what `init` said where that fails."""
        wanted = [
            "--dir",
            str(self.directory),
            "--key-type",
            "p256",
            "--listen",
            self.proxy,
            "--status-listen",
            self.page,
        ]
        made = await asyncio.to_thread(
            subprocess.run, [*self._setting.command, "init", *wanted, "--yes"],
            capture_output=True, text=True, check=False, timeout=_READY_S,
        )  # fmt: skip
        if made.returncode:
            raise MisconfiguredError(f"hsmitm init failed: {(made.stdout + made.stderr)[-1000:]}")
        self.directory.chmod(0o755)  # workers may be another user's
        path = self.directory / "hsmitm.toml"
        text = edit.read(path)
        (member,) = tomllib.loads(text)["hsm"]["members"]
        self.module = FaultyModule(self.directory / "faults")
        changed = member | {
            "name": "m1",
            "module": str(self.module.path),
            "environment": member["environment"] | self.module.environment(member["module"]),
        }
        text = edit.without_member(edit.with_member(text, changed), member["name"])
        text = settled(text, self._setting.roots, office=False)
        if self._kind == "regular":
            sites = await token_sites(
                self._setting.ca, self.directory, module=member["module"], token=member["token"],
                pin=(self.directory / "pin").read_text().strip(), environment=member["environment"],
            )  # fmt: skip
            text += self._inbound(sites)
        if self._kind == "socks5":
            text = text.replace('\nmode = "regular"\n', '\nmode = "socks5"\n')
        if self._kind == "passing":
            text = text.replace('\nnot_tls = "block"\n', '\nnot_tls = "pass"\n')
        edit.write(path, text)

    def _inbound(self, sites: list[Site]) -> str:
        setting = self._setting
        demands = f'client_certificates = "require"\nclient_ca = "{setting.client_ca}"\n'
        listeners = {
            self.inbound: ((setting.upstream, ""), (setting.upstream, demands)),
            self.inbound_h2: ((setting.upstream_h2, _named(setting.upstream_h2)),
                              (setting.upstream_own, _named(setting.upstream_own))),
        }  # fmt: skip
        tables = ""
        for listener, servers in listeners.items():
            tables += f'\n[[inbound]]\nlisten = "{listener}"\n'
            for site, (upstream, more) in zip(sites, servers, strict=True):
                tables += (
                    f'\n[[inbound.sites]]\nnames = ["{site.host}"]\ncertificate = "{site.certificate.name}"\n'
                    f'key = "{site.key}"\nupstream = "{upstream}"\n{more}'
                )
        return tables

    async def start(self) -> None:
        """Start it, and return when it serves. Raises MisconfiguredError where it does not."""
        limited = ["sh", "-c", f'ulimit -Sn {_SOFT_LIMIT} && exec "$@"', "sh"]
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._setting.prefix, *limited, *self._setting.command, "run", "--config",
                str(self.directory / "hsmitm.toml"), stdin=asyncio.subprocess.DEVNULL, stdout=writing, stderr=writing,
                start_new_session=True, env=os.environ | self._setting.environment,
            )  # fmt: skip
        finally:
            os.close(writing)
        threading.Thread(target=self._copy, args=(reading,), daemon=True).start()
        until = time.monotonic() + _READY_S
        while self._process.returncode is None and time.monotonic() < until:
            if await self.ask("/readyz") is not None and await self._listens():
                return
            await asyncio.sleep(0.1)  # another process's doing
        await self.kill()
        raise MisconfiguredError(f"hsmitm did not begin to serve: {self.log.read_text(errors='replace')[-2000:]}")

    async def stop(self) -> None:
        """Stop it as a service manager does, and with force where it does not end."""
        if self._process is not None and self._process.returncode is None:
            pids = self.pids
            self._process.terminate()
            await ended(self._process, _END_S)
            watch.end(pids)

    async def kill(self) -> None:
        """End all its processes at once."""
        if self._process is not None and self._process.returncode is None:
            watch.end(self.pids)
            await self._process.wait()

    @contextmanager
    def unread_log(self) -> Iterator[None]:
        """Nobody reads its log."""
        self._reads.clear()
        try:
            yield
        finally:
            self._reads.set()

    async def ask(self, path: str) -> str | None:
        """A page of its status server; None where it does not answer, or with an error."""
        return await asyncio.to_thread(_page, f"http://{self.page}{path}")

    async def tells_status(self) -> bool:
        """Whether `hsmitm status` ends well and soon."""
        asked = await asyncio.create_subprocess_exec(
            *self._setting.command, "status", "--config", str(self.directory / "hsmitm.toml"),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_STATUS_S):
                return await asked.wait() == 0
        except TimeoutError:
            asked.kill()
            await asked.wait()
            return False

    def _copy(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as source, self.log.open("ab") as log:
            while data := source.read(1 << 16):
                log.write(data)
                log.flush()
                self._reads.wait()

    async def _listens(self) -> bool:
        for address in (self.proxy, *([self.inbound] if self._kind == "regular" else [])):
            host, _, port = address.rpartition(":")
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return False
            writer.close()
        return True


def _named(url: str) -> str:
    """Its server shows a certificate of its own name, not the site's."""
    return f'upstream_name = "{urlsplit(url).hostname}"\n'


def _page(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_ASK_S) as answer:  # noqa: S310  # http alone
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError, ValueError):
        return None
