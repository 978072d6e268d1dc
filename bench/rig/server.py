"""A server that takes its turn under the load of `tunnel_load`, what one turn found, and the sum of its turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Literal, Protocol, Self

from msgspec import Struct

from bench.report.percentiles import percentile
from bench.report.processes import Memory, cpu_s, difference, machine_s, memory
from bench.rig.faulty_module import FaultyModule
from bench.rig.tunnel import Route
from bench.rig.tunnel_load import Done, Generator, Job

Phase = Literal["warm", "cold", "kept", "body", "h2-16", "h2-80", "h2-down", "h2-up"]
"""What a server can have its turn with. The last four are on one HTTP/2 connection."""
_BODIES: tuple[Phase, ...] = ("body", "h2-down", "h2-up")
"""Counted in megabytes."""

_REST_S, _MOST_RESTS = 0.05, 20
"""A server is done with what a turn left when it uses no CPU for so long; a busy one is not waited for forever."""


class Load(Protocol):
    """A load generator: inside of it as an async context manager it is ready and waits; then it runs once."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def run(self) -> Done: ...


class Turn(Struct, frozen=True, kw_only=True):
    """One run of the load generator. `amount` is new connections (warm, cold), requests (kept, h2-16,
    h2-80) or megabytes (body, h2-down, h2-up).

    `cpu_s` is the server's by process, as it names them; `generator_s`, `origin_s` and `others_s` are the CPU time of
    the load generator, of the origin, and of all processes that have no part in it, these in `watched_s`
    seconds. `signatures` is how often C_Sign
    was called."""

    server: str
    phase: Phase
    amount: float
    seconds: float
    latencies_ms: list[float]
    cpu_s: dict[str, float]
    generator_s: float
    origin_s: float
    others_s: float
    watched_s: float
    signatures: int
    failed: int
    errors: list[str]


class Idle(Struct, frozen=True):
    """What a server occupies before and while `tunnels` connections are open through it and do nothing."""

    server: str
    tunnels: int
    before: Memory
    during: Memory
    failed: int
    errors: list[str]

    @property
    def kb_per_tunnel(self) -> float:
        """Proportional set size that one more costs."""
        return (self.during.pss_kb - self.before.pss_kb) / max(1, self.tunnels - self.failed)


class Server:
    """A proxy or another server; or the origin itself, which shows what the load generator can do."""

    def __init__(
        self,
        name: str,
        route: Route,
        pids: Callable[[], list[int]],
        *,
        module: FaultyModule | None = None,
        roles: Mapping[int, str] | None = None,
    ) -> None:
        """`module` is what it asks for signatures, None where no HSM does. A process not in `roles` has its name."""
        self.name, self.route, self._pids, self._module, self._roles = name, route, pids, module, roles or {}

    async def turn(self, phase: Phase, loads: Sequence[Load], origin_pids: list[int]) -> Turn:
        """Let all load generators run at once."""
        async with AsyncExitStack() as stack:
            generators = [await stack.enter_async_context(one) for one in loads]
            await self._rest()
            signed, ours, theirs = self._signed(), cpu_s(self._pids()), cpu_s(origin_pids)
            machine, own, watching = machine_s(), time.process_time(), time.monotonic()
            done = await asyncio.gather(*(one.run() for one in generators))
        await self._rest()
        used = difference(ours, cpu_s(self._pids()))
        origin_s = sum(difference(theirs, cpu_s(origin_pids)).values())
        generator_s = sum(one.cpu_s for one in done)
        others = machine_s() - machine - generator_s - sum(used.values()) - (time.process_time() - own)
        watched_s = time.monotonic() - watching
        if self._pids() != origin_pids:
            others -= origin_s
        by_role: dict[str, float] = {}
        for pid, one_s in used.items():
            role = self._roles.get(pid, self.name)
            by_role[role] = by_role.get(role, 0.0) + one_s
        return Turn(
            server=self.name,
            phase=phase,
            amount=_amount(phase, done),
            seconds=max(one.seconds for one in done),
            latencies_ms=[latency for one in done for latency in one.latencies_ms],
            cpu_s=by_role,
            generator_s=generator_s,
            origin_s=origin_s,
            others_s=max(0.0, others),  # clocks of different steps
            watched_s=watched_s,
            signatures=self._signed() - signed,
            failed=sum(one.failed for one in done),
            errors=[f"{self.name}, {phase}: {error}" for one in done for error in one.errors],
        )

    async def idle(self, job: Job) -> Idle:
        """Open the job's connections and look at the memory."""
        await self._rest()
        before = memory(self._pids())
        async with Generator(job) as generator:
            await self._rest()
            during = memory(self._pids())
            done = await generator.run()
        errors = [f"{self.name}, idle: {error}" for error in done.errors]
        return Idle(self.name, job.clients, before, during, done.failed, errors)

    async def _rest(self) -> None:
        for _ in range(_MOST_RESTS):
            before = cpu_s(self._pids())
            await asyncio.sleep(_REST_S)
            if cpu_s(self._pids()) == before:
                return

    def _signed(self) -> int:
        return self._module.calls("C_Sign") if self._module is not None else 0


