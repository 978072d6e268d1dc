"""Members and sessions for a demand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.capacity import BUSY, HsmNumbers, needs
from hsm.errors import MisconfiguredError


def _hsm(per_s: float, sessions: int, signer_per_s: float = 0) -> HsmNumbers:
    return HsmNumbers(per_s=per_s, sessions=sessions, source="a test", signer_per_s=signer_per_s)


@pytest.mark.parametrize(
    ("p99", "peak", "hsm", "members", "sessions"),
    [
        (0, 0, _hsm(100, 8), 2, 2),
        (70, 100, _hsm(100, 8), 2, 8),
        (71, 100, _hsm(100, 8), 3, 6),
        (70, 101, _hsm(100, 8), 3, 6),
        (7, 10, _hsm(100, 8), 2, 2),
        (7, 35, _hsm(100, 8), 2, 4),
        (700, 1000, _hsm(100, 4), 11, 4),
        (5, 5, _hsm(100, 1), 2, 2),
    ],
)
def test_needs(p99: float, peak: float, hsm: HsmNumbers, members: int, sessions: int) -> None:
    """One member more than the load takes; 70 per cent of the rest for ordinary seconds, all of it for the busiest."""
    found = needs(p99, peak, hsm)
    assert (found.members, found.sessions) == (members, sessions)


@given(
    p99=st.integers(0, 10_000),
    more=st.integers(0, 10_000),
    per_s=st.floats(0.5, 50_000),
    sessions=st.integers(1, 1024),
)
def test_any_demand(p99: int, more: int, per_s: float, sessions: int) -> None:
    """With one member away the others are enough, one less would not be, and sessions stay within what helps."""
    peak = p99 + more
    found = needs(p99, peak, _hsm(per_s, sessions))
    left = found.members - 1
    assert left >= 1
    assert p99 <= BUSY * left * per_s * (1 + 1e-9)
    assert peak <= left * per_s * (1 + 1e-9)
    fewer = left - 1
    assert fewer == 0 or p99 > BUSY * fewer * per_s * (1 - 1e-9) or peak > fewer * per_s * (1 - 1e-9)
    assert 2 <= found.sessions <= max(2, sessions)
    assert found.busy <= found.busy_peak


def test_signer_limit() -> None:
    """Members beyond what the signer gets through add nothing, and the plan does not promise it."""
    assert needs(100, 2000, _hsm(1000, 4, signer_per_s=1500)).capacity_per_s == 1500
    assert needs(100, 2000, _hsm(1000, 4)).capacity_per_s == 2000


@pytest.mark.parametrize(("per_s", "sessions"), [(0, 4), (-1, 4), (math.nan, 4), (math.inf, 4), (5, 0)])
def test_no_numbers(per_s: float, sessions: int) -> None:
    """An HSM that signs nothing, or without sessions, cannot be planned with, and the sentence says so."""
    with pytest.raises(MisconfiguredError, match="a test: a member that makes"):
        _hsm(per_s, sessions)
