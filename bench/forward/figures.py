"""What the forward measurement's turns add up to: figures, which targets they meet, doubts and charts. No I/O."""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec import Struct

from bench.forward.peers import BEFORE, PEERS
from bench.report.doubts import FULL, not_alone
from bench.report.plot import Chart, Series
from bench.rig.server import Idle, Phase, Row

HSMITM, TWO_WORKERS, ORIGIN = "hsmitm", "hsmitm-2", "no proxy"
"""What is measured beside the peers: the third has the load generator talk to the origin itself."""
RULES, BARE = "hsmitm-rules", "hsmitm-bare"
"""With a thousand rules and the decryption log; and with neither. hsmitm itself is as init writes it: with the log."""
_STOCK, _SQUID = "mitmdump", "squid"
_ALL_CORES = 0.85
"""Of all cores: where more was used, nothing was left for a second worker."""

_AT_MOST = {"warm_cpu_over_mitmdump": 0.5, "cold_cpu_over_mitmdump": 1.0, "idle_memory_over_mitmdump": 1.0}
_AT_LEAST = {"keepalive_rate_over_mitmdump": 1.8}
_TWO_OVER_ONE = 1.7
_POLICY = "policy_cpu_over_without"
_POLICY_AT_MOST = 1.03

_Value = Callable[[Row], float]


def _cpu(row: Row) -> float:
    return row.cpu_ms


def _rate(row: Row) -> float:
    return row.per_s


def _cpu_100(row: Row) -> float:
    return 100 * row.cpu_ms


def _seconds_100(row: Row) -> float:
    return 100 / row.per_s if row.per_s else 0.0


_FIGURES: list[tuple[str, Phase, _Value]] = [
    ("cpu_ms_per_connection", "warm", _cpu),
    ("cpu_ms_per_cold_connection", "cold", _cpu),
    ("cpu_ms_per_request", "kept", _cpu),
    ("connections_per_s", "warm", _rate),
    ("requests_per_s", "kept", _rate),
    ("body_mb_per_s", "body", _rate),
    ("h2_16_cpu_ms_per_request", "h2-16", _cpu),
    ("h2_80_cpu_ms_per_request", "h2-80", _cpu),
    ("h2_16_requests_per_s", "h2-16", _rate),
    ("h2_80_requests_per_s", "h2-80", _rate),
    ("h2_down_cpu_ms_per_100_mb", "h2-down", _cpu_100),
    ("h2_up_cpu_ms_per_100_mb", "h2-up", _cpu_100),
    ("h2_down_s_per_100_mb", "h2-down", _seconds_100),
    ("h2_up_s_per_100_mb", "h2-up", _seconds_100),
]
"""What each server is told of."""
_RATIOS: list[tuple[str, Phase, _Value]] = [
    ("warm_cpu", "warm", _cpu),
    ("cold_cpu", "cold", _cpu),
    ("keepalive_rate", "kept", _rate),
    ("keepalive_cpu", "kept", _cpu),
    ("body_rate", "body", _rate),
    ("body_cpu", "body", _cpu),
    ("h2_16_cpu", "h2-16", _cpu),
    ("h2_80_cpu", "h2-80", _cpu),
    ("h2_16_rate", "h2-16", _rate),
    ("h2_80_rate", "h2-80", _rate),
    ("h2_down_cpu", "h2-down", _cpu),
    ("h2_up_cpu", "h2-up", _cpu),
    ("h2_down_seconds", "h2-down", _seconds_100),
    ("h2_up_seconds", "h2-up", _seconds_100),
]
"""What hsmitm's value is put over: that of another server."""
_NOISE = 1.05
_BEFORE_AT_MOST = {
    "warm_cpu_over_before": _NOISE,
    "cold_cpu_over_before": _NOISE,
    "keepalive_cpu_over_before": _NOISE,
    "body_cpu_over_before": _NOISE,
    "h2_16_cpu_over_before": 0.8,
    "h2_80_cpu_over_before": 0.8,
    "h2_down_cpu_over_before": 0.6,
    "h2_up_cpu_over_before": 0.6,
}
"""Against the version whose HTTP/2 was mitmproxy's own: _NOISE stands for "no slower"."""


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
    """What a missing peer, or a phase that was left out, would have told is left out."""
    found: dict[str, float] = {}
    at = {(one.phase, one.server): one for one in rows}
    memory = {one.server: one.kb_per_tunnel for one in idle}
    for server in (HSMITM, *PEERS, BEFORE):
        prefix = {HSMITM: "", BEFORE: "before_"}.get(server, f"{server}_")
        for name, phase, value in _FIGURES:
            if row := at.get((phase, server)):
                found[prefix + name] = value(row)
        if server in memory:
            found[f"{prefix}kb_per_idle_connection"] = memory[server]
    for server, name in ((_STOCK, "mitmdump"), (BEFORE, "before")):
        found |= {f"{one}_over_{name}": ratio for one, ratio in _over(server, at, memory).items()}
    return found | _generator(rows, at)


