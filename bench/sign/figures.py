"""What the rows of the signing measurement come to: figures, the knee, where the time goes, and what to doubt."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from bench.report.doubts import FULL, not_alone
from bench.sign.depth import MEMBER, RAW, SIGNER
from bench.sign.kind import KINDS
from bench.sign.points import Point
from bench.sign.row import Row

_KNEE = 0.9
"""Of the best rate of a sweep: the fewest sessions that reach it are the knee."""


def figures(rows: Sequence[Row], main: Point) -> dict[str, float]:
    """Flat. What has no point in its name is of `main`."""
    found: dict[str, float] = {}
    for kind in dict.fromkeys(one.kind for one in rows):
        name = KINDS[kind].figure
        at = {one.depth: one for one in rows if (one.kind, one.point, one.rate) == (kind, main, 0)}
        found |= {f"{name}.{depth}_over_raw": at[depth].over_raw for depth in (MEMBER, SIGNER)}
        found |= {f"{name}.{depth}_per_s": one.per_s for depth, one in at.items()}
        found |= {f"{name}.{depth}_us": sum(one.cpu_us.values()) for depth, one in at.items()}
        found |= _latencies(f"{name}.signer", at[SIGNER])
        found[f"{name}.generator_us"] = at[SIGNER].cpu_us["generator"]
        found[f"{name}.verification_us"] = at[RAW].verify_us
        paced = [one for one in rows if (one.kind, one.depth, one.point) == (kind, SIGNER, main) and one.rate]
        if paced:
            most = max(paced, key=lambda one: one.rate)
            found |= {f"{name}.open_asked_per_s": most.rate} | _latencies(f"{name}.open", most)
        knee = _knee(rows, kind, main.latency_ms, main.members)
        found |= {f"{name}.knee_sessions": knee.point.sessions} if knee else {}
        found |= _more_members(rows, kind, main)
    knees = [value for name, value in found.items() if name.endswith(".knee_sessions")]
    found |= {"knee_sessions": max(knees)} if knees else {}
    found |= _far_away(rows)
    found["generator_share_max"] = max(one.generator_share for one in rows)
    found["others_share_max"] = max(one.others_share for one in rows)
    return found


def _latencies(name: str, row: Row) -> dict[str, float]:
    return {f"{name}_p50_ms": row.p50_ms, f"{name}_p90_ms": row.p90_ms, f"{name}_p99_ms": row.p99_ms,
            f"{name}_max_ms": row.max_ms}  # fmt: skip


def _closed(rows: Sequence[Row], kind: str, depth: str) -> list[Row]:
    return [one for one in rows if (one.kind, one.depth, one.rate) == (kind, depth, 0)]


def _more_members(rows: Sequence[Row], kind: str, main: Point) -> dict[str, float]:
    """What more members with as many sessions bring."""
    alike = [
        one
        for one in _closed(rows, kind, SIGNER)
        if (one.point.latency_ms, one.point.sessions) == (main.latency_ms, main.sessions)
    ]
    first = next(one for one in alike if one.point == main)
    more = [one for one in alike if one is not first and first.per_s]
    return {
        f"{KINDS[kind].figure}.members{one.point.members}_over_{main.members}": one.per_s / first.per_s for one in more
    }


def _theory(point: Point) -> float:
    """Signatures per second that so many sessions make at best; 0 where nothing is known."""
    return 1000 * point.sessions * point.members / point.latency_ms if point.latency_ms else 0.0


def _far_away(rows: Sequence[Row]) -> dict[str, float]:
    """With a latency and the most sessions: the signer's rate over what these can do (sessions / latency), and over
    that or raw's rate, whichever is less. Of the kinds the worst."""
    found: dict[str, float] = {}
    for latency_ms in sorted({one.point.latency_ms for one in rows} - {0}):
        far = [one for one in rows if one.depth == SIGNER and not one.rate and one.point.latency_ms == latency_ms]
        theory = max(_theory(one.point) for one in far)
        far = [one for one in far if _theory(one.point) == theory]
        over_limit = {one.kind: max(one.per_s / theory, one.over_raw) for one in far}
        for kind, ratio in over_limit.items():
            found[f"{KINDS[kind].figure}.latency{latency_ms:g}ms_rate_over_limit"] = ratio
        name = f"latency{latency_ms:g}ms"
        found[f"{name}.theory_per_s"] = theory
        found[f"{name}.rate_over_theory"] = min(one.per_s / theory for one in far)
        found[f"{name}.rate_over_limit"] = min(over_limit.values())
    return found