def _amount(phase: Phase, done: list[Done]) -> float:
    if phase in _BODIES:
        return sum(one.body_bytes for one in done) / 1e6
    return sum(len(one.latencies_ms) for one in done)


class Row(Struct, frozen=True, kw_only=True):
    """All turns of one server in one phase. `cpu_ms` and `signatures` are for each connection, request or megabyte;
    `busiest_ms` is `cpu_ms` of its busiest process. Shares are in cores, the generator's that of its worst turn."""

    server: str
    phase: Phase
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_ms: float
    busiest_ms: float
    signatures: float
    server_share: float
    generator_share: float
    origin_share: float
    others_share: float
    failed: int

    @classmethod
    def sums(cls, turns: list[Turn]) -> list[Self]:
        """A row for each phase and server, in the order of their first turns."""
        groups: dict[tuple[str, str], list[Turn]] = {}
        for one in turns:
            groups.setdefault((one.phase, one.server), []).append(one)
        phases = list(dict.fromkeys(phase for phase, _ in groups))
        return [cls._sum(groups[name]) for name in sorted(groups, key=lambda name: (phases.index(name[0]), name[1]))]

    @classmethod
    def _sum(cls, turns: list[Turn]) -> Self:
        amount, seconds = sum(one.amount for one in turns), sum(one.seconds for one in turns)
        each = max(1.0, amount)
        latencies = [latency for one in turns for latency in one.latencies_ms]
        used = sum(sum(one.cpu_s.values()) for one in turns)
        roles = {role for one in turns for role in one.cpu_s}
        # Turn by turn: which of two workers is the busier one is chance, and not the same each time.
        busiest = sum(max((one.cpu_s.get(role, 0.0) for role in roles), default=0.0) for one in turns)
        return cls(
            server=turns[0].server,
            phase=turns[0].phase,
            per_s=amount / seconds,
            p50_ms=percentile(latencies, 0.5),
            p99_ms=percentile(latencies, 0.99),
            max_ms=max(latencies, default=0.0),
            cpu_ms=1000 * used / each,
            busiest_ms=1000 * busiest / each,
            signatures=sum(one.signatures for one in turns) / each,
            server_share=used / seconds,
            generator_share=max(one.generator_s / one.seconds for one in turns),
            origin_share=sum(one.origin_s for one in turns) / seconds,
            others_share=sum(one.others_s for one in turns) / sum(one.watched_s for one in turns),
            failed=sum(one.failed for one in turns),
        )

    def shown(self) -> dict[str, str | float]:
        """As a line of the report's table."""
        return {
            "phase": self.phase,
            "server": self.server,
            "per s": self.per_s,
            "p50 ms": self.p50_ms,
            "p99 ms": self.p99_ms,
            "CPU ms": round(self.cpu_ms, 3),
            "signs": round(self.signatures, 2),
            "server cores": round(self.server_share, 2),
            "load cores": round(self.generator_share, 2),
            "other cores": round(self.others_share, 2),
        }
