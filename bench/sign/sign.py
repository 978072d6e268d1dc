"""The signing measurement: signatures per second and their latency at three depths, and what hsmitm costs of the limit.

At each point (HSM latency, members, sessions) the depths `raw`, `member` and `signer` (`bench.sign.depth`) take
turns, in an order that the seed gives, so that what else the machine does hits all alike; the ratios are of all turns.
First in a closed loop, as fast as answers come; then, at one point, at a steady rate.
"""

from __future__ import annotations

import datetime as dt
import random
import tempfile
import time
from pathlib import Path

from msgspec import Struct, structs

from bench import checkout
from bench.report.percentiles import centiles
from bench.report.report import Progress, Report
from bench.report.versions import installed
from bench.sign.charts import charts
from bench.sign.depth import DEPTHS, SIGNER, Depths, Turn
from bench.sign.figures import advice, doubts, figures, where_it_goes
from bench.sign.kind import KINDS, Kind
from bench.sign.points import FAR_MS, Point, main_point, points
from bench.sign.row import Row
from bench.sign.target import MakeTarget, Target

_WARM_UP_S = 0.1
_HALF = 0.5
"""Of the signer's rate in the closed loop: what the open loop asks for, unless it is told."""


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure: at each point, for each kind, `rounds` turns of `seconds` for each depth. The open loop runs at
    `rates` each second, or where there are none at half of what the signer got; not at all with a rate of 0."""

    points: list[Point]
    seconds: float
    rounds: int
    seed: int
    rates: list[float]

    @property
    def main(self) -> Point:
        """What figures without a point in their names are of."""
        return main_point(self.points)


async def sign(plan: Plan, make_target: MakeTarget, progress: Progress) -> Report:
    """Measure on the target that `make_target` makes, given a directory that is thrown away. `progress` gets a text and
    the share that is done."""
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hsmitm-bench-") as directory:
        target = await make_target(Path(directory))
        measuring = _Measuring(plan, target, Path(directory), progress)
        turns = await measuring.run()
    rows = Row.sums(turns)
    errors = [f"{one.depth}, {one.kind}, {one.point}: {error}" for one in turns for error in one.taken.errors]
    return Report(
        name="sign",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=plan.seed,
        configuration=structs.asdict(plan) | {"kinds": list(target.keys), "modules": target.modules},
        figures=figures(rows, plan.main) | {"failed_requests": len(errors)},
        errors=errors,
        detail={"versions": installed(), "turns": [_detail(one) for one in turns]},
        rows=[one.shown() for one in rows],
        notes=[
            *target.notes, *measuring.notes, *_left_out(plan), *where_it_goes(rows, plan.main), *doubts(rows),
            *advice(rows),
        ],
        charts=charts(rows, plan.main),
    )  # fmt: skip


def _left_out(plan: Plan) -> list[str]:
    """What the same command measures in a checkout, too."""
    if checkout.here() or plan.points != points(None, None, None):
        return []
    far = " and ".join(f"{one:g}" for one in FAR_MS)
    return [f"an HSM that is {far} ms away was not measured: {checkout.needed(command='sign')}"]


def _detail(turn: Turn) -> dict[str, object]:
    """A turn with its latencies as centiles: a run has millions of them."""
    told = structs.asdict(turn) | {"point": structs.asdict(turn.point)}
    told["taken"] = structs.asdict(turn.taken) | {
        "latencies_ms": centiles(turn.taken.latencies_ms), "late_ms": centiles(turn.taken.late_ms),
    }  # fmt: skip
    return told


class _Measuring:
    """The turns, point after point."""

    def __init__(self, plan: Plan, target: Target, directory: Path, progress: Progress) -> None:
        self.notes: list[str] = []
        self._plan, self._target, self._directory, self._progress = plan, target, directory, progress
        self._kinds = [KINDS[name] for name in target.keys]
        self._chance = random.Random(plan.seed)  # noqa: S311
        loops = sum(rate > 0 for rate in plan.rates) if plan.rates else 1
        self._steps = len(self._kinds) * (len(plan.points) + loops) * plan.rounds
        self._done = 0

    async def run(self) -> list[Turn]:
        """Every point, kind and loop: all turns, in the order in which they were taken."""
        turns: list[Turn] = []
        for number, point in enumerate(self._plan.points):
            target = self._target.delayed(point.latency_ms, self._directory / "modules")
            async with Depths(self._directory / f"signer-{number}", target, point, self._plan.seed) as depths:
                self.notes += depths.notes
                for kind in self._kinds:
                    for depth in DEPTHS:
                        await depths.turn(depth, kind, _WARM_UP_S)
                    turns += await self._rounds(depths, point, kind, 0.0)
                    if point == self._plan.main:
                        for rate in self._rates(turns, kind):
                            turns += await self._rounds(depths, point, kind, rate)
        return turns

    async def _rounds(self, depths: Depths, point: Point, kind: Kind, rate: float) -> list[Turn]:
        turns = []
        for _ in range(self._plan.rounds):
            loop = f"{rate:.0f}/s" if rate else "as fast as answered"
            self._progress(f"{kind.name}, {point}, {loop}", self._done / self._steps)
            self._done += 1
            for depth in self._chance.sample(DEPTHS, len(DEPTHS)):
                turns.append(await depths.turn(depth, kind, self._plan.seconds, rate))  # noqa: PERF401  # one by one
        return turns

    def _rates(self, turns: list[Turn], kind: Kind) -> list[float]:
        if self._plan.rates:
            return [rate for rate in self._plan.rates if rate]
        ours = [one for one in turns if (one.point, one.kind, one.depth) == (self._plan.main, kind.name, SIGNER)]
        return [max(1.0, _HALF * sum(one.per_s for one in ours) / len(ours) // 1)]
