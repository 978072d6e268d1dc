"""The inbound measurement: new TLS connections to sites whose keys are on a partition, by hsmitm and by nginx.

Three servers with the same sites and the same origin take turns, so that what else happens on the machine happens to
all: hsmitm with one worker, nginx with one worker through OpenSSL's PKCS#11 engine, and nginx with the keys in files,
which asks no HSM and shows what the load generator can do. The HSM's answer takes as long for both that ask it: each
has a faulty module of its own in front of the same partition.
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

from bench.inbound import apache_bench
from bench.inbound import kept as inbound_kept
from bench.inbound.contenders import Contender, Row, Turn
from bench.inbound.forward_latency import ForwardRound, forward_figures, forward_round
from bench.inbound.kept import Kept
from bench.inbound.open_loop import Pace
from bench.report.doubts import FULL, not_alone
from bench.report.plot import Chart, Series
from bench.report.report import Progress, Report
from bench.report.versions import installed
from bench.rig import nginx
from bench.rig.faulty_module import FaultyModule
from bench.rig.inbound_system import InboundSystem
from bench.rig.nginx_origin import NginxOrigin
from bench.rig.plain_origin import PlainOrigin
from bench.rig.server import Idle
from bench.rig.server import Turn as FlowTurn
from bench.rig.site import SiteKey, file_sites, host
from proxy.demo.origin import OriginCA

_HSMITM, _ENGINE, _FILE = "hsmitm", "nginx-engine", "nginx-file"
_BODY_BYTES = 100_000_000
_IDLE_CONNECTIONS = 200


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure: `rounds` turns of `seconds` for each server, key and latency of the HSM, with so many `clients`
    at a time, which speak TLS `tls` ("1.2" or "1.3"). `seed` gives the order of the servers in each round."""

    seconds: float
    rounds: int
    seed: int
    clients: int
    latencies_ms: list[float]
    keys: list[SiteKey]
    tls: str
    sessions: int


async def inbound(plan: Plan, progress: Progress) -> Report:
    """Measure. `progress` gets a text and the share that is done. Raises MisconfiguredError where ab is missing."""
    apache_bench.require()
    began, started, load_average = dt.datetime.now(dt.UTC), time.monotonic(), os.getloadavg()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmitm-bench-")))
        servers = await _Servers.start(plan, directory, stack)
        measuring = _Measuring(plan, servers, progress)
        idle = await measuring.idle() if isinstance(servers.origin, NginxOrigin) else []
        turns = await measuring.turns()
        forward = await measuring.forward(turns)
        kept = Kept(await measuring.kept(), idle) if isinstance(servers.origin, NginxOrigin) else None
    rows = Row.sums(turns)
    failed = sum(one.failed for one in turns) + sum(len(one.errors) for one in forward) + (kept.failed if kept else 0)
    told = [error for errors in measuring.errors for error in errors] + (kept.errors if kept else [])
    return Report(
        name="inbound",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=plan.seed,
        configuration=structs.asdict(plan),
        figures=_figures(rows, forward)
        | forward_figures(forward)
        | (kept.figures(_HSMITM, _FILE) if kept else {})
        | {"failed_requests": failed},
        errors=told,
        detail={"versions": installed(), "load_average_before": load_average, "missing": servers.missing,
                "turns": [structs.asdict(one) for one in turns], "forward": [structs.asdict(one) for one in forward],
                "kept": [one.shown() for one in kept.rows] if kept else [],
                "idle": [structs.asdict(one) for one in kept.idle] if kept else []},
        rows=[one.shown() for one in rows],
        charts=_charts(rows),
        notes=[*(f"{name} was not measured: {why}" for name, why in servers.missing.items()), *_doubts(rows, forward)],
    )  # fmt: skip


class _Servers(Struct, frozen=True):
    """The servers that run. Those that cannot run here are in `missing`, with the reason."""

    system: InboundSystem
    origin: PlainOrigin | NginxOrigin
    contenders: list[Contender]
    missing: dict[str, str]
    site_ca: Path

    @classmethod
    async def start(cls, plan: Plan, directory: Path, stack: AsyncExitStack) -> _Servers:
        """Start them all; `stack` stops them."""
        ca, ca_file = OriginCA(), directory / "site-ca.pem"
        ca_file.write_text(ca.pem)
        origin: PlainOrigin | NginxOrigin
        if nginx.missing(with_engine=False):
            origin = await stack.enter_async_context(PlainOrigin())
        else:
            origin = await stack.enter_async_context(NginxOrigin(directory / "origin", _BODY_BYTES))
        system = await stack.enter_async_context(
            InboundSystem(directory / _HSMITM, plain=origin, site_ca=ca, sessions=plan.sessions, seed=plan.seed)
        )
        (module,) = system.modules.values()
        contenders = [
            Contender(_HSMITM, system.inbound, lambda: system.pids, module=module, roles=await system.roles())
        ]
        missing = {_ENGINE: nginx.missing(with_engine=True), _FILE: nginx.missing(with_engine=False)}
        if not missing[_ENGINE]:
            other = FaultyModule(directory / "engine-faults", plan.seed)
            engine = nginx.Nginx(directory / _ENGINE, system.sites, origin.url, system.token(other))
            await stack.enter_async_context(engine)
            contenders.append(Contender(_ENGINE, engine.address, lambda: engine.pids, module=other))
        if not missing[_FILE]:
            file = nginx.Nginx(directory / _FILE, file_sites(ca, directory), origin.url)
            await stack.enter_async_context(file)
            contenders.append(Contender(_FILE, file.address, lambda: file.pids))
        return cls(system, origin, contenders, {name: why for name, why in missing.items() if why}, ca_file)


