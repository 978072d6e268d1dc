"""The forward measurement: what hsmitm costs and carries as a forward proxy, beside every peer that is installed.

All of them run at once, in front of the same origin, and take turns under the same load generator in an order that the
seed gives, so that what else happens on the machine happens to all. The phases, one after another:

idle   connections that are open and do nothing: memory
warm   new connections to hosts that were visited before
cold   new connections, each to a host that was never visited: hsmitm's leaf is signed on the partition
kept   requests on connections that stay
body   a large answer
h2-16  requests on one HTTP/2 connection with 16 in flight; h2-80 likewise
h2-down, h2-up
       one large answer, or one large request, over HTTP/2
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct, structs

from bench.forward import figures, http2, peers
from bench.forward.figures import BARE, HSMITM, ORIGIN, RULES, TWO_WORKERS
from bench.forward.system import ForwardSystem
from bench.report.report import Progress, Report
from bench.report.versions import installed
from bench.rig import h2load, nginx
from bench.rig.loopback_names import resolving
from bench.rig.nghttpd import Nghttpd
from bench.rig.peer import Peer, Program
from bench.rig.server import Idle, Load, Phase, Row, Server, Turn
from bench.rig.tls_origin import COLD, WARM, TlsOrigin
from bench.rig.tunnel import Route, TunnelError
from bench.rig.tunnel_load import Generator, Job, Kind
from hsm.errors import MisconfiguredError
from proxy.demo.origin import OriginCA

IDLE = "idle"
PHASES: tuple[Phase, ...] = ("warm", "cold", "kept", "body", *http2.IN_FLIGHT)
_SITS_OUT: dict[str, tuple[Phase, ...]] = {
    TWO_WORKERS: ("cold", "body", *http2.IN_FLIGHT),
    **dict.fromkeys((RULES, BARE), ("cold", "kept", "body", *http2.IN_FLIGHT)),
    ORIGIN: ("cold",),
    "squid": tuple(http2.IN_FLIGHT),
    "sslsplit": tuple(http2.IN_FLIGHT),
}
_COLD_PER_S = 600
"""Hosts made for each second of a cold turn; a server that is quicker has its turn end early."""
_WARM_UP_S = 1.0

_NEVER_IDLE = (ORIGIN, TWO_WORKERS, RULES, BARE)
_RULES = 1000


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure: `rounds` turns of `seconds` for each server and phase, with so many `clients` at a time, spread
    over `generators` processes. `hosts` is how many a warm server knows; `tunnels` are open in the idle phase; the
    large body has `body_mb` megabytes. `seed` gives the order of the servers in each round. `phases` are those that are
    measured, of PHASES and IDLE. `before` is the hsmitm command of another version, which takes turns as well."""

    seconds: float
    rounds: int
    seed: int
    clients: int
    generators: int
    hosts: int
    tunnels: int
    body_mb: float
    sessions: int
    hsm_latency_ms: float
    phases: tuple[str, ...] = (IDLE, *PHASES)
    before: Path | None = None

    @property
    def cold_hosts(self) -> int:
        """New hosts for one cold turn."""
        return int(max(self.seconds * _COLD_PER_S, 4 * self.clients))

    def needs(self, server: str) -> bool:
        """Whether a server has a turn in one of the phases."""
        return bool(set(self.phases) - set(_SITS_OUT.get(server, ())) - ({IDLE} if server in _NEVER_IDLE else set()))


