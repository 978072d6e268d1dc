"""The failover soak: forward connections to ever new hosts while members fail at random, one at a time, and come back.

At every moment at least one member is sound, so that no visit may fail. The faults, their order and their lengths come
from a seed. What is measured is what a client sees, and how long a member takes to be whole again.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import tempfile
import time
from pathlib import Path

from msgspec import Struct, field, structs

from bench.report.percentiles import percentile
from bench.report.plot import Chart, Series
from bench.report.report import Progress, Report
from bench.rig.system import System, all_up
from bench.rig.visits import Visit, Visitors
from bench.soak.faults import FAULTS

_CLIENTS, _PAUSE_S = 8, 0.08
"""A pace that leaves the processors some rest: at saturation every latency is the queue's."""
_BASELINE_S = 5.0
_FAULT_S = (0.5, 3.0)
_QUIET_S = (0.3, 1.0)
_RECOVERY_LIMIT_S = 60.0
_POLL_S = 0.02
_SLOW = 2.0
"""A visit counts as affected where it failed, or took longer than this many times the baseline's 99th percentile."""


class Happened(Struct):
    """One fault. Times are seconds from the begin of its round; `affected_s` is from the fault to the end of the last
    affected visit that began before the next fault, `recovery_s` from the restoration to full service."""

    fault: str
    member: str
    began: float
    restored: float = 0.0
    recovery_s: float = 0.0
    affected_s: float = 0.0


class Round(Struct):
    """One soak with a number of members. Latencies are in milliseconds."""

    members: int
    seconds: float
    baseline: dict[str, float]
    during: dict[str, float]
    happened: list[Happened] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    bad_signatures: int = 0
    requests: int = 0
    failed: int = 0


async def soak(
    seconds: float,
    members: list[int],
    seed: int,
    *,
    key_type: str,
    sessions: int,
    workers: int,
    hsm_latency_ms: float,
    progress: Progress,
) -> Report:
    """A round for each number of members. `progress` gets a text and the share that is done."""
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    rounds = []
    for number, count in enumerate(members):

        def tell(text: str, done: float, before: int = number) -> None:
            progress(text, (before + done) / len(members))

        with tempfile.TemporaryDirectory(prefix="hsmitm-bench-") as directory:
            async with System(
                Path(directory), count, key_type=key_type, workers=workers, sessions=sessions, seed=seed + number
            ) as system:
                for module in system.modules.values():
                    module.latency(hsm_latency_ms)
                rounds.append(await _round(system, seconds, random.Random(seed + number), tell))  # noqa: S311
    return Report(
        name="failover",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=seed,
        configuration={"members": members, "seconds": seconds, "key_type": key_type, "sessions": sessions,
                       "workers": workers, "hsm_latency_ms": hsm_latency_ms, "clients": _CLIENTS, "pause_s": _PAUSE_S},
        figures=_figures(rounds),
        errors=[error for one in rounds for error in one.errors],
        detail={"rounds": [structs.asdict(one) for one in rounds]},
        charts=[_chart(one) for one in rounds],
    )  # fmt: skip


def _chart(one: Round) -> Chart:
    names = ["p50", "p99", "max"]
    before = Series("without faults", names, [one.baseline[name] for name in names])
    during = Series("while members fail", names, [one.during[name] for name in names])
    return Chart(
        title=f"{one.members} members, {one.requests} connections, {one.failed} failed",
        x_label=f"{len(one.happened)} faults, one at a time",
        y_label="ms from CONNECT to the answer",
        series=[before, during],
        kind="bar",
    )


async def _round(system: System, seconds: float, chance: random.Random, progress: Progress) -> Round:
    async with Visitors(system.proxy, system.ca, system.origin.port, _CLIENTS, _PAUSE_S) as visitors:
        progress(f"{len(system.names)} members, no faults", 0.0)
        await asyncio.sleep(_BASELINE_S)
        baseline = list(visitors.visits)
        begin = time.monotonic()
        happened = await _faults(system, begin, seconds, chance, progress)
    visits = visitors.visits[len(baseline) :]
    slow_s = _SLOW * percentile([one.seconds for one in baseline], 0.99)
    for number, one in enumerate(happened):
        following = happened[number + 1].began if number + 1 < len(happened) else float("inf")
        one.affected_s = _affected_s(visits, begin + one.began, begin + following, slow_s)
    failed = [one for one in [*baseline, *visits] if one.error]
    return Round(
        members=len(system.names),
        seconds=time.monotonic() - begin,
        baseline=_latencies(baseline),
        during=_latencies(visits),
        happened=happened,
        errors=[one.error for one in failed],
        bad_signatures=sum(one.bad_signature for one in failed),
        requests=len(baseline) + len(visits),
        failed=len(failed),
    )


async def _faults(
    system: System, begin: float, seconds: float, chance: random.Random, progress: Progress
) -> list[Happened]:
    """Every kind once, in an order of chance, then again, until the time is over."""
    happened: list[Happened] = []
    kinds: list[str] = []
    while time.monotonic() - begin < seconds:
        if not kinds:
            kinds = chance.sample(sorted(FAULTS), len(FAULTS))
        one = Happened(kinds.pop(), chance.choice(system.names), time.monotonic() - begin)
        happened.append(one)
        progress(f"{len(system.names)} members: {one.fault} at {one.member}", one.began / seconds)
        async with FAULTS[one.fault](system, one.member):
            await asyncio.sleep(chance.uniform(*_FAULT_S))
        restored = time.monotonic()
        one.restored = restored - begin
        while not all_up(await system.status()):
            if time.monotonic() - restored > _RECOVERY_LIMIT_S:
                raise TimeoutError(f"{one.member} did not recover from '{one.fault}'; see the run's log")
            await asyncio.sleep(_POLL_S)
        one.recovery_s = time.monotonic() - restored
        await asyncio.sleep(chance.uniform(*_QUIET_S))
    return happened


def _affected_s(visits: list[Visit], fault: float, following: float, slow_s: float) -> float:
    ends = [
        one.began + one.seconds
        for one in visits
        if one.began + one.seconds >= fault and one.began < following and (one.error or one.seconds > slow_s)
    ]
    return max(0.0, max(ends) - fault) if ends else 0.0


def _latencies(visits: list[Visit]) -> dict[str, float]:
    taken = [1000 * one.seconds for one in visits]
    return {
        "p50": percentile(taken, 0.5),
        "p99": percentile(taken, 0.99),
        "max": max(taken, default=0.0),
        "rate_per_s": len(visits) / (visits[-1].began - visits[0].began) if len(visits) > 1 else 0.0,
    }


def _figures(rounds: list[Round]) -> dict[str, float]:
    """Over all rounds: sums of counts, the worst of latencies and recoveries. `added_` is against the same round's own
    part without faults."""
    happened = [one for each in rounds for one in each.happened]
    figures = {
        "requests": sum(one.requests for one in rounds),
        "failed_requests": sum(one.failed for one in rounds),
        "bad_signatures": sum(one.bad_signatures for one in rounds),
        "faults": len(happened),
    }
    worst: dict[str, float] = {}
    for name in ("p50", "p99", "max"):
        worst[f"latency_{name}_ms"] = max(one.during[name] for one in rounds)
        worst[f"added_{name}_ms"] = max(one.during[name] - one.baseline[name] for one in rounds)
    worst["recovery_max_s"] = max(one.recovery_s for one in happened)
    worst["affected_max_s"] = max(one.affected_s for one in happened)
    return figures | worst