class _Measuring:
    """The turns that the servers take."""

    def __init__(self, plan: Plan, servers: _Servers, progress: Progress) -> None:
        self.errors: list[list[str]] = []
        self._plan, self._servers, self._progress = plan, servers, progress
        self._chance = random.Random(plan.seed)  # noqa: S311
        turns = len(plan.keys) * plan.rounds * (len(plan.latencies_ms) * len(servers.contenders) + 2)
        self._steps = turns + len(servers.contenders) * (1 + 2 * plan.rounds)
        self._done = 0

    async def turns(self) -> list[Turn]:
        """Every server under the closed loop, with every latency and key."""
        plan, turns = self._plan, []
        for latency_ms in plan.latencies_ms:
            for one in self._servers.contenders:
                one.delay(latency_ms)
            for key in plan.keys:
                for one in self._servers.contenders:
                    self.errors.append(await one.warm_up(key, latency_ms, clients=plan.clients, tls=plan.tls))
                for _ in range(plan.rounds):
                    for one in self._chance.sample(self._servers.contenders, len(self._servers.contenders)):
                        self._tell(f"{one.name}, {key}, {latency_ms:g} ms")
                        turns.append(
                            await one.turn(key, latency_ms, clients=plan.clients, tls=plan.tls, seconds=plan.seconds)
                        )
                        self.errors.append(turns[-1].errors)
        return turns

    async def forward(self, turns: list[Turn]) -> list[ForwardRound]:
        """Forward requests beside half of the inbound load that hsmitm took with the highest latency."""
        plan, system, rounds = self._plan, self._servers.system, []
        latency_ms = max(plan.latencies_ms)
        self._servers.contenders[0].delay(latency_ms)
        for key in plan.keys:
            ours = [one for one in turns if (one.server, one.key, one.latency_ms) == (_HSMITM, key, latency_ms)]
            rate = sum(one.requests for one in ours) / sum(one.seconds for one in ours) / 2
            for _ in range(plan.rounds):
                self._tell(f"forward requests, {key}, {rate:.0f} inbound connections/s", 2)
                pace = Pace(system.inbound, host(key), str(self._servers.site_ca), plan.tls, rate, plan.seconds)
                rounds.append(await forward_round(system, pace))
                self.errors.append(rounds[-1].errors)
        return rounds

    async def idle(self) -> list[Idle]:
        """What connections occupy."""
        servers = self._servers
        return await inbound_kept.idle(servers.contenders, servers.site_ca, _IDLE_CONNECTIONS, self._tell)

    async def kept(self) -> list[FlowTurn]:
        """What connections carry."""
        plan, servers = self._plan, self._servers
        return await inbound_kept.measure(
            servers.contenders, servers.site_ca, seconds=plan.seconds, rounds=plan.rounds, seed=plan.seed,
            tell=self._tell,
        )  # fmt: skip

    def _tell(self, text: str, steps: int = 1) -> None:
        self._progress(text, self._done / self._steps)
        self._done += steps


def _figures(rows: list[Row], forward: list[ForwardRound]) -> dict[str, float]:
    """By latency; of the keys the one that is worst for hsmitm. What a missing peer would have told is left out."""
    figures: dict[str, float] = {}
    for latency_ms in sorted({one.latency_ms for one in rows}):
        found = [one for one in rows if one.latency_ms == latency_ms]
        ours = [one for one in found if one.server == _HSMITM]
        for peer, name in ((_ENGINE, "nginx_engine"), (_FILE, "nginx_file")):
            theirs = {one.key: one.per_s for one in found if one.server == peer and one.per_s}
            ratios = [one.per_s / theirs[one.key] for one in ours if one.key in theirs]
            if ratios:
                figures[f"rate_over_{name}_{latency_ms:g}ms"] = min(ratios)
        figures[f"hsmitm_per_s_{latency_ms:g}ms"] = min(one.per_s for one in ours)
        figures[f"hsmitm_cpu_ms_{latency_ms:g}ms"] = max(one.cpu_ms for one in ours)
    figures["others_share_max"] = _others(rows, forward)
    figures["generator_share_max"] = max(one.generator_share for one in rows if one.server == _HSMITM)
    null = [one.per_s for one in rows if one.server == _FILE]
    return figures | ({"generator_null_per_s": max(null)} if null else {})


def _charts(rows: list[Row]) -> list[Chart]:
    """New connections per second of each server, by the HSM's latency; a chart for each kind of key."""
    return [
        Chart(
            title=f"new inbound connections, {key}",
            x_label="server, one worker each",
            y_label="connections/s",
            series=[
                Series(f"HSM +{latency_ms:g} ms", [one.server for one in found], [one.per_s for one in found])
                for latency_ms in sorted({one.latency_ms for one in rows})
                if (found := [one for one in rows if (one.key, one.latency_ms) == (key, latency_ms)])
            ],
            kind="bar",
        )
        for key in dict.fromkeys(one.key for one in rows)
    ]


def _others(rows: list[Row], forward: list[ForwardRound]) -> float:
    return max([*(one.others_share for one in rows), *(one.others_share for one in forward)])


def _doubts(rows: list[Row], forward: list[ForwardRound]) -> list[str]:
    """Where the load generator may have been what was measured, and where the machine did something else."""
    full = [
        f"ab used {one.generator_share:.0%} of a core against {one.server} ({one.key}, {one.latency_ms:g} ms): "
        "the server may be faster than this"
        for one in rows
        if one.generator_share > FULL
    ]
    return full + not_alone(_others(rows, forward), "hsmitm may be better than this")
