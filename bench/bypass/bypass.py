"""The bypass measurement: what a connection costs that is not opened, and each GB that it carries, beside others.

All run at once, in front of the same origin, and take turns under the same load generator in an order that the seed
gives. The phases, one after another:

warm  new connections, each with one request: CONNECT, a ClientHello, and the client's own TLS with the origin
body  a large answer on one connection
"""

from __future__ import annotations

import datetime as dt
import os
import random
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct, structs

from bench.bypass import figures, peers
from bench.bypass.figures import HSMITM, ORIGIN
from bench.bypass.system import BypassSystem
from bench.report.doubts import not_alone
from bench.report.report import Progress, Report
from bench.report.versions import installed
from bench.rig import nginx
from bench.rig.loopback_names import resolving
from bench.rig.peer import Peer, Program
from bench.rig.server import Phase, Row, Server, Turn
from bench.rig.tls_origin import WARM, TlsOrigin
from bench.rig.tunnel import Route, TunnelError
from bench.rig.tunnel_load import Generator, Job
from hsm.errors import MisconfiguredError
from proxy.demo.origin import OriginCA

PHASES: tuple[Phase, ...] = ("warm", "body")


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure: `rounds` turns of `seconds` for each server and phase, with so many `clients` at a time. The
    large body has `body_mb` megabytes. `seed` gives the order of the servers in each round."""

    seconds: float
    rounds: int
    seed: int
    clients: int
    hosts: int
    body_mb: float


async def bypass(plan: Plan, progress: Progress) -> Report:
    """Measure. `progress` gets a text and the share that is done. Raises MisconfiguredError where nginx is missing."""
    if nginx.executable() is None:
        raise MisconfiguredError("the origin is nginx, which is not installed: apt-get install nginx-light")
    began, started, load_average = dt.datetime.now(dt.UTC), time.monotonic(), os.getloadavg()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmitm-bench-")))
        rig = await _Rig.start(plan, directory, stack, progress)
        turns, errors = await rig.turns(plan, progress)
    rows = Row.sums(turns)
    found = figures.figures(rows)
    return Report(
        name="bypass",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=plan.seed,
        configuration=structs.asdict(plan),
        figures=found | {"failed_requests": sum(one.failed for one in turns) + len(errors)},
        errors=[*errors, *(error for one in turns for error in one.errors)],
        detail={"versions": installed() | {one.name: one.version for one in rig.programs} | {"nginx": nginx.version()},
                "load_average_before": load_average, "missing": rig.missing, "rows": rows, "turns": turns},
        rows=[one.shown() for one in rows],
        notes=[
            *(f"{name} was not measured: {why}" for name, why in rig.missing.items()),
            *figures.targets(found),
            *not_alone(max(row.others_share for row in rows), "rates may be better than this"),
        ],
    )  # fmt: skip


class _Rig(Struct, frozen=True):
    """What runs: the origin, and the servers in front of it. Peers that cannot run here are `missing`."""

    origin: TlsOrigin
    servers: list[Server]
    programs: list[Program]
    missing: dict[str, str]

    @classmethod
    async def start(cls, plan: Plan, directory: Path, stack: AsyncExitStack, progress: Progress) -> _Rig:
        """Start everything; `stack` stops it."""
        ca, roots = OriginCA(), directory / "origin-ca.pem"
        roots.write_text(ca.pem)
        origin = TlsOrigin(directory / "origin", ca, warm=plan.hosts, cold=0, body_bytes=int(plan.body_mb * 1e6))
        await stack.enter_async_context(origin)
        servers = [Server(ORIGIN, Route(origin.address, origin.port, str(roots), connect=False), lambda: origin.pids)]
        progress(f"starting {HSMITM}", 0.0)
        system = BypassSystem(directory / HSMITM, roots=roots, seed=plan.seed)
        await stack.enter_async_context(system)
        route = Route(system.proxy, origin.port, str(roots))
        servers.append(Server(HSMITM, route, lambda: system.pids, roles=await system.roles()))
        programs, missing = peers.found(directory, origin.hosts, resolving(directory))
        for program in programs:
            progress(f"starting {program.name}", 0.0)
            peer = await stack.enter_async_context(Peer(program))
            servers.append(cls._server(program, peer, origin.port, roots))
        return cls(origin, servers, programs, missing)

    @staticmethod
    def _server(program: Program, peer: Peer, port: int, roots: Path) -> Server:
        return Server(program.name, Route(program.address, port, str(roots)), lambda: peer.pids)

    async def turns(self, plan: Plan, progress: Progress) -> tuple[list[Turn], list[str]]:
        """Every phase and round, and what went wrong."""
        chance = random.Random(plan.seed)  # noqa: S311
        turns, errors = [], []
        steps, done = len(PHASES) * plan.rounds * len(self.servers), 0
        for phase in PHASES:
            for _ in range(plan.rounds):
                for one in chance.sample(self.servers, len(self.servers)):
                    progress(f"{phase}, {one.name}", done / steps)
                    done += 1
                    try:
                        turns.append(await one.turn(phase, [Generator(_job(one, phase, plan))], self.origin.pids))
                    except (OSError, TunnelError) as error:
                        errors.append(f"{one.name}, {phase}: {error}")
        return turns, errors


def _job(server: Server, phase: Phase, plan: Plan) -> Job:
    body = phase == "body"
    return Job(
        kind="kept" if body else "new", route=server.route, clients=1 if body else plan.clients,
        seconds=plan.seconds, host=WARM, first=0, count=plan.hosts, path="/body" if body else "/",
    )  # fmt: skip
