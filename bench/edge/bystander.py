"""A client that does nothing wrong, while others do: `python -m bench.edge.bystander`, a process of its own.

It asks all the time, and tells how long it waited for each answer: on a connection that it keeps, on ever new ones to
hosts that are known, for hosts that nobody asked for before, and at our own site.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Literal, Self

import msgspec
from msgspec import Struct, structs

from bench.edge.target import CLIENT_B
from bench.rig.tls_origin import COLD, WARM
from bench.rig.tunnel import Route, Tunnel, TunnelError

LIMIT_S = 10.0
"""A wait that is longer is a failure."""
_LATE_S = 2.0
WARM_HOSTS, NEW_HOSTS = 4, 4000

Kind = Literal["kept", "known", "new", "inbound"]
_EVERY_S: dict[Kind, float] = {"kept": 0.02, "known": 0.06, "new": 0.25, "inbound": 0.1}


class Errand(Struct, frozen=True):
    """The way through the proxy, and that to our own site."""

    forward: Route
    inbound: Route


class Wait(Struct, frozen=True, array_like=True):
    """One request: when it began (CLOCK_MONOTONIC, seconds), how long it took, and why it failed, if it did."""

    kind: Kind
    began: float
    ms: float
    error: str = ""


class Bystander:
    """The process. Use it as an async context manager; `waits` are those that it has told of."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self.waits: list[Wait] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start it, and read what it tells."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bench.edge.bystander", msgspec.json.encode(self._errand).decode(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read(self._process))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it at once."""
        assert self._process is not None
        assert self._reader is not None
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._reader

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.waits.append(msgspec.json.decode(line, type=Wait))

    async def told(self, after: float) -> None:
        """Wait until it has told of a request of each kind that began after this moment, or nothing more can come."""
        until = time.monotonic() + LIMIT_S + 5
        while time.monotonic() < until:
            if {one.kind for one in self.waits if one.began > after} == set(_EVERY_S):
                return
            await asyncio.sleep(0.05)  # another process's doing

    def between(self, begin: float, end: float) -> list[Wait]:
        """Those that began then, and those of which nothing was told by now though they must have begun."""
        found, now = [one for one in self.waits if begin <= one.began < end], time.monotonic()
        for kind in _EVERY_S:
            began = max((one.began + one.ms / 1000 for one in self.waits if one.kind == kind), default=begin)
            if began < end and now - began > _LATE_S:
                found.append(Wait(kind, began, 1000 * (now - began), "no answer yet"))
        return found

    def forget(self) -> None:
        """Keep no wait of the past."""
        self.waits.clear()


class _Client:
    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._lock = threading.Lock()

    def run(self) -> None:
        acts = {"kept": self._kept, "known": self._known, "new": self._new, "inbound": self._inbound}
        threads = [threading.Thread(target=act) for act in acts.values()]
        for one in threads:
            one.start()

    def _tell(self, wait: Wait) -> None:
        with self._lock:
            sys.stdout.buffer.write(msgspec.json.encode(wait) + b"\n")
            sys.stdout.buffer.flush()

    def _timed(self, kind: Kind, act: object) -> bool:
        assert callable(act)
        began = time.monotonic()
        error = ""
        try:
            act()
        except (OSError, TunnelError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:200]
        spent = time.monotonic() - began
        self._tell(Wait(kind, began, 1000 * spent, error))
        time.sleep(max(0.0, _EVERY_S[kind] - spent) if not error else 0.2)
        return not error

    def _kept(self) -> None:
        route, tunnel = self._errand.forward, None
        tls = route.tls()
        while True:
            if tunnel is None:
                try:
                    tunnel = Tunnel(route, tls, WARM % 0)
                except (OSError, TunnelError) as error:
                    self._tell(Wait("kept", time.monotonic(), 0.0, f"{type(error).__name__}: {error}"[:200]))
                    time.sleep(0.2)
                    continue
            asked = tunnel
            if not self._timed("kept", lambda asked=asked: asked.get("/")):
                tunnel.close()
                tunnel = None

    def _known(self) -> None:
        self._visits("known", self._errand.forward, [WARM % number for number in range(WARM_HOSTS)])

    def _new(self) -> None:
        self._visits("new", self._errand.forward, [COLD % number for number in range(NEW_HOSTS)])

    def _inbound(self) -> None:
        self._visits("inbound", self._errand.inbound, [CLIENT_B])

    def _visits(self, kind: Kind, route: Route, hosts: list[str]) -> None:
        tls, number = route.tls(), 0
        while True:
            host = hosts[number % len(hosts)]
            self._timed(kind, lambda host=host: _visit(route, tls, host))
            number += 1


def _visit(route: Route, tls: object, host: str) -> None:
    tunnel = Tunnel(route, tls, host)  # type: ignore[arg-type]
    try:
        tunnel.get("/", last=True)
    finally:
        tunnel.close()


def errand(proxy: str, inbound: str, *, port: int, ca: str, site_ca: str) -> Errand:
    """What to ask for: `port` is the forward origin's, `ca` and `site_ca` are PEM files."""
    forward = Route(proxy, port, ca, limit_s=LIMIT_S)
    ours = structs.replace(forward, proxy=inbound, port=443, ca=site_ca, connect=False, names_host=False)
    return Errand(forward, ours)


if __name__ == "__main__":
    _Client(msgspec.json.decode(sys.argv[1], type=Errand)).run()
