"""A member's states, the group's, and the back-off."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hsm.errors import (
    BadSignatureError,
    DeadlineError,
    KeyLostError,
    MemberLostError,
    MisconfiguredError,
    PinRefusedError,
    RefusedError,
    SessionLostError,
    TryLaterError,
    UnavailableError,
)
from hsm.group.states import GroupState, group_state
from hsm.member.states import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    BACKOFF_OUTAGE_MAX_S,
    SERVING,
    Event,
    State,
    backoff_s,
    event_for,
    failures_after,
    following,
)

ARROWS = {
    (State.STARTING, Event.OPENED): State.UP,
    (State.STARTING, Event.LOST): State.DOWN,
    (State.STARTING, Event.REFUSED): State.QUARANTINED,
    (State.UP, Event.DOUBTED): State.SUSPECT,
    (State.UP, Event.LOST): State.DOWN,
    (State.UP, Event.REFUSED): State.QUARANTINED,
    (State.SUSPECT, Event.CLEARED): State.UP,
    (State.SUSPECT, Event.LOST): State.DOWN,
    (State.SUSPECT, Event.REFUSED): State.QUARANTINED,
    (State.DOWN, Event.AGAIN): State.STARTING,
    (State.QUARANTINED, Event.AGAIN): State.STARTING,
    **{(state, Event.DRAIN): State.DRAINING for state in State if state is not State.STOPPED},
    **{(state, Event.STOP): State.STOPPED for state in State},
}
JITTER = st.floats(0, 1, exclude_max=True)
FAILURES = st.integers(1, 10**9)
EVENTS = {Event.OPENED, Event.CLEARED, Event.DOUBTED, Event.LOST, Event.REFUSED, Event.AGAIN, Event.DRAIN, Event.STOP}


# --- a member ---------------------------------------------------------------------------------------------------------


def test_every_event_is_drawn() -> None:
    """No event and no state was added without an arrow that was thought about."""
    assert {event for _, event in ARROWS} == EVENTS == set(Event)
    assert {*ARROWS.values(), State.STOPPED} == set(State)


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_pair_of_state_and_event(state: State, event: Event) -> None:
    """The drawn arrows exist and no other: what the drawing does not show is a bug of ours that says so."""
    if (state, event) in ARROWS:
        assert following(state, event) is ARROWS[state, event]
    else:
        with pytest.raises(ValueError, match=f"a member that is {state} cannot meet '{event}'"):
            following(state, event)


def test_serves_up_and_suspect() -> None:
    """Requests are sent to a member in service and to one in doubt, and to no other."""
    assert {State.UP, State.SUSPECT} == SERVING


def state_of_group(members: list[State]) -> GroupState:
    """The group's state as an operator would count it."""
    counted = [state for state in members if state not in (State.DRAINING, State.STOPPED)]
    up, suspect = counted.count(State.UP), counted.count(State.SUSPECT)
    if up + suspect == 0:
        return GroupState.OUTAGE
    if up == len(counted):
        return GroupState.HEALTHY
    if up + suspect == 1 and len(counted) >= 2:
        return GroupState.LAST
    return GroupState.DEGRADED