async def forward(plan: Plan, progress: Progress) -> Report:
    """Measure. `progress` gets a text and the share that is done. Raises MisconfiguredError where nginx is missing."""
    if nginx.executable() is None:
        raise MisconfiguredError("the origin is nginx, which is not installed: apt-get install nginx-light")
    began, started, load_average = dt.datetime.now(dt.UTC), time.monotonic(), os.getloadavg()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmitm-bench-")))
        rig = await _Rig.start(plan, directory, stack, progress)
        measuring = _Measuring(plan, rig, progress)
        idle = await measuring.idle()
        turns = await measuring.turns()
    rows = Row.sums(turns)
    found = figures.figures(rows, idle)
    targets = figures.targets(found, rows)
    failed = sum(one.failed for one in turns) + sum(one.failed for one in idle) + measuring.failed
    return Report(
        name="forward",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=plan.seed,
        configuration=structs.asdict(plan) | {"before": str(plan.before or "")},
        figures=found | {"failed_requests": failed},
        errors=measuring.errors,
        detail={"versions": installed() | {one.name: one.version for one in rig.programs} | {"nginx": nginx.version()},
                "load_average_before": load_average, "missing": rig.missing, "targets": targets, "idle": idle,
                "rows": rows, "turns": turns},
        rows=[one.shown() for one in rows],
        notes=[
            *(f"{name} was not measured: {why}" for name, why in rig.missing.items()),
            *(one.sentence() for one in targets),
            *(one.doubts for one in rig.programs if one.doubts),
            *figures.doubts(rows),
        ],
        charts=figures.charts(rows, idle),
    )  # fmt: skip


class _Rig(Struct, frozen=True):
    """What runs: the origins, the servers in front of them. Peers that cannot run here are `missing`, with the reason,
    and so is HTTP/2 without its `http2` origin."""

    origin: TlsOrigin
    http2: Nghttpd | None
    servers: list[Server]
    programs: list[Program]
    missing: dict[str, str]

    @classmethod
    async def start(cls, plan: Plan, directory: Path, stack: AsyncExitStack, progress: Progress) -> _Rig:
        """Start everything; `stack` stops it."""
        progress("certificates of the origin", 0.0)
        ca, roots = OriginCA(), directory / "origin-ca.pem"
        roots.write_text(ca.pem)
        origin = TlsOrigin(
            directory / "origin", ca, warm=plan.hosts, cold=plan.cold_hosts * plan.rounds,
            body_bytes=int(plan.body_mb * 1e6),
        )  # fmt: skip
        await stack.enter_async_context(origin)
        http2_origin = None
        if not (without_http2 := h2load.missing()):
            http2_origin = await stack.enter_async_context(
                Nghttpd(directory / "http2", ca, body_bytes=int(plan.body_mb * 1e6))
            )
        servers = [Server(ORIGIN, Route(origin.address, origin.port, str(roots), connect=False), lambda: origin.pids)]
        wanted = {
            name: (workers, rules)
            for name, workers, rules in ((HSMITM, 1, 0), (TWO_WORKERS, 2, 0), (RULES, 1, _RULES), (BARE, 1, 0))
            if plan.needs(name)
        }
        progress(f"starting {', '.join(wanted)}", 0.0)
        systems = [
            ForwardSystem(
                directory / name, roots=roots, workers=workers, sessions=plan.sessions, seed=plan.seed,
                rules=rules, log=name != BARE,
            )
            for name, (workers, rules) in wanted.items()
        ]  # fmt: skip
        await asyncio.gather(*(stack.enter_async_context(one) for one in systems))
        for name, system in zip(wanted, systems, strict=True):
            (module,) = system.modules.values()
            module.latency(plan.hsm_latency_ms)
            route = Route(system.proxy, origin.port, str(system.ca))
            servers.append(Server(name, route, _pids(system), module=module, roles=await system.roles()))
        setting = peers.Setting(directory, origin.port, origin.hosts, roots, resolving(directory), plan.before)
        programs, missing = peers.found(setting, plan.needs)
        progress(f"starting {', '.join(one.name for one in programs)}", 0.0)
        started = await asyncio.gather(*(stack.enter_async_context(Peer(one)) for one in programs))
        for program, peer in zip(programs, started, strict=True):
            route = Route(program.address, origin.port, str(program.ca), program.connect)
            servers.append(Server(program.name, route, _pids(peer)))
        missing |= {"HTTP/2": without_http2} if without_http2 else {}
        return cls(origin, http2_origin, servers, programs, missing)


def _pids(of: ForwardSystem | Peer) -> Callable[[], list[int]]:
    return lambda: of.pids


