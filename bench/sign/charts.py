"""The charts of the signing measurement."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.plot import Chart, Series
from bench.sign.depth import DEPTHS, SIGNER
from bench.sign.points import Point
from bench.sign.row import Row


def charts(rows: Sequence[Row], main: Point) -> list[Chart]:
    """For each kind the rate of each depth by sessions, and the signer's latency; without a sweep, bars."""
    swept = [
        one
        for one in rows
        if not one.rate and (one.point.latency_ms, one.point.members) == (main.latency_ms, main.members)
    ]
    kinds = list(dict.fromkeys(one.kind for one in rows))
    if len({one.point for one in swept}) < 2:
        return [_bars(swept, kinds)]
    return [*(_rates(swept, kind) for kind in kinds), _latency(swept, kinds)]


def _rates(rows: Sequence[Row], kind: str) -> Chart:
    series = [_line(depth, [one for one in rows if (one.kind, one.depth) == (kind, depth)]) for depth in DEPTHS]
    return Chart(f"{kind}: rate by depth", "sessions", "signatures per second", series, x_log=True)


def _line(name: str, rows: Sequence[Row]) -> Series:
    return Series(name, [one.point.sessions for one in rows], [one.per_s for one in rows])


def _latency(rows: Sequence[Row], kinds: Sequence[str]) -> Chart:
    series = []
    for kind in kinds:
        some = [one for one in rows if (one.kind, one.depth) == (kind, SIGNER)]
        sessions = [one.point.sessions for one in some]
        series.append(Series(f"{kind}, p50", sessions, [one.p50_ms for one in some]))
        series.append(Series(f"{kind}, p99", sessions, [one.p99_ms for one in some]))
    notes = ["closed loop, two calls in flight for each session"]
    return Chart("latency through the signer", "sessions", "milliseconds", series, x_log=True, notes=notes)


def _bars(rows: Sequence[Row], kinds: Sequence[str]) -> Chart:
    series = [
        Series(depth, kinds, [one.per_s for kind in kinds for one in rows if (one.kind, one.depth) == (kind, depth)])
        for depth in DEPTHS
    ]
    return Chart(f"rate by depth, {rows[0].point}", "key", "signatures per second", series, kind="bar")
