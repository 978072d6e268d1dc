"""A whole hsmitm for a test: its own partition, processes, origin and client. Nothing prepared by hand, nothing shared.

`System` is `hsmitm run` with a directory made by `hsmitm init`; `OriginThread` is the internet behind it: every name
that ends in .test resolves to it, by a library that is loaded before the C library. A script would do, too, but with
one hooks go mitmproxy's own way, and that is not what most users run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.rig.loopback_names import resolving
from hsm.errors import HsmitmError
from hsm.wire.admin import CODEC, Status, StatusReport
from hsm.wire.client import ask
from hsm.wire.run_directory import ADMIN_SOCKET
from proxy.config.file import Config, load
from proxy.demo.origin import Origin, OriginCA
from tests.waiting import wait_until

HSMITM = [sys.executable, "-P", "-m", "proxy.main"]


class OriginThread:
    """An origin on an event loop of its own."""

    def __init__(self, ca: OriginCA, **options: Any) -> None:
        self._ca, self._options = ca, options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.origin: Origin

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.origin.port

    def __enter__(self) -> Self:
        self._thread.start()
        self.origin = Origin(self._ca, **self._options)
        asyncio.run_coroutine_threadsafe(self.origin.__aenter__(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.origin.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass
class Reply:
    """What curl reports."""

    exit: int
    status: int
    version: str
    body: str
    errors: str
    trace: str

    @property
    def ok(self) -> bool:
        """A request that went through."""
        return self.exit == 0 and self.status == 200


@dataclass
class System:
    """`hsmitm run` on a directory of its own."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    command: str = "run"
    environment: dict[str, str] = field(default_factory=dict)
    expect_crashes: bool = False

    @property
    def toml(self) -> Path:
        """Its configuration."""
        return self.directory / "hsmitm.toml"

    @property
    def config(self) -> Config:
        """Its configuration, read."""
        return load(self.toml)

    @property
    def surroundings(self) -> dict[str, str]:
        """The environment that it is started in."""
        return os.environ | resolving(self.directory) | self.environment

    @property
    def ca(self) -> Path:
        """The forward-trust certificate."""
        return self.directory / "forward-trust.pem"

    @property
    def log_path(self) -> Path:
        """Everything that its processes said."""
        return self.directory / f"{self.command}.log"

    @property
    def log(self) -> str:
        """Everything that its processes said so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def until_logged(self, *texts: str, times: int = 1) -> None:
        """Wait until its log has these texts, each so often: lines pass a process of their own before the file."""
        for text in texts:
            wait_until(lambda text=text: self.log.count(text) >= times, f"{text!r} is logged, {times} times")

    @classmethod
    def make(cls, directory: Path, key_type: str = "p256", upstream_ca: str = "", **edits: str) -> System:
        """`hsmitm init`, then lines of the configuration replaced: `workers="1"` sets `workers = 1`."""
        made = subprocess.run(
            [*HSMITM, "init", "--dir", str(directory), "--key-type", key_type,
             "--listen", "127.0.0.1:0", "--status-listen", ""],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        system = cls(directory)
        settled = {"worker_environment": '["LD_PRELOAD"]', "allow_destinations": '["127.0.0.0/8", "::1"]'}
        system.edit(**settled | edits)  # origins are on this machine
        if upstream_ca:
            (directory / "origin-ca.pem").write_text(upstream_ca)
            system.edit(upstream_ca='"origin-ca.pem"')
        return system

    def edit(self, **lines: str) -> None:
        """Replace `name = ...` lines, commented or not: the first of each name, or with `run__name` that of [run]."""
        text = self.toml.read_text().splitlines()
        for key, value in lines.items():
            section, _, name = key.rpartition("__")
            begin = text.index(f"[{section}]") if section else 0
            at = next(i for i, line in enumerate(text) if i >= begin and line.lstrip("# ").startswith(f"{name} ="))
            text[at] = f"{name} = {value}"
        self.toml.write_text("\n".join(text) + "\n")

    def start(self, *, wait: bool = True) -> Self:
        """Start it; by default wait until every worker listens and the signer knows of it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*HSMITM, self.command, "--config", str(self.toml)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.surroundings,
            )  # fmt: skip
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Every worker listens, and the signer knows."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            report = self.try_status()
            return bool(report and any(one.workers == self.config.workers for one in report.listeners))

        wait_until(ready, "hsmitm serves", 30)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20) -> int:
        """End it; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        if not self.expect_crashes:
            assert "killed by signal 11" not in self.log
            assert "Traceback" not in self.log
            assert "internal error" not in self.log
        return status

    def try_status(self) -> StatusReport | None:
        """The signer's report, None while there is no signer."""
        try:
            reply = asyncio.run(ask(self.config.run.socket(ADMIN_SOCKET), CODEC, Status(), 5))
        except HsmitmError:
            return None
        assert isinstance(reply, StatusReport)
        return reply

    def status(self) -> StatusReport:
        """The signer's report."""
        report = self.try_status()
        assert report is not None, self.log
        return report

    @property
    def proxy(self) -> str:
        """host:port of the proxy."""
        return self.status().listeners[0].address

    def worker_pids(self) -> set[int]:
        """Workers that the signer knows."""
        report = self.try_status()
        return {worker.pid for worker in report.workers} if report else set()

    def pids(self, fragment: str) -> list[int]:
        """Processes of this system whose command line has `fragment`, for example "proxy.processes.worker"."""
        assert self.process is not None
        return [
            pid
            for pid in descendants(self.process.pid)
            if fragment in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        ]

    def curl(self, url: str, *options: str, proxy: str | None = None, trust: Path | None = None) -> Reply:
        """One request through the proxy by the real client."""
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--verbose", "--max-time", "20",
             "--proxy", f"http://{proxy or self.proxy}", "--cacert", str(trust or self.ca),
             "--write-out", "\n%{http_code} %{http_version}", *options, url],
            capture_output=True, text=True, timeout=30, check=False,
            env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        )  # fmt: skip
        body, _, numbers = done.stdout.rpartition("\n")
        status, _, version = numbers.partition(" ")
        errors = "\n".join(line for line in done.stderr.splitlines() if line.startswith("curl:"))
        return Reply(done.returncode, int(status), version, body, errors, done.stderr)


def descendants(pid: int) -> Iterator[int]:
    """Process ids below `pid`, at any depth."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def hsmitm(*arguments: str, timeout_s: float = 30, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, to its end."""
    return subprocess.run(
        [*HSMITM, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False,
        stdin=subprocess.DEVNULL, env=os.environ | environment,
    )  # fmt: skip


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@contextmanager
def killed_at_end(pids: Callable[[], list[int]]) -> Iterator[None]:
    """Whatever happens, end these processes of ours."""
    try:
        yield
    finally:
        for pid in pids():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def status_json(system: System) -> dict[str, Any]:
    """`hsmitm status --json`, as a program reads it."""
    done = hsmitm("status", "--json", "--config", str(system.toml))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