def _sweep(rows: Sequence[Row], kind: str, latency_ms: float, members: int) -> list[Row]:
    return [
        one for one in _closed(rows, kind, SIGNER) if (one.point.latency_ms, one.point.members) == (latency_ms, members)
    ]


def _knee(rows: Sequence[Row], kind: str, latency_ms: float, members: int) -> Row | None:
    """The fewest sessions of a sweep with nearly its best rate; None where there is no sweep."""
    sweep = _sweep(rows, kind, latency_ms, members)
    if len(sweep) < 2:
        return None
    best = max(one.per_s for one in sweep)
    return min((one for one in sweep if one.per_s >= _KNEE * best), key=lambda one: one.point.sessions)


def advice(rows: Sequence[Row]) -> Iterator[str]:
    """For each sweep and kind, in a sentence, what to configure."""
    for latency_ms, members in dict.fromkeys((one.point.latency_ms, one.point.members) for one in rows):
        for kind in dict.fromkeys(one.kind for one in rows):
            knee = _knee(rows, kind, latency_ms, members)
            if knee is not None:
                yield _configure(knee, _sweep(rows, kind, latency_ms, members))


def _configure(knee: Row, sweep: Sequence[Row]) -> str:
    best, last = max(sweep, key=lambda one: one.per_s), max(sweep, key=lambda one: one.point.sessions)
    where = f"{knee.kind} with {'a member' if knee.point.members == 1 else f'{knee.point.members} members'}"
    where += f" and {knee.point.latency_ms:g} ms of HSM latency" if knee.point.latency_ms else ""
    if knee is last:
        return (
            f"{where}: {knee.point.sessions} sessions, the most that were measured, are not yet too many "
            f"({knee.per_s:.0f} signatures/s): measure with more before you configure"
        )
    return (
        f"{where}: configure sessions = {knee.point.sessions}, which gives {knee.per_s:.0f} signatures/s, "
        f"{knee.per_s / best.per_s:.0%} of the best of all that was measured; {last.point.sessions} give "
        f"{last.per_s:.0f}/s, and when all are busy a request takes {last.p50_ms:.3g} ms instead of {knee.p50_ms:.3g}"
    )


def where_it_goes(rows: Sequence[Row], main: Point) -> Iterator[str]:
    """For each kind, in a sentence, the CPU time of a signature through the signer."""
    for kind in dict.fromkeys(one.kind for one in rows):
        at = {one.depth: one for one in rows if (one.kind, one.point, one.rate) == (kind, main, 0)}
        raw, signer = at[RAW].cpu_us[RAW], at[SIGNER].cpu_us
        yield (
            f"{kind}, {main}: of {sum(signer.values()):.0f} us of CPU for each signature the module takes {raw:.0f} "
            f"(as in raw), the member's frames and threads {max(0.0, signer['members'] - raw):.0f}, the signer "
            f"{signer['signer']:.0f} (its verification {at[RAW].verify_us:.0f}), the load generator "
            f"{signer['generator']:.0f}, which is {at[SIGNER].generator_share:.2f} of a core"
        )


def doubts(rows: Sequence[Row]) -> Iterator[str]:
    """Where the load generator may have been what was measured, and where the machine did something else."""
    for one in rows:
        if one.generator_share > FULL:
            yield (
                f"the load generator used {one.generator_share:.0%} of a core ({one.depth}, {one.kind}, {one.point}): "
                "more may be possible"
            )
        if one.rate and one.per_s < 0.95 * one.rate:
            yield f"{one.depth} did not keep up with {one.rate:.0f}/s ({one.kind}): {one.per_s:.0f}/s were done in time"
        theory = _theory(one.point)
        if theory and one.depth == SIGNER and one.per_s < _KNEE * theory:
            cores = theory * sum(one.cpu_us.values()) / 1e6
            if cores > len(os.sched_getaffinity(0)):
                yield (
                    f"{one.kind}, {one.point}: {theory:.0f}/s would take {cores:.1f} cores and there are "
                    f"{len(os.sched_getaffinity(0))}, on which SoftHSM signs, too"
                )
    yield from not_alone(max(one.others_share for one in rows), "no rate here is its best")
