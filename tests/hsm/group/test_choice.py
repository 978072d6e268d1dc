"""Which member gets the next request."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.group import choice
from hsm.member import slots as allowed
from hsm.member.health import Health
from hsm.member.slots import RAMP_S
from hsm.member.states import State


@dataclass(frozen=True)
class One:
    """A member as the choice sees it."""

    name: str
    state: State = State.UP
    resting: bool = False
    latency_s: float = 0.001
    quickest_s: float = 0.001
    in_flight: int = 0
    slots: int = 4


UP, SUSPECT = State.UP, State.SUSPECT
NAMES = "abcde"
MEMBERS = st.lists(
    st.builds(
        One,
        name=st.sampled_from(NAMES),
        state=st.sampled_from([UP, SUSPECT]),
        resting=st.booleans(),
        latency_s=st.sampled_from([0.001, 0.002, 0.01, 0.2]),
        in_flight=st.integers(0, 6),
        slots=st.integers(1, 6),
    ),
    max_size=5,
    unique_by=lambda one: one.name,
)
TRIED = st.sets(st.sampled_from(NAMES))


def group_of(member: One, tried: set[str]) -> int:
    """0 for members to ask first, 2 for those to ask last."""
    if member.name in tried:
        return 2
    return 0 if member.state is UP and not member.resting else 1


@pytest.mark.parametrize(
    ("members", "tried", "chosen"),
    [
        ([], "", None),
        ([One("a")], "", "a"),
        ([One("a", in_flight=4)], "", None),
        ([One("a"), One("b", latency_s=0.0005)], "", "b"),
        ([One("a", in_flight=1), One("b")], "", "b"),
        ([One("a", in_flight=2), One("b", latency_s=0.004)], "", "a"),  # 3 ms against 4 ms
        ([One("a", in_flight=3), One("b", latency_s=0.003)], "", "b"),  # 4 ms against 3 ms
        ([One("a", in_flight=4), One("b", latency_s=9)], "", "b"),
        ([One("a", SUSPECT), One("b", latency_s=9)], "", "b"),
        ([One("a", SUSPECT)], "", "a"),
        ([One("a", SUSPECT), One("b", in_flight=4)], "", None),
        ([One("a"), One("b", latency_s=9)], "a", "b"),
        ([One("a"), One("b", SUSPECT)], "a", "b"),
        ([One("a"), One("b", in_flight=4)], "a", None),
        ([One("a", in_flight=1), One("b")], "ab", "b"),
        ([One("a", SUSPECT), One("b", in_flight=1)], "ab", "a"),
        ([One("a")], "a", "a"),
        ([One("a", resting=True), One("b", latency_s=9)], "", "b"),
        ([One("a", resting=True)], "", "a"),
        ([One("a", resting=True), One("b")], "b", "a"),
    ],
)
def test_choice(members: list[One], tried: str, chosen: str | None) -> None:
    """Sound members before doubtful ones before those that failed this request; among these, who answers soonest."""
    for ordered in (members, members[::-1]):
        found = choice.choose(ordered, set(tried))
        assert (found and found.name) == chosen


def test_a_member_that_has_just_refused_what_is_wanted() -> None:
    """A peer comes first, also a slow one, and is waited for; without one it is asked again."""
    quick, slow = One("a"), One("b", latency_s=9)
    assert choice.choose([quick, slow], set(), {"a"}) is slow
    assert choice.choose([quick, One("b", in_flight=4)], set(), {"a"}) is None
    assert choice.choose([quick, slow], {"b"}, {"a"}) is quick
    assert choice.choose([quick], set(), {"a"}) is quick


@given(MEMBERS, TRIED)
def test_a_member_without_a_free_slot_is_never_chosen(members: list[One], tried: set[str]) -> None:
    """No request is sent to a member that has as many as it can work on."""
    found = choice.choose(members, tried)
    assert found is None or found.in_flight < found.slots


@given(MEMBERS, TRIED)
def test_an_earlier_class_is_waited_for(members: list[One], tried: set[str]) -> None:
    """The best class alone is chosen from: a member of it is found if one is free, and waited for if none is."""
    found = choice.choose(members, tried)
    best = min((group_of(one, tried) for one in members), default=None)
    free = [one for one in members if group_of(one, tried) == best and one.in_flight < one.slots]
    assert (found in free) if free else (found is None)


@given(MEMBERS, TRIED)
def test_the_shortest_wait_is_chosen(members: list[One], tried: set[str]) -> None:
    """Of the members of a class with a free slot, none would answer sooner by its latency and what it has to do."""
    found = choice.choose(members, tried)
    for other in members:
        if found and group_of(other, tried) == group_of(found, tried) and other.in_flight < other.slots:
            assert found.latency_s * (found.in_flight + 1) <= other.latency_s * (other.in_flight + 1)


@given(MEMBERS, TRIED, st.randoms())
def test_the_order_of_the_members_does_not_matter(members: list[One], tried: set[str], random: object) -> None:
    """A member is as good listed first as listed last."""
    found = choice.choose(members, tried)
    again = choice.choose(random.sample(members, len(members)), tried)  # type: ignore[attr-defined]
    assert (found is None) == (again is None)
    if found and again:
        assert found.latency_s * (found.in_flight + 1) == again.latency_s * (again.in_flight + 1)


def test_a_member_that_slows_down_gets_few_requests() -> None:
    """In a brown-out of one of two members, only two or three of a hundred requests meet the slow one."""
    health = {"a": Health(), "b": Health()}
    for one in health.values():
        one.answered(0.001)
    asked = []
    for _ in range(100):
        chosen = choice.choose([One(name, latency_s=one.latency_s) for name, one in health.items()], set())
        assert chosen is not None
        asked.append(chosen.name)
        health[chosen.name].answered(0.2 if chosen.name == "a" else 0.001)
    assert asked.count("a") <= 3


# --- slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sessions", "latency_s", "up_for_s", "alone", "slots"),
    [
        (8, 0.001, 60, False, 16),
        (8, 0.2, 60, False, 8),
        (8, 0.001, 0.0, True, 16),
        (8, 0.2, 0.0, True, 8),
        (8, 0.001, 0.0, False, 1),
        (8, 0.001, 0.25, False, 4),
        (8, 0.001, 0.5, False, 8),
        (8, 0.2, 0.5, False, 4),
        (8, 0.001, RAMP_S, False, 16),
        (1, 0.001, 0.0, False, 1),
        (0, 0.001, 60, False, 1),
    ],
)
def test_slots(sessions: int, latency_s: float, up_for_s: float, alone: bool, slots: int) -> None:
    """Two requests for each session of a quick member, one of a slow one; a member that comes back gets few at first,
    if another can share."""
    assert allowed.slots(sessions, latency_s, up_for_s, 50, alone=alone) == slots


@pytest.mark.parametrize(("useful", "slots"), [(1, 1), (3, 3), (8, 8), (50, 8)])
def test_slots_that_are_of_use(useful: int, slots: int) -> None:
    """A member gets no more requests than its HSM works on, however many sessions it has."""
    assert allowed.slots(8, 0.14, 60, useful, alone=True) == slots


@given(st.integers(0, 64), st.floats(0, 1), st.floats(0, 5), st.floats(0, 5), st.integers(1, 200))
def test_slots_ramp(sessions: int, latency_s: float, one: float, other: float, useful: int) -> None:
    """The longer a member has been up, the more it gets: always one, and never more than it would get alone."""
    early, late = (allowed.slots(sessions, latency_s, since, useful, alone=False) for since in sorted((one, other)))
    full = allowed.slots(sessions, latency_s, 0.0, useful, alone=True)
    assert 1 <= early <= late <= full <= max(1, 2 * sessions)
    assert allowed.slots(sessions, latency_s, RAMP_S, useful, alone=False) == full


# --- how long to wait -------------------------------------------------------------------------------------------------


def quick(name: str, quickest_s: float, slots: int = 10) -> One:
    """A member that can answer so quickly, though it was slow of late."""
    return One(name, latency_s=50 * quickest_s, quickest_s=quickest_s, slots=slots)


@pytest.mark.parametrize(
    ("members", "waiting", "wait_s"),
    [
        ([], 100, 0),
        ([quick("a", 0)], 100, 0),
        ([quick("a", 0.01)], 0, 0),
        ([quick("a", 0.01)], 1, 0.001),
        ([quick("a", 0.01)], 1000, 1.0),
        ([quick("a", 0.01), quick("b", 0.01)], 1000, 0.5),
        ([quick("a", 0.01), quick("b", 0)], 1000, 1.0),
        ([quick("a", 0.2, slots=1)], 10, 2.0),
    ],
)
def test_wait_s(members: list[One], waiting: int, wait_s: float) -> None:
    """A request is told how long those before it will take all members at best, and nothing where nobody knows."""
    assert choice.wait_s(members, waiting) == pytest.approx(wait_s)


# --- how long to have patience ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency_s", "in_flight", "peer", "patience_s"),
    [
        (0.001, 0, True, 0.1),
        (0.004, 0, True, 0.1),
        (0.01, 0, True, 0.2),
        (0.02, 0, True, 0.4),
        (0.1, 0, True, 0.5),
        (0.001, 50, True, 0.2),
        (0.001, 1000, True, 0.5),
        (0.0, 0, True, 0.1),
        (0.001, 0, False, 0.5),
        (0.1, 50, False, 0.5),
    ],
)
def test_patience_s(latency_s: float, in_flight: int, peer: bool, patience_s: float) -> None:
    """A member that hangs is left after twenty times its custom, if another could answer; else it has all the time."""
    assert choice.patience_s(latency_s, in_flight, 0.5, peer=peer) == pytest.approx(patience_s)


@given(st.floats(0, 1), st.integers(0, 100), st.floats(0.01, 5), st.booleans())
def test_patience_is_never_longer_than_the_attempt_timeout(
    latency_s: float, in_flight: int, longest_s: float, peer: bool
) -> None:
    """The operator's timeout is the longest that a member may take, and no member is given less than its custom."""
    patience_s = choice.patience_s(latency_s, in_flight, longest_s, peer=peer)
    assert min(latency_s, longest_s) <= patience_s <= longest_s
    assert patience_s <= choice.patience_s(latency_s, in_flight, longest_s, peer=False) == longest_s
