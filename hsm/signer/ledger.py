"""What one worker has counted, as far as it can be believed: metrics of the fixed list (`hsm.wire.measures`), counters
that grow and no faster than a machine can count, a bounded number of series. No I/O; the time is given.

What is not believed is left out and counted, and what was believed before stays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from hsm.wire.measures import MEASURES, Measure
from hsm.wire.telemetry import SampleKey, Totals
from hsm.wire.worker import Family

Why = Literal["unknown metric", "unknown label", "too many", "backwards", "absurd"]
Series = dict[SampleKey, float]
"""By sample and labels, which stand in the list's order."""

_AT_ONCE_S = 10.0
"""A counter may have grown for so long between two reports of one moment: clocks and reports have their pauses."""
_SAMPLES = 20
"""Of one series of a histogram: its buckets, its count and its sum."""
OTHER = "other"
RETIRED_SERIES = 4
"""Times the series of one worker: what is kept of workers that are gone. Beyond, label values become "other"."""


class Ledger:
    """The numbers of one worker."""

    def __init__(self, age_s: float) -> None:
        """`age_s` is how long the worker can have counted already."""
        self._counted: dict[str, Series] = {}
        self._shown: dict[str, Series] = {}
        self._grown_s = age_s

    def take(self, families: Iterable[Family], since_s: float) -> Counter[Why]:
        """A report, `since_s` after the one before. What of it was not believed, by the reason."""
        refused: Counter[Why] = Counter()
        grown_s = self._grown_s + since_s + _AT_ONCE_S
        self._grown_s = 0.0
        self._shown = {}
        seen: set[str] = set()
        for family in families:
            measure = MEASURES.get(family.name)
            if measure is None:
                refused["unknown metric"] += 1
            elif family.name in seen or len(family.samples) > measure.series * _SAMPLES:
                refused["too many"] += 1  # unread: to look at each would take its time
            else:
                seen.add(family.name)
                self._take(measure, family, grown_s, refused)
        return refused

    def _take(self, measure: Measure, family: Family, grown_s: float, refused: Counter[Why]) -> None:
        grows = measure.grows
        series = (self._counted if grows else self._shown).setdefault(family.name, {})
        names, most = measure.samples(family.name), measure.most * grown_s
        for sample, labels, value in family.samples:
            key = sample, tuple(labels.items())
            before = series.get(key)
            if before is not None and grows and before <= value <= before + most:
                series[key] = value  # a worker with hundreds of sites has thousands of these
                continue
            why = _fault(measure, names, sample, labels)
            if not why:
                key = sample, tuple((name, labels[name]) for name in (*measure.labels, "le") if name in labels)
                why = _excess(measure, series, key, value, most)
            if why:
                refused[why] += 1
            else:
                series[key] = value

    def add_to(self, totals: Totals, *, gone: bool = False) -> None:
        """What it has reported; of a worker that is `gone` what it counted: gauges end with it, unless kept."""
        for name, series in (self._counted if gone else self._counted | self._shown).items():
            measure = MEASURES[name]
            totals.add_sums(name, measure.kind, measure.help, series, greatest=measure.greatest)

    def fold(self, gone: Ledger) -> None:
        """Add what a worker that is gone has counted. This ledger stays bounded, however many of them there were."""
        for name, series in gone._counted.items():
            measure = MEASURES[name]
            kept = self._counted.setdefault(name, {})
            for (sample, labels), value in series.items():
                key = sample, labels
                if key not in kept and len(kept) >= RETIRED_SERIES * measure.series:
                    key = sample, tuple((label, said if label == "le" else OTHER) for label, said in labels)
                kept[key] = max(kept.get(key, 0.0), value) if measure.greatest else kept.get(key, 0.0) + value


def _fault(measure: Measure, names: tuple[str, ...], sample: str, labels: dict[str, str]) -> Why | None:
    if sample not in names:
        return "unknown metric"
    return None if measure.allows(sample, labels) else "unknown label"


def _excess(measure: Measure, series: Series, key: SampleKey, value: float, most: float) -> Why | None:
    if not math.isfinite(value) or value < 0:
        return "absurd"
    if key not in series and len(series) >= measure.series * (_SAMPLES if measure.kind == "histogram" else 1):
        return "too many"
    if measure.grows and value < series.get(key, 0.0):
        return "backwards"
    if measure.kind == "gauge":
        return "absurd" if value > measure.most else None
    before = series.get(key, 0.0)
    return "absurd" if value > before + most else None
