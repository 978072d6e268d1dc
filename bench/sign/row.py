"""All turns of one depth at one point with one kind and one loop, as a line of the report's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from msgspec import Struct

from bench.report.percentiles import percentile
from bench.sign.depth import RAW, Turn
from bench.sign.points import Point


class Row(Struct, frozen=True, kw_only=True):
    """`rate` is what was asked for each second, 0 in the closed loop; `over_raw` is the rate over that of raw. CPU
    times are for each signature, by role; `generator_share` is how many cores the load generator used, `others_share`
    how many were used by processes that have no part in this."""

    point: Point
    kind: str
    depth: str
    rate: float
    per_s: float
    over_raw: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    cpu_us: dict[str, float]
    verify_us: float
    generator_share: float
    others_share: float

    @classmethod
    def sums(cls, turns: Sequence[Turn]) -> list[Self]:
        """A row for each, in the order of their first turns but raw first."""
        groups: dict[tuple[Point, str, float], dict[str, list[Turn]]] = {}
        for one in turns:
            group = groups.setdefault((one.point, one.kind, one.rate), {"raw": [], "member": [], "signer": []})
            group[one.depth].append(one)
        return [cls._sum(some, _per_s(group[RAW])) for group in groups.values() for some in group.values() if some]

    @classmethod
    def _sum(cls, turns: list[Turn], raw_per_s: float) -> Self:
        first, seconds = turns[0], sum(one.seconds for one in turns)
        signed = max(1, sum(len(one.taken.latencies_ms) for one in turns))
        latencies = [value for one in turns for value in one.taken.latencies_ms]
        used: dict[str, float] = {}
        for one in turns:
            for role, cpu in one.cpu_s.items():
                used[role] = used.get(role, 0.0) + cpu
        return cls(
            point=first.point,
            kind=first.kind,
            depth=first.depth,
            rate=first.rate,
            per_s=_per_s(turns),
            over_raw=_per_s(turns) / raw_per_s if raw_per_s else 0.0,
            p50_ms=percentile(latencies, 0.5),
            p90_ms=percentile(latencies, 0.9),
            p99_ms=percentile(latencies, 0.99),
            max_ms=max(latencies, default=0.0),
            late_p99_ms=percentile([value for one in turns for value in one.taken.late_ms], 0.99),
            cpu_us={role: 1e6 * cpu / signed for role, cpu in used.items()},
            verify_us=min(one.taken.verify_us for one in turns),
            generator_share=used.get("generator", 0.0) / seconds,
            others_share=sum(one.others_s for one in turns) / seconds,
        )

    def shown(self) -> dict[str, str | float]:
        """As a line of the report's table."""
        point = self.point
        members = f"{point.members}x" if point.members > 1 else ""
        latency = f"+{point.latency_ms:g}ms" if point.latency_ms else ""
        return {
            "key": self.kind,
            "sessions": f"{members}{point.sessions}{latency}",
            "loop": f"{self.rate:.0f}/s" if self.rate else "closed",
            "depth": self.depth,
            "per s": self.per_s,
            "of raw": round(self.over_raw, 2),
            "p50 ms": self.p50_ms,
            "p90 ms": self.p90_ms,
            "p99 ms": self.p99_ms,
            "max ms": self.max_ms,
            "CPU us": round(sum(self.cpu_us.values())),
        }


def _per_s(turns: Sequence[Turn]) -> float:
    return sum(one.taken.signed for one in turns) / sum(one.seconds for one in turns) if turns else 0.0
