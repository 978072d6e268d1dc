"""What the forward measurement's turns add up to: figures, which targets they meet, doubts and charts. No I/O."""

from __future__ import annotations

import os

from msgspec import Struct

from bench.forward.peers import PEERS
from bench.report.doubts import FULL, not_alone
from bench.report.plot import Chart, Series
from bench.rig.server import Idle, Phase, Row

HSMITM, TWO_WORKERS, ORIGIN = "hsmitm", "hsmitm-2", "no proxy"
"""What is measured beside the peers: the third has the load generator talk to the origin itself."""
_STOCK, _SQUID = "mitmdump", "squid"
_ALL_CORES = 0.85
"""Of all cores: where more was used, nothing was left for a second worker."""

_AT_MOST = {"warm_cpu_over_mitmdump": 0.5, "cold_cpu_over_mitmdump": 1.0, "idle_memory_over_mitmdump": 1.0}
_AT_LEAST = {"keepalive_rate_over_mitmdump": 1.8}
_TWO_OVER_ONE = 1.7


class Target(Struct, frozen=True):
    """A bound for a figure: `kind` is "at most" or "at least". `value` is None where the figure could not be had."""

    figure: str
    kind: str
    bound: float
    value: float | None

    @property
    def met(self) -> bool | None:
        """None where nobody knows."""
        if self.value is None:
            return None
        return self.value <= self.bound if self.kind == "at most" else self.value >= self.bound

    def sentence(self) -> str:
        """Whether it is met, in words."""
        if self.value is None:
            return f"target unknown: {self.figure} {self.kind} {self.bound:g}, which was not measured"
        return f"target {'met' if self.met else 'NOT met'}: {self.figure} {self.value:.3g}, {self.kind} {self.bound:g}"


def figures(rows: list[Row], idle: list[Idle]) -> dict[str, float]:
    """What a missing peer would have told is left out."""
    found: dict[str, float] = {}
    at = {(one.phase, one.server): one for one in rows}
    memory = {one.server: one.kb_per_tunnel for one in idle}
    for server in (HSMITM, *PEERS):
        prefix = "" if server == HSMITM else f"{server}_"
        if ("warm", server) in at:
            found |= {
                f"{prefix}cpu_ms_per_connection": at["warm", server].cpu_ms,
                f"{prefix}cpu_ms_per_cold_connection": at["cold", server].cpu_ms,
                f"{prefix}cpu_ms_per_request": at["kept", server].cpu_ms,
                f"{prefix}connections_per_s": at["warm", server].per_s,
                f"{prefix}requests_per_s": at["kept", server].per_s,
                f"{prefix}body_mb_per_s": at["body", server].per_s,
                f"{prefix}kb_per_idle_connection": memory[server],
            }
    if ("warm", _STOCK) in at:
        ours, stock = at["warm", HSMITM], at["warm", _STOCK]
        found |= {
            "warm_cpu_over_mitmdump": _ratio(ours.cpu_ms, stock.cpu_ms),
            "cold_cpu_over_mitmdump": _ratio(at["cold", HSMITM].cpu_ms, stock.cpu_ms),
            "keepalive_rate_over_mitmdump": _ratio(at["kept", HSMITM].per_s, at["kept", _STOCK].per_s),
            "keepalive_cpu_over_mitmdump": _ratio(at["kept", HSMITM].cpu_ms, at["kept", _STOCK].cpu_ms),
            "body_rate_over_mitmdump": _ratio(at["body", HSMITM].per_s, at["body", _STOCK].per_s),
            "body_cpu_over_mitmdump": _ratio(at["body", HSMITM].cpu_ms, at["body", _STOCK].cpu_ms),
            "idle_memory_over_mitmdump": _ratio(memory[HSMITM], memory[_STOCK]),
        }
    one, two, null = at["warm", HSMITM], at["warm", TWO_WORKERS], at["warm", ORIGIN]
    return found | {
        "two_workers_over_one": _ratio(two.per_s, one.per_s),
        "two_workers_over_one_by_cpu": _ratio(one.busiest_ms, two.busiest_ms),
        "generator_share_max": max(row.generator_share for row in rows if row.server == HSMITM),
        "generator_null_connections_per_s": null.per_s,
        "generator_null_requests_per_s": at["kept", ORIGIN].per_s,
        "generator_null_body_mb_per_s": at["body", ORIGIN].per_s,
        "others_share_max": max(row.others_share for row in rows),
    }


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else 0.0


def targets(found: dict[str, float], rows: list[Row]) -> list[Target]:
    """The bounds, and where hsmitm is. Two workers are judged by the CPU that their work takes where the machine had
    no core left for the second."""
    bounds = [Target(name, "at most", bound, found.get(name)) for name, bound in _AT_MOST.items()]
    bounds += [Target(name, "at least", bound, found.get(name)) for name, bound in _AT_LEAST.items()]
    two = next(row for row in rows if (row.phase, row.server) == ("warm", TWO_WORKERS))
    busy = two.server_share + two.generator_share + two.origin_share + two.others_share
    full = busy > _ALL_CORES * len(os.sched_getaffinity(0))
    name = "two_workers_over_one_by_cpu" if full else "two_workers_over_one"
    return [*bounds, Target(name, "at least", _TWO_OVER_ONE, found[name])]


def doubts(rows: list[Row]) -> list[str]:
    """Where a rate is not what the server can do: one that has a core and did not fill it was held up by others. And
    where the machine did something else. CPU is what it is."""
    single = (HSMITM, _STOCK, _SQUID)
    held_up = [
        f"{row.server} used only {row.server_share:.2f} cores in '{row.phase}' (load {row.generator_share:.2f}, "
        f"origin {row.origin_share:.2f}, others {row.others_share:.2f}): it may be faster than this"
        for row in rows
        if row.server in single and row.server_share < FULL
    ]
    return held_up + not_alone(max(row.others_share for row in rows), "rates may be better than this")


def charts(rows: list[Row], idle: list[Idle]) -> list[Chart]:
    """CPU per new connection, requests, memory: a bar for each server."""

    def series(name: str, phase: Phase, value: str) -> Series:
        found = [row for row in rows if row.phase == phase and row.server not in (TWO_WORKERS, ORIGIN)]
        return Series(name, [row.server for row in found], [getattr(row, value) for row in found])

    cpu = [series("known host", "warm", "cpu_ms"), series("new host", "cold", "cpu_ms")]
    occupied = Series("idle connection", [one.server for one in idle], [one.kb_per_tunnel for one in idle])
    return [
        Chart("CPU per new connection", "server", "CPU, ms", cpu, kind="bar"),
        Chart("CPU per request, kept alive", "server", "CPU, ms", [series("request", "kept", "cpu_ms")], kind="bar"),
        Chart("Memory per idle connection", "server", "PSS, KB", [occupied], kind="bar"),
    ]