def _over(server: str, at: dict[tuple[Phase, str], Row], memory: dict[str, float]) -> dict[str, float]:
    """hsmitm's values over those of `server`. mitmdump's cold connections need no HSM: ours have to be no dearer than
    its warm ones."""
    found = {}
    for name, phase, value in _RATIOS:
        ours, theirs = (
            at.get((phase, HSMITM)),
            at.get(("warm" if (phase, server) == ("cold", _STOCK) else phase, server)),
        )
        if ours and theirs:
            found[name] = _ratio(value(ours), value(theirs))
    if HSMITM in memory and server in memory:
        found["idle_memory"] = _ratio(memory[HSMITM], memory[server])
    return found


def _generator(rows: list[Row], at: dict[tuple[Phase, str], Row]) -> dict[str, float]:
    """Two workers over one, and what the load generators used and can do."""
    found = {
        "generator_share_max": max(row.generator_share for row in rows if row.server == HSMITM),
        "others_share_max": max(row.others_share for row in rows),
    }
    one, two = at.get(("warm", HSMITM)), at.get(("warm", TWO_WORKERS))
    if one and two:
        found |= {
            "two_workers_over_one": _ratio(two.per_s, one.per_s),
            "two_workers_over_one_by_cpu": _ratio(one.busiest_ms, two.busiest_ms),
        }
    ruled, bare = at.get(("warm", RULES)), at.get(("warm", BARE))
    if ruled and bare:
        found[_POLICY] = _ratio(ruled.cpu_ms, bare.cpu_ms)
    nulls: dict[str, Phase] = {"connections_per_s": "warm", "requests_per_s": "kept", "body_mb_per_s": "body",
                               "h2_requests_per_s": "h2-16", "h2_body_mb_per_s": "h2-down"}  # fmt: skip
    return found | {
        f"generator_null_{name}": row.per_s for name, phase in nulls.items() if (row := at.get((phase, ORIGIN)))
    }


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else 0.0


def targets(found: dict[str, float], rows: list[Row]) -> list[Target]:
    """The bounds of the phases that were measured, and where hsmitm is. Two workers are judged by the CPU that their
    work takes where the machine had no core left for the second."""
    bounds = []
    two = next((row for row in rows if (row.phase, row.server) == ("warm", TWO_WORKERS)), None)
    if two is not None:
        bounds += [Target(name, "at most", bound, found.get(name)) for name, bound in _AT_MOST.items()]
        bounds += [Target(name, "at least", bound, found.get(name)) for name, bound in _AT_LEAST.items()]
        busy = two.server_share + two.generator_share + two.origin_share + two.others_share
        full = busy > _ALL_CORES * len(os.sched_getaffinity(0))
        name = "two_workers_over_one_by_cpu" if full else "two_workers_over_one"
        bounds.append(Target(name, "at least", _TWO_OVER_ONE, found[name]))
    if _POLICY in found:
        bounds.append(Target(_POLICY, "at most", _POLICY_AT_MOST, found[_POLICY]))
    before = {name: bound for name, bound in _BEFORE_AT_MOST.items() if name in found}
    return bounds + [Target(name, "at most", bound, found[name]) for name, bound in before.items()]


def doubts(rows: list[Row]) -> list[str]:
    """Where a rate is not what the server can do: one that has a core and did not fill it was held up by others. And
    where the machine did something else. CPU is what it is."""
    single = (HSMITM, BEFORE, _STOCK, _SQUID)
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
        found = [row for row in rows if row.phase == phase and row.server not in (TWO_WORKERS, RULES, BARE, ORIGIN)]
        return Series(name, [row.server for row in found], [getattr(row, value) for row in found])

    cpu = [series("known host", "warm", "cpu_ms"), series("new host", "cold", "cpu_ms")]
    occupied = Series("idle connection", [one.server for one in idle], [one.kb_per_tunnel for one in idle])
    return [
        Chart("CPU per new connection", "server", "CPU, ms", cpu, kind="bar"),
        Chart("CPU per request, kept alive", "server", "CPU, ms", [series("request", "kept", "cpu_ms")], kind="bar"),
        Chart("Memory per idle connection", "server", "PSS, KB", [occupied], kind="bar"),
    ]
