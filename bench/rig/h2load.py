"""The load generator for HTTP/2: nghttp2's h2load on one connection, through a relay, for it knows no proxy.

It does not verify certificates. So before each run a connection of Python's ssl does, and sees that HTTP/2 is spoken:
a proxy that let the bytes pass unread would be shown with the origin's certificate, and refused.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from msgspec import Struct

from bench.report.processes import children_s
from bench.rig.relay import Relay
from bench.rig.tunnel import Route, TunnelError, opened
from bench.rig.tunnel_load import Done

PROGRAMS = ("h2load", "nghttpd")
_LIMIT_S = 120.0


class H2Job(Struct, frozen=True, kw_only=True):
    """So many `requests` for `path` of `host`, `in_flight` at a time; with `upload` each is a POST of that file.

    `body_bytes` is what each request moves, counted only where all came."""

    route: Route
    host: str
    requests: int
    in_flight: int
    path: str
    upload: Path | None = None
    body_bytes: int = 0


def missing() -> str:
    """Why HTTP/2 cannot be measured here, and what to install; empty where it can be."""
    if gone := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{' and '.join(gone)} not installed: apt-get install nghttp2-client nghttp2-server"
    return ""


class H2Load:
    """One run of h2load. Use it as an async context manager: inside, the relay listens and the way is tried."""

    def __init__(self, job: H2Job) -> None:
        self._job = job
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        """Open the relay, and try the way. Raises OSError or TunnelError where it does not speak HTTP/2."""
        await asyncio.to_thread(_speaks_http2, self._job.route, self._job.host)
        self._log = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmitm-h2load-"))) / "requests"
        self._relay = self._stack.enter_context(Relay(self._job.route, self._job.host))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the relay."""
        await asyncio.to_thread(self._stack.close)

    async def run(self) -> Done:
        """Ask, and wait for the last answer; a run that takes two minutes is ended, and the rest has failed."""
        job, before = self._job, children_s()
        upload = ["-d", str(job.upload)] if job.upload else []
        process = await asyncio.create_subprocess_exec(
            "h2load", "-n", str(job.requests), "-c", "1", "-m", str(job.in_flight), f"--log-file={self._log}", *upload,
            f"--connect-to={self._relay.address}", f"https://{job.host}:{job.route.port}/{job.path}",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            told = (await asyncio.wait_for(process.communicate(), _LIMIT_S))[0].decode()
        except TimeoutError:
            process.kill()
            await process.wait()
            told = f"no end within {_LIMIT_S:g} s"
        return self._done(told, children_s() - before)

    def _done(self, told: str, cpu_s: float) -> Done:
        rows = [line.split() for line in self._log.read_text().splitlines()] if self._log.exists() else []
        good = [row for row in rows if row[1] == "200"]
        latencies_ms = [int(row[2]) / 1000 for row in good]
        # From the first request's begin to the last one's end: the handshake is not among it.
        begin = min((int(row[0]) for row in good), default=0)
        seconds = max((int(row[0]) + int(row[2]) - begin for row in good), default=0) / 1e6
        moved = re.search(r"traffic: .*, \S+ \((\d+)\) data", told)
        failed = self._job.requests - len(good)
        short = not failed and not self._job.upload and moved is not None and int(moved[1]) < self._expected
        errors = (
            [f"{failed} of {self._job.requests} requests failed: {told[-500:]} {self._relay.error}"] if failed else []
        )
        if short:
            errors = [f"bodies are short: {moved[0] if moved else ''} for {self._expected} bytes"]
        return Done(latencies_ms, seconds or _LIMIT_S, len(good) * self._job.body_bytes, cpu_s, failed + short, errors)

    @property
    def _expected(self) -> int:
        return self._job.requests * self._job.body_bytes


def _speaks_http2(route: Route, host: str) -> None:
    tls = route.tls()
    tls.set_alpn_protocols(["h2"])
    with opened(route, host) as raw, tls.wrap_socket(raw, server_hostname=host) as connection:
        if connection.selected_alpn_protocol() != "h2":
            raise TunnelError(f"{route.proxy} chose {connection.selected_alpn_protocol()} and not HTTP/2")