class _Measuring:
    """The turns that the servers take."""

    def __init__(self, plan: Plan, rig: _Rig, progress: Progress) -> None:
        self.errors: list[str] = []
        self.failed = 0
        self._plan, self._rig, self._progress = plan, rig, progress
        self._chance = random.Random(plan.seed)  # noqa: S311
        self._phases = [one for one in PHASES if one in plan.phases and (rig.http2 or one not in http2.IN_FLIGHT)]
        self._steps = sum(len(self._taking(phase)) for phase in self._phases) * plan.rounds + len(rig.servers)
        self._done = 0

    def _taking(self, phase: Phase) -> list[Server]:
        return [one for one in self._rig.servers if phase not in _SITS_OUT.get(one.name, ())]

    async def idle(self) -> list[Idle]:
        """Each server once, soon after its start: memory that was used and given back would be used again."""
        found = []
        for one in self._rig.servers:
            self._tell(f"idle connections, {one.name}")
            jobs = self._jobs(one, "warm", 0, seconds=min(_WARM_UP_S, self._plan.seconds))
            warming = await one.turn("warm", [Generator(job) for job in jobs], self._rig.origin.pids)
            self.failed += warming.failed
            self.errors += warming.errors
            if one.name in _NEVER_IDLE or IDLE not in self._plan.phases:
                continue
            job = self._job(one, "idle", clients=self._plan.tunnels, seconds=0)
            found.append(await one.idle(job))
            self.errors += found[-1].errors
        return found

    async def turns(self) -> list[Turn]:
        """Every phase and round."""
        turns = []
        for phase in self._phases:
            for number in range(self._plan.rounds):
                taking = self._taking(phase)
                for one in self._chance.sample(taking, len(taking)):
                    self._tell(f"{phase}, {one.name}")
                    try:
                        turns.append(await self._turn(one, phase, number))
                    except (OSError, TunnelError) as error:
                        self.failed += 1
                        self.errors.append(f"{one.name}, {phase}: {error}")
                        continue
                    self.errors += turns[-1].errors
        return turns

    async def _turn(self, server: Server, phase: Phase, number: int) -> Turn:
        if (origin := self._rig.http2) is not None and phase in http2.IN_FLIGHT:
            route = server.route if server.route.connect else structs.replace(server.route, proxy=origin.address)
            size = int(self._plan.body_mb * 1e6)
            load = http2.load(origin, route, phase, seconds=self._plan.seconds, body_bytes=size)
            if server.name == ORIGIN:
                server = Server(ORIGIN, route, lambda: origin.pids)
            return await server.turn(phase, [load], origin.pids)
        loads: list[Load] = [Generator(job) for job in self._jobs(server, phase, number, seconds=self._plan.seconds)]
        return await server.turn(phase, loads, self._rig.origin.pids)

    def _jobs(self, server: Server, phase: Phase, number: int, *, seconds: float) -> list[Job]:
        """One for each generator; in cold round `number` each has its own hosts."""
        plan, jobs = self._plan, []
        for generator in range(plan.generators):
            clients = len(range(generator, plan.clients, plan.generators))
            match phase:
                case "warm":
                    job = self._job(server, "new", clients=clients, seconds=seconds)
                case "cold":
                    share = plan.cold_hosts // plan.generators
                    first = number * plan.cold_hosts + generator * share
                    job = structs.replace(
                        self._job(server, "new", clients=clients, seconds=seconds),
                        host=COLD, first=first, count=share, once=True,
                    )  # fmt: skip
                case "kept":
                    job = self._job(server, "kept", clients=clients, seconds=seconds)
                case "body":
                    job = structs.replace(self._job(server, "kept", clients=1, seconds=seconds), path="/body")
            jobs.append(job)
        return jobs

    def _job(self, server: Server, kind: Kind, *, clients: int, seconds: float) -> Job:
        return Job(
            kind=kind, route=server.route, clients=clients, seconds=seconds, host=WARM, first=0, count=self._plan.hosts
        )

    def _tell(self, text: str) -> None:
        self._progress(text, self._done / self._steps)
        self._done += 1
