"""What a member's answers say about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.member.health import Health

LATENCIES = st.floats(1e-6, 100)


def after(outcomes: str) -> bool:
    """Whether a member is doubtful after these answers, '+' good and '-' failed, the last of which failed."""
    health, doubtful = Health(), False
    for outcome in outcomes:
        if outcome == "+":
            health.answered(0.001)
        else:
            doubtful = health.blamed()
    return doubtful


@pytest.mark.parametrize(
    ("outcomes", "doubtful"),
    [
        ("-", False),
        ("----", False),
        ("-----", True),
        ("----+----", False),
        ("+" * 100 + "----", False),
        ("+" * 100 + "-----", True),
        ("+-" * 4 + "-", False),  # nine answers, five of them bad: too few for a share
        ("+-" * 5, True),  # half of ten
        ("++-" * 3 + "-", False),  # four of ten
        ("+" * 20 + "--+--+--+---", False),  # nine of the last twenty
        ("+" * 20 + "--+--+--+----", True),  # ten of them
        ("+" * 20 + "-+" * 8 + "-", False),
        ("+" * 20 + "-+" * 9 + "-", True),
    ],
)
def test_doubt(outcomes: str, doubtful: bool) -> None:
    """Five failures in a row, or half of the last twenty answers: fewer is what a throttled member does."""
    assert after(outcomes) is doubtful


@given(st.lists(st.booleans(), max_size=80))
def test_doubt_is_by_the_last_twenty_answers(outcomes: list[bool]) -> None:
    """Whatever came before, only the last twenty answers count, and a failure is told right away."""
    health = Health()
    for number, good in enumerate(outcomes, 1):
        if good:
            health.answered(0.001)
            continue
        window = outcomes[max(0, number - 20) : number]
        share = len(window) >= 10 and 2 * window.count(False) >= len(window)
        assert health.blamed() == (share or (len(window) >= 5 and not any(window[-5:])))


@given(st.lists(st.booleans(), max_size=40))
def test_an_examination_that_went_well_clears(outcomes: list[bool]) -> None:
    """A member that proved itself starts with a clean record: four failures more are forgiven, and a fifth is not."""
    health = Health()
    for good in outcomes:
        if good:
            health.answered(0.001)
        else:
            health.blamed()
    latency_s = health.latency_s
    health.clear()
    assert [health.blamed() for _ in range(5)] == [False] * 4 + [True]
    assert health.latency_s == latency_s


def test_the_first_answer_replaces_the_guess() -> None:
    """What was assumed of a member's latency does not count as soon as it is known."""
    health = Health(latency_s=5.0)
    assert health.latency_s == 5.0
    health.took(0.002)
    assert health.latency_s == 0.002


def test_latency_follows_within_two_or_three_answers() -> None:
    """A member that slows down tenfold is no longer better than a busy peer after three answers, nor after one."""
    health = Health()
    for _ in range(50):
        health.answered(0.001)
    assert health.latency_s == pytest.approx(0.001)
    seen = []
    for _ in range(3):
        health.answered(0.010)
        seen.append(health.latency_s)
    assert seen == pytest.approx([0.0028, 0.00424, 0.005392])


@given(st.lists(LATENCIES, min_size=1, max_size=50))
def test_latency_is_an_average(latencies: list[float]) -> None:
    """The latency lies between the shortest and the longest that were measured, and nearer to the newest."""
    health = Health()
    for latency_s in latencies:
        before = health.latency_s
        health.took(latency_s)
        assert abs(health.latency_s - latency_s) <= abs(before - latency_s) + 1e-9
    assert min(latencies) * 0.999 <= health.latency_s <= max(latencies) * 1.001


def test_one_stall_does_not_hide_what_a_member_can_do() -> None:
    """The best of the last answers is kept beside their average, until it is long ago."""
    health = Health(latency_s=0.5)
    assert health.quickest_s == 0.5
    health.answered(0.002)
    for _ in range(63):
        health.answered(0.9)
        assert health.quickest_s == 0.002
    health.answered(0.9)
    assert health.quickest_s == 0.9


@given(st.lists(LATENCIES, min_size=1, max_size=100))
def test_the_quickest_is_one_that_was_measured(latencies: list[float]) -> None:
    """What a member can do at best is what it did within its last answers, and never slower than their average."""
    health = Health()
    for latency_s in latencies:
        health.took(latency_s)
    assert health.quickest_s == min(latencies[-64:])


def test_a_timeout_makes_a_member_slow_and_says_nothing_of_its_best() -> None:
    """An attempt that ran out of time sends requests elsewhere, and is not taken for what the member can do."""
    health = Health()
    health.answered(0.002)
    health.timed_out(0.5)
    assert health.latency_s == pytest.approx(0.8 * 0.002 + 0.2 * 0.5)
    assert health.quickest_s == 0.002
    unknown = Health(latency_s=0.001)
    unknown.timed_out(0.5)
    assert unknown.latency_s == unknown.quickest_s == 0.5


def test_failures_are_no_latency() -> None:
    """A member that fails fast does not look fast."""
    health = Health()
    health.answered(0.02)
    for _ in range(20):
        health.blamed()
    assert health.latency_s == 0.02


def test_a_latency_alone_is_no_outcome() -> None:
    """A test signature that was good does not excuse the requests that failed."""
    health = Health()
    for _ in range(4):
        health.blamed()
        health.took(0.001)
    assert health.blamed()


def test_a_member_that_was_slow_once_is_quick_again_after_few_tests() -> None:
    """Nobody asks a slow member, so its test signatures alone must bring it back among the others, and soon."""
    health = Health()
    health.took(0.2)
    for _ in range(5):
        health.tested(0.001)
    assert health.latency_s < 0.004
