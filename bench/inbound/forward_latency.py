"""What inbound handshakes do to a forward request in the same worker: its latency on a kept-alive connection while the
worker is idle, and again while new inbound connections come at a steady rate."""

from __future__ import annotations

import time

from msgspec import Struct

from bench.inbound import open_loop
from bench.inbound.forward_probe import Route, probe
from bench.inbound.open_loop import Pace
from bench.report.percentiles import percentile
from bench.report.processes import others_s
from bench.rig.inbound_system import InboundSystem

_PROBES_PER_S = 50.0


class ForwardRound(Struct, frozen=True, kw_only=True):
    """Latencies in milliseconds: of forward requests without and with inbound load (`rate` new connections each second
    to `host`), and of those connections. `late_ms` is by how much the load generator was late to begin each of them,
    `generator_share` its share of one core; `others_share` is how many cores other processes used meanwhile."""

    host: str
    rate: float
    idle_ms: list[float]
    loaded_ms: list[float]
    inbound_ms: list[float]
    late_ms: list[float]
    generator_share: float
    others_share: float
    errors: list[str]


async def forward_round(system: InboundSystem, pace: Pace) -> ForwardRound:
    """Probe for `pace.seconds` without load, then with it."""
    route = Route(
        proxy=system.proxy,
        host="probe.bench.test",
        port=system.origin.port,
        ca=str(system.ca),
        rate=_PROBES_PER_S,
        seconds=pace.seconds,
    )
    before, begin = others_s(system.pids), time.monotonic()
    idle = await probe(route)
    load = await open_loop.start(pace)
    try:
        loaded = await probe(route)
    finally:
        paced = await load
    return ForwardRound(
        host=pace.host,
        rate=pace.rate,
        idle_ms=idle.latencies_ms,
        loaded_ms=loaded.latencies_ms,
        inbound_ms=paced.latencies_ms,
        late_ms=paced.late_ms,
        generator_share=paced.cpu_s / pace.seconds,
        others_share=max(0.0, others_s(system.pids) - before) / (time.monotonic() - begin),
        errors=[*idle.errors, *loaded.errors, *paced.errors],
    )


def forward_figures(rounds: list[ForwardRound]) -> dict[str, float]:
    """All rounds of a site together; of the sites the one where the load added most."""
    of_site: dict[str, list[ForwardRound]] = {}
    for one in rounds:
        of_site.setdefault(one.host, []).append(one)
    return max((_figures(ours) for ours in of_site.values()), key=lambda one: one["forward_p99_added_ms"], default={})


def _figures(rounds: list[ForwardRound]) -> dict[str, float]:
    idle = [latency for one in rounds for latency in one.idle_ms]
    loaded = [latency for one in rounds for latency in one.loaded_ms]
    inbound = [latency for one in rounds for latency in one.inbound_ms]
    return {
        "forward_p99_added_ms": percentile(loaded, 0.99) - percentile(idle, 0.99),
        "forward_p50_added_ms": percentile(loaded, 0.5) - percentile(idle, 0.5),
        "forward_idle_p99_ms": percentile(idle, 0.99),
        "forward_loaded_p99_ms": percentile(loaded, 0.99),
        "half_load_per_s": sum(one.rate for one in rounds) / len(rounds),
        "half_load_p50_ms": percentile(inbound, 0.5),
        "half_load_p99_ms": percentile(inbound, 0.99),
        "half_load_late_p99_ms": percentile([late for one in rounds for late in one.late_ms], 0.99),
        "half_load_generator_share": max(one.generator_share for one in rounds),
    }
