"""Turns become rows."""

from __future__ import annotations

import pytest

from bench.inbound.contenders import Row, Turn
from bench.rig.site import SiteKey


def turn(server: str, key: SiteKey, requests: int, seconds: float, latencies_ms: list[float]) -> Turn:
    """A turn."""
    return Turn(
        server=server, key=key, latency_ms=20, requests=requests, seconds=seconds, latencies_ms=latencies_ms,
        cpu_s={"worker 0": 0.2, "member m1": 0.1}, signatures=requests + 1, generator_s=0.5, others_s=0.5,
        failed=0, errors=[],
    )  # fmt: skip


def test_row() -> None:
    """Turns add up: connections over seconds, not a mean of rates; latencies of all; the generator's worst turn."""
    row, other = Row.sums(
        [turn("a", "p256", 90, 1, [1.0, 2.0]), turn("b", "p256", 5, 5, []), turn("a", "p256", 10, 4, [9.0])]
    )
    assert (row.server, row.per_s, row.p50_ms, row.max_ms, row.generator_share) == ("a", 20, 2, 9, 0.5)
    assert row.cpu_ms == pytest.approx(6)
    assert row.others_share == 0.2
    assert row.signatures == pytest.approx(1.02)
    assert (other.server, other.per_s, other.p99_ms) == ("b", 1, 0)