class Members(RuleBasedStateMachine):
    """Three members to which anything may happen in any order."""

    NUMBER = 3

    def __init__(self) -> None:
        super().__init__()
        self.states = [State.DOWN] * self.NUMBER
        self.histories: list[list[tuple[State, Event, State]]] = [[] for _ in range(self.NUMBER)]

    @rule(member=st.integers(0, NUMBER - 1), event=st.sampled_from(Event))
    def meets(self, member: int, event: Event) -> None:
        """One member meets an event; what it cannot meet changes nothing."""
        before = self.states[member]
        try:
            after = following(before, event)
        except ValueError:
            assert (before, event) not in ARROWS
            return
        assert (before, event) in ARROWS
        self.states[member] = after
        self.histories[member].append((before, event, after))
        self.leaves(before, event, after)
        self.enters(before, event, after)

    @rule(member=st.integers(0, NUMBER - 1), hung=st.booleans())
    def lives_and_dies(self, member: int, hung: bool) -> None:
        """The usual life, so that the states far from the start are often visited."""
        for event in (Event.AGAIN, Event.OPENED, Event.DOUBTED if hung else Event.LOST):
            self.meets(member, event)

    def leaves(self, before: State, event: Event, after: State) -> None:
        """What must happen to leave a state."""
        if before is State.STOPPED:
            assert after is State.STOPPED
        if before is State.DRAINING:
            assert after in (State.DRAINING, State.STOPPED)
        if before is State.QUARANTINED:
            assert event in (Event.AGAIN, Event.DRAIN, Event.STOP)
            assert after not in SERVING
        if before is State.DOWN:
            assert after not in SERVING

    def enters(self, before: State, event: Event, after: State) -> None:
        """What must have happened to come to a state."""
        if after is State.UP and before is not State.UP:
            assert (before, event) in ((State.STARTING, Event.OPENED), (State.SUSPECT, Event.CLEARED))
        if after is State.SUSPECT:
            assert (before, event) == (State.UP, Event.DOUBTED)
        if after is State.QUARANTINED:
            assert event is Event.REFUSED
        if after is State.STARTING:
            assert event is Event.AGAIN

    @invariant()
    def the_group_is_its_members(self) -> None:
        """The group's state follows from its members' states alone, whoever of them it is."""
        state = group_state(self.states)
        assert state is state_of_group(self.states)
        assert state is group_state(reversed(self.states))
        assert (state is GroupState.OUTAGE) == SERVING.isdisjoint(self.states)

    @invariant()
    def each_proved_itself_since_its_last_start(self) -> None:
        """A member that serves was opened after it was last started."""
        for state, history in zip(self.states, self.histories, strict=True):
            if state in SERVING:
                events = [event for _, event, _ in history]
                since = events[len(events) - events[::-1].index(Event.AGAIN) :]
                assert since[0] is Event.OPENED
                assert not {Event.LOST, Event.REFUSED, Event.DRAIN, Event.STOP} & set(since)


TestMembers = Members.TestCase


@pytest.mark.parametrize(
    ("error", "before_up", "after_up"),
    [
        (PinRefusedError("wrong"), Event.REFUSED, Event.REFUSED),
        (MisconfiguredError("no such partition"), Event.REFUSED, Event.LOST),
        (MemberLostError("gone", 0x30), Event.LOST, Event.LOST),
        (SessionLostError("stale", 0xB3), Event.LOST, Event.LOST),
        (KeyLostError("no such key"), Event.LOST, Event.LOST),
        (BadSignatureError("does not verify"), Event.LOST, Event.LOST),
        (TryLaterError("no token yet"), Event.LOST, Event.LOST),
        (UnavailableError("none in service"), Event.LOST, Event.LOST),
        (DeadlineError("slow"), Event.LOST, Event.LOST),
        (RefusedError("no such key"), Event.LOST, Event.LOST),
        (OSError("cannot exec"), Event.LOST, Event.LOST),
    ],
)
def test_event_for(error: Exception, before_up: Event, after_up: Event) -> None:
    """A refused PIN is never tried again; a partition that vanished after it served is waited for."""
    assert event_for(error, was_up=False) is before_up
    assert event_for(error, was_up=True) is after_up


# --- the group --------------------------------------------------------------------------------------------------------

UP, SUSPECT, DOWN, QUARANTINED = State.UP, State.SUSPECT, State.DOWN, State.QUARANTINED


@pytest.mark.parametrize(
    ("members", "state"),
    [
        ([UP], GroupState.HEALTHY),
        ([UP, UP], GroupState.HEALTHY),
        ([UP, UP, State.DRAINING], GroupState.HEALTHY),
        ([UP, State.STOPPED], GroupState.HEALTHY),
        ([UP, SUSPECT], GroupState.DEGRADED),
        ([SUSPECT, SUSPECT], GroupState.DEGRADED),
        ([SUSPECT], GroupState.DEGRADED),
        ([UP, UP, DOWN], GroupState.DEGRADED),
        ([UP, SUSPECT, QUARANTINED], GroupState.DEGRADED),
        ([UP, DOWN], GroupState.LAST),
        ([SUSPECT, DOWN], GroupState.LAST),
        ([UP, State.STARTING], GroupState.LAST),
        ([UP, QUARANTINED, State.DRAINING], GroupState.LAST),
        ([DOWN], GroupState.OUTAGE),
        ([State.STARTING, DOWN], GroupState.OUTAGE),
        ([QUARANTINED, QUARANTINED], GroupState.OUTAGE),
        ([State.DRAINING, State.STOPPED], GroupState.OUTAGE),
        ([], GroupState.OUTAGE),
    ],
)
def test_group_state(members: list[State], state: GroupState) -> None:
    """An operator is told of the group what there is to fear: that one more loss would be seen by clients, or is."""
    assert group_state(members) is state is state_of_group(members)


