"""What one attack came to, and when it has succeeded. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bench.edge.bystander import Wait
from bench.edge.target import Seen
from bench.report.percentiles import percentile

ADDED_MS, GROWTH_MB, LOG_LINES_PER_S, LINE_BYTES = 250.0, 64.0, 100.0, 4096
"""More than these of another client's wait, of any process's memory, of the log: then the attack has succeeded."""
_TOLD = 6


class Waits(Struct, frozen=True):
    """The waits of the client that does nothing wrong: at worst, in all and of each kind, and the 99th percentile, in
    ms; and failures."""

    worst_ms: float
    p99_ms: float
    number: int
    failed: int
    errors: list[str]
    kinds: dict[str, float]

    @classmethod
    def of(cls, waits: Sequence[Wait]) -> Waits:
        """A failure counts as a wait as well."""
        times = [one.ms for one in waits]
        errors = [f"{one.kind}: {one.error}" for one in waits if one.error]
        kinds: dict[str, float] = {}
        for one in waits:
            kinds[one.kind] = max(kinds.get(one.kind, 0.0), one.ms)
        worst = max(times, default=0.0)
        return cls(worst, percentile(times, 0.99), len(waits), len(errors), errors[:_TOLD], kinds)


class Verdict(Struct, frozen=True, kw_only=True):
    """One attack: what the attacker `seen`, the other client's waits `before` and `during` it, how much memory each
    process grew by, descriptors of the one that grew most, lines of the log for each second and the longest, the
    counters that rose and the lines that came and had not in a quiet moment, whether the status page answered, whether
    `hsmitm status` did meanwhile (None where it was not tried), and what was `ended` for its size. `trouble` is a fault
    of the measurement itself, after which nobody knows."""

    name: str
    point: str
    seen: Seen
    before: Waits
    during: Waits
    growth_mb: dict[str, float]
    descriptors: int
    log_lines_per_s: float
    longest_line: int
    metrics: list[str]
    lines: list[str]
    page: bool
    status: bool | None = None
    ended: str = ""
    trouble: str = ""

    @property
    def added_ms(self) -> float:
        """The worst wait above the worst one before the attack."""
        return max(0.0, self.during.worst_ms - self.before.worst_ms)

    @property
    def growth_max_mb(self) -> float:
        """Of the process that grew most."""
        return max(self.growth_mb.values(), default=0.0)

    @property
    def reasons(self) -> list[str]:
        """By what it has succeeded; empty where hsmitm held."""
        found = [f"passed: {'; '.join(self.seen.passed)}"] if self.seen.passed else []
        found += [f"did not work: {'; '.join(self.seen.broke)}"] if self.seen.broke else []
        if self.added_ms > ADDED_MS:
            slow = [kind for kind, ms in self.during.kinds.items() if ms - self.before.worst_ms > ADDED_MS]
            found.append(f"another client waited {self.added_ms:.0f} ms longer ({', '.join(slow)})")
        if self.during.failed:
            found.append(f"{self.during.failed} of another client's {self.during.number} requests failed")
        grown = [f"{role} +{mb:.0f} MB" for role, mb in self.growth_mb.items() if mb > GROWTH_MB]
        found += [", ".join(grown)] if grown else []
        if self.log_lines_per_s > LOG_LINES_PER_S:
            found.append(f"{self.log_lines_per_s:.0f} lines of log a second")
        if self.longest_line > LINE_BYTES:
            found.append(f"a line of {self.longest_line} bytes")
        found += [] if self.page else ["the status page did not answer"]
        found += ["'hsmitm status' did not answer"] if self.status is False else []
        return [*found, self.ended] if self.ended else found

    def shown(self) -> dict[str, str | float]:
        """As a line of the report's table."""
        return {
            "attack": self.name,
            "point": self.point,
            "held": "NO" if self.reasons else "?" if self.trouble else "yes",
            "added ms": round(self.added_ms),
            "failed": self.during.failed,
            "MB": round(self.growth_max_mb),
            "lines/s": round(self.log_lines_per_s),
            "metric": "yes" if self.metrics else "-",
            "log": "yes" if self.lines else "-",
        }

    def sentence(self) -> str:
        """What the attacker saw, and by what it has succeeded."""
        most = sorted(self.seen.outcomes.items(), key=lambda one: -one[1])[:_TOLD]
        saw = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in most) or "nothing"
        because = f"SUCCEEDED: {'; '.join(self.reasons)}. " if self.reasons else ""
        because += f"TROUBLE: {self.trouble}. " if self.trouble else ""
        return f"{self.name} ({self.point}): {because}The attacker saw: {saw}"


def figures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Of all attacks together."""
    succeeded = [one for one in verdicts if one.reasons]
    return {
        "attacks": len(verdicts),
        "attacks_succeeded": len(succeeded),
        "uninspected": sum(len(one.seen.passed) for one in verdicts),
        "broken": sum(len(one.seen.broke) for one in verdicts),
        "bystander_added_max_ms": max((one.added_ms for one in verdicts), default=0.0),
        "bystander_failed_requests": sum(one.during.failed for one in verdicts),
        "memory_growth_max_mb": max((one.growth_max_mb for one in verdicts), default=0.0),
        "log_lines_per_s_max": max((one.log_lines_per_s for one in verdicts), default=0.0),
        "not_in_metrics": sum(not one.metrics for one in verdicts),
        "not_in_log": sum(not one.lines for one in verdicts),
        "failed_requests": sum(bool(one.reasons or one.trouble) for one in verdicts),
    }
