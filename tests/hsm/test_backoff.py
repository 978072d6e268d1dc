"""How long to wait before the next try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.backoff import Backoff

BACKOFFS = st.builds(
    Backoff,
    first_s=st.floats(0.001, 1),
    longest_s=st.floats(1, 100),
    spread=st.floats(0, 1),
)
FAILURES = st.integers(1, 10**9)
JITTER = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "waits_s"),
    [(1, 0.02), (2, 0.04), (3, 0.08), (8, 2.56), (9, 5.0), (10, 5.0), (10_000, 5.0)],
)
def test_doubles_up_to_its_maximum(failures: int, waits_s: float) -> None:
    """What failed once is tried again soon, what fails on and on is left alone for as long as is allowed."""
    assert Backoff(0.02, 5.0).after(failures) == pytest.approx(waits_s)


@pytest.mark.parametrize(("jitter", "waits_s"), [(0.0, 0.8), (0.25, 0.9), (0.5, 1.0), (0.75, 1.1)])
def test_is_spread_either_way(jitter: float, waits_s: float) -> None:
    """Two that failed in the same moment do not try again in the same moment."""
    assert Backoff(1.0, 5.0, 0.2).after(1, jitter) == pytest.approx(waits_s)


@given(BACKOFFS, FAILURES, JITTER)
def test_stays_within_its_bounds(backoff: Backoff, failures: int, jitter: float) -> None:
    """No wait is shorter than the first or longer than the longest, but for the spread."""
    waits_s = backoff.after(failures, jitter)
    least, most = (1 - backoff.spread) * backoff.first_s, (1 + backoff.spread) * backoff.longest_s
    assert least - 1e-9 <= waits_s <= most + 1e-9


@given(BACKOFFS, FAILURES, JITTER)
def test_one_more_failure_never_shortens_it(backoff: Backoff, failures: int, jitter: float) -> None:
    """Failing again is no way to be let in earlier."""
    assert backoff.after(failures, jitter) <= backoff.after(failures + 1, jitter)
