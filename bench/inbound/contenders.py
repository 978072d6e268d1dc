"""A server that takes its turn under the closed loop, what one turn found, and the sum of its turns."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Self

from msgspec import Struct

from bench.inbound import apache_bench
from bench.report.percentiles import percentile
from bench.report.processes import cpu_s, difference, others_s
from bench.rig.faulty_module import FaultyModule
from bench.rig.site import SiteKey, host

_REST_S = 0.05
"""As long without a signature, and no client is left that waits for one."""


class Turn(Struct, frozen=True, kw_only=True):
    """One run of the load generator. `latency_ms` is the HSM's; `cpu_s` is by process, as the server names them;
    `signatures` is how often it called C_Sign. `generator_s` is the load generator's own CPU time, `others_s` that of
    all processes that have no part in the measurement."""

    server: str
    key: SiteKey
    latency_ms: float
    requests: int
    seconds: float
    latencies_ms: list[float]
    cpu_s: dict[str, float]
    signatures: int
    generator_s: float
    others_s: float
    failed: int
    errors: list[str]

    @property
    def per_s(self) -> float:
        """New connections completed each second."""
        return self.requests / self.seconds


class Contender:
    """A server with a site of each kind of key."""

    def __init__(
        self,
        name: str,
        address: str,
        pids: Callable[[], list[int]],
        *,
        module: FaultyModule | None = None,
        roles: dict[int, str] | None = None,
    ) -> None:
        """`module` is what it asks for signatures, None where no HSM does. A process not in `roles` has its name."""
        self.name = name
        self.address, self.pids, self._module, self._roles = address, pids, module, roles or {}
        self._per_s: dict[tuple[SiteKey, float], float] = {}

    def delay(self, latency_ms: float) -> None:
        """Let the HSM's answer take that much longer, from now on."""
        if self._module is not None:
            self._module.latency(latency_ms)

    async def warm_up(self, key: SiteKey, latency_ms: float, *, clients: int, tls: str) -> list[str]:
        """One connection of each client: caches are filled, and the first turn knows about how long to be. Errors."""
        return (await self.turn(key, latency_ms, clients=clients, tls=tls, seconds=0)).errors

    async def turn(self, key: SiteKey, latency_ms: float, *, clients: int, tls: str, seconds: float) -> Turn:
        """As many connections as it completed in `seconds` the last time, but one of each client at least."""
        about = seconds * self._per_s.get((key, latency_ms), 0.0)
        requests = clients * max(1, math.ceil(about / clients))
        cpu_before, signed_before = cpu_s(self.pids()), self._signed()
        others_before = others_s(self.pids())
        load = await apache_bench.run(
            self.address, host(key), clients=clients, requests=requests, tls=tls, limit_s=2 * seconds
        )
        cpu_after, signed_after = cpu_s(self.pids()), self._signed()
        others = others_s(self.pids()) - others_before
        await self._rest(latency_ms)
        used: dict[str, float] = {}
        for pid, one in difference(cpu_before, cpu_after).items():
            role = self._roles.get(pid, self.name)
            used[role] = used.get(role, 0.0) + one
        done = Turn(
            server=self.name,
            key=key,
            latency_ms=latency_ms,
            requests=load.requests,
            seconds=load.seconds,
            latencies_ms=load.latencies_ms,
            cpu_s=used,
            signatures=signed_after - signed_before,
            generator_s=load.generator_s,
            others_s=max(0.0, others),  # clocks of different steps
            failed=load.failed,
            errors=[f"{self.name}, {key}, {latency_ms:g} ms: {error}" for error in load.errors],
        )
        self._per_s[key, latency_ms] = done.per_s
        return done

    async def _rest(self, latency_ms: float) -> None:
        """ab leaves a few connections begun: until they are signed for, they would disturb the next turn."""
        before = -1
        while self._signed() != before:
            before = self._signed()
            await asyncio.sleep(2 * latency_ms / 1000 + _REST_S)

    def _signed(self) -> int:
        return self._module.calls("C_Sign") if self._module is not None else 0


class Row(Struct, frozen=True, kw_only=True):
    """All turns of one server with one key and one latency of the HSM. `generator_share` is that of the turn where the
    load generator used most of its one core; `others_share` is how many cores other processes used."""

    server: str
    key: SiteKey
    latency_ms: float
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_ms: float
    signatures: float
    generator_share: float
    others_share: float
    failed: int

    @classmethod
    def sums(cls, turns: list[Turn]) -> list[Self]:
        """A row for each server, key and latency, in the order of their first turns."""
        groups: dict[tuple[float, str, str], list[Turn]] = {}
        for one in turns:
            groups.setdefault((one.latency_ms, one.key, one.server), []).append(one)
        return [cls._sum(groups[name]) for name in sorted(groups)]

    @classmethod
    def _sum(cls, turns: list[Turn]) -> Self:
        requests = sum(one.requests for one in turns)
        each = max(1, requests)
        latencies = [latency for one in turns for latency in one.latencies_ms]
        return cls(
            server=turns[0].server,
            key=turns[0].key,
            latency_ms=turns[0].latency_ms,
            per_s=requests / sum(one.seconds for one in turns),
            p50_ms=percentile(latencies, 0.5),
            p99_ms=percentile(latencies, 0.99),
            max_ms=max(latencies, default=0.0),
            cpu_ms=1000 * sum(used for one in turns for used in one.cpu_s.values()) / each,
            signatures=sum(one.signatures for one in turns) / each,
            generator_share=max(one.generator_s / one.seconds for one in turns),
            others_share=sum(one.others_s for one in turns) / sum(one.seconds for one in turns),
            failed=sum(one.failed for one in turns),
        )

    def shown(self) -> dict[str, str | float]:
        """As a line of the report's table."""
        return {
            "HSM ms": self.latency_ms,
            "key": self.key,
            "server": self.server,
            "per s": self.per_s,
            "p50 ms": self.p50_ms,
            "p99 ms": self.p99_ms,
            "max ms": self.max_ms,
            "CPU ms /conn": self.cpu_ms,
            "signs /conn": round(self.signatures, 2),
            "ab cores": round(self.generator_share, 2),
            "other cores": round(self.others_share, 2),
        }
