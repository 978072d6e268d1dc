"""Percentiles of latencies, by nearest rank: each is a value that was measured."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def centiles(values: Sequence[float]) -> list[float]:
    """The least, 99 centiles, 99.9 per cent, and the most; empty of none."""
    ordered = sorted(values)
    places = [number / 100 for number in range(100)] + [0.999]
    return [ordered[int(place * len(ordered))] for place in places] + [ordered[-1]] if ordered else []