@pytest.mark.parametrize("number", range(5))
def test_every_group(number: int) -> None:
    """Whatever the states of its members, the group's is what counting them says."""
    for members in combinations_with_replacement(State, number):
        assert group_state(members) is state_of_group(list(members))


# --- the back-off -----------------------------------------------------------------------------------------------------


@given(FAILURES, JITTER, st.booleans())
def test_backoff_is_bounded(failures: int, jitter: float, outage: bool) -> None:
    """A member waits at least 16 ms and at most 6 s, however often it failed; at most 1.8 s while none serves."""
    limit = 1.2 * (BACKOFF_OUTAGE_MAX_S if outage else BACKOFF_MAX_S)
    assert 0.8 * BACKOFF_FIRST_S <= backoff_s(failures, jitter, outage=outage) <= limit
    assert (BACKOFF_FIRST_S, BACKOFF_MAX_S, BACKOFF_OUTAGE_MAX_S) == (0.02, 5, 1.5)


@given(FAILURES, JITTER, JITTER, st.booleans())
def test_backoff_grows(failures: int, jitter: float, other: float, outage: bool) -> None:
    """Each failure in a row waits as long or longer, and jitter moves a wait by a fifth at most."""
    assert backoff_s(failures, jitter, outage=outage) <= backoff_s(failures + 1, jitter, outage=outage)
    plain = backoff_s(failures, 0.5, outage=outage)
    assert 0.799 * plain <= backoff_s(failures, other, outage=outage) <= 1.201 * plain


@given(FAILURES, JITTER)
def test_an_outage_shortens_a_backoff_and_never_lengthens_it(failures: int, jitter: float) -> None:
    """While no member serves, each is asked as often as ever at first, and not so seldom later."""
    usual, outage = backoff_s(failures, jitter), backoff_s(failures, jitter, outage=True)
    assert outage <= usual
    assert outage == usual or outage == pytest.approx(BACKOFF_OUTAGE_MAX_S * (0.8 + 0.4 * jitter))


@pytest.mark.parametrize(("outage", "cap"), [(False, 5), (True, 1.5)])
def test_backoff_doubles_up_to_its_cap(outage: bool, cap: float) -> None:
    """A killed member is back at once; a dead HSM is asked twelve times a minute, in an outage every second or so."""
    waits = [backoff_s(failures, 0.5, outage=outage) for failures in range(1, 40)]
    assert waits[0] == pytest.approx(0.02)
    assert waits[-1] == waits[-2] == pytest.approx(cap)
    assert all(after == pytest.approx(min(2 * before, cap)) for before, after in pairwise(waits))


def test_jitter_spreads_members() -> None:
    """Two members that fell together do not come back in step."""
    assert backoff_s(9, 0) == pytest.approx(0.8 * backoff_s(9, 0.5))
    assert backoff_s(9, 0.999999) == pytest.approx(1.2 * backoff_s(9, 0.5), rel=1e-5)


@pytest.mark.parametrize(
    ("failures", "up_s", "after"),
    [
        (0, 0.0, 1),
        (1, 0.0, 2),
        (7, 0.0, 8),
        (7, 2.9, 8),
        (7, 3.1, 7),
        (7, 6.1, 6),
        (7, 9.9, 5),
        (7, 10.1, 1),
        (1, 9.9, 1),
        (0, 5.0, 1),
        (100, 3600.0, 1),
    ],
)
def test_failures_after(failures: int, up_s: float, after: int) -> None:
    """A life of some seconds forgives failures before it, one for each three; ten seconds forgive them all."""
    assert failures_after(failures, up_s) == after


@given(st.integers(0, 1000), st.floats(0, 100), st.floats(0, 100))
def test_a_longer_life_never_lengthens_a_backoff(failures: int, one: float, other: float) -> None:
    """The longer a member was up, the sooner it is started again; a failure is never forgotten altogether."""
    short, long = sorted((one, other))
    assert 1 <= failures_after(failures, long) <= failures_after(failures, short) <= failures + 1


@pytest.mark.parametrize("every_s", [0.0, 0.5, 2.0, 2.9])
def test_a_flapping_member_comes_to_its_cap(every_s: float) -> None:
    """A member that fails again and again within seconds of each start is left alone for longer and longer."""
    failures = 0
    for _ in range(12):
        failures = failures_after(failures, every_s)
    assert backoff_s(failures, 0.5) == BACKOFF_MAX_S
