"""A member's states and its back-off."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.errors import (
    DeadlineError,
    MemberLostError,
    MisconfiguredError,
    PinRefusedError,
    RefusedError,
    SessionLostError,
    TryLaterError,
)
from hsm.lifecycle import Event, State, backoff_s, event_for, following

ARROWS = {
    (State.STARTING, Event.OPENED): State.UP,
    (State.STARTING, Event.LOST): State.DOWN,
    (State.STARTING, Event.REFUSED): State.QUARANTINED,
    (State.UP, Event.LOST): State.DOWN,
    (State.DOWN, Event.AGAIN): State.STARTING,
    **{(state, Event.STOP): State.STOPPED for state in State},
}
JITTER = st.floats(0, 1, exclude_max=True)
FAILURES = st.integers(1, 10**9)


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_pair_of_state_and_event(state: State, event: Event) -> None:
    """The drawn arrows exist and no other: what the drawing does not show is a bug of ours that says so."""
    if (state, event) in ARROWS:
        assert following(state, event) is ARROWS[state, event]
    else:
        with pytest.raises(ValueError, match=f"a member that is {state} cannot meet '{event}'"):
            following(state, event)


@given(st.lists(st.sampled_from(Event)))
def test_no_sequence_of_events_leaves_the_states(events: list[Event]) -> None:
    """Whatever happens in whatever order, a member serves only after it opened and leaves quarantine only to stop."""
    state = State.DOWN
    for event in events:
        before = state
        try:
            state = following(before, event)
        except ValueError:
            assert (before, event) not in ARROWS
            continue
        assert state in State
        assert state is not State.UP or (before, event) == (State.STARTING, Event.OPENED)
        assert before not in (State.QUARANTINED, State.STOPPED) or state is State.STOPPED


@pytest.mark.parametrize(
    ("error", "before_up", "after_up"),
    [
        (PinRefusedError("wrong"), Event.REFUSED, Event.REFUSED),
        (MisconfiguredError("no such partition"), Event.REFUSED, Event.LOST),
        (MemberLostError("gone", 0x30), Event.LOST, Event.LOST),
        (SessionLostError("stale", 0xB3), Event.LOST, Event.LOST),
        (TryLaterError("no token yet"), Event.LOST, Event.LOST),
        (DeadlineError("slow"), Event.LOST, Event.LOST),
        (RefusedError("no such key"), Event.LOST, Event.LOST),
        (OSError("cannot exec"), Event.LOST, Event.LOST),
    ],
)
def test_event_for(error: Exception, before_up: Event, after_up: Event) -> None:
    """A refused PIN is never tried again; a partition that vanished after it served is waited for."""
    assert event_for(error, was_up=False) is before_up
    assert event_for(error, was_up=True) is after_up


@given(FAILURES, JITTER)
def test_backoff_is_bounded(failures: int, jitter: float) -> None:
    """A member waits at least 80 ms and at most 36 s, however often it failed."""
    assert 0.08 <= backoff_s(failures, jitter) <= 36


@given(FAILURES, JITTER, JITTER)
def test_backoff_grows(failures: int, jitter: float, other: float) -> None:
    """Each failure in a row waits as long or longer, and jitter moves a wait by a fifth at most."""
    assert backoff_s(failures, jitter) <= backoff_s(failures + 1, jitter)
    plain = backoff_s(failures, 0.5)
    assert 0.799 * plain <= backoff_s(failures, other) <= 1.201 * plain


def test_backoff_doubles_up_to_its_cap() -> None:
    """A killed member is back at once; a dead HSM is asked twice a minute and no more often."""
    waits = [backoff_s(failures, 0.5) for failures in range(1, 12)]
    assert waits[0] == pytest.approx(0.1)
    assert waits[-1] == waits[-2] == 30
    assert all(after == pytest.approx(min(2 * before, 30)) for before, after in pairwise(waits))
