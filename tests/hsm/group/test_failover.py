"""The way of one request over the members, and how many retries a group may make."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm import codes
from hsm.codes import Kind
from hsm.errors import (
    BadSignatureError,
    DeadlineError,
    HsmitmError,
    KeyLostError,
    MemberLostError,
    MisconfiguredError,
    PinRefusedError,
    RefusedError,
    SessionLostError,
)
from hsm.group.failover import TRIES, Attempts, RetryBudget, Step, Verdict
from hsm.member.settings import Failover

GENERAL_ERROR, FUNCTION_FAILED, DEVICE_ERROR, VENDORS = 0x05, 0x06, 0x30, 0x80000123
SECOND_TRIES = {  # by kind: whether the member is certainly at fault, and whether it may be tried once more
    Kind.SESSION: (True, True),
    Kind.PIN: (True, False),
    Kind.PLACE: (True, False),
    Kind.BUSY: (False, True),
    Kind.AMBIGUOUS: (False, False),
    Kind.DEVICE: (True, True),
    Kind.PROCESS: (True, True),
}
CODES = [*codes.NAMES, VENDORS, 0x1B5, 0]


def failure(code: int) -> HsmitmError:
    """What a member that met `code` fails with."""
    return codes.error(code, "signing") if code else MemberLostError("the connection was closed under the request")


OTHERS: list[tuple[HsmitmError, Step, bool]] = [
    (DeadlineError("no answer"), Step.ELSEWHERE, False),
    (KeyLostError("no such key"), Step.ELSEWHERE, False),
    (KeyLostError("no such key", 0x82), Step.ELSEWHERE, False),
    (BadSignatureError("does not verify"), Step.ELSEWHERE, True),
    (SessionLostError("stale", 0xB3), Step.ELSEWHERE, True),
    (MemberLostError("closed"), Step.ELSEWHERE, True),
    (PinRefusedError("wrong"), Step.ELSEWHERE, True),
    (PinRefusedError("wrong, and the token now counts it", 0x80000123), Step.ELSEWHERE, True),
    (BadSignatureError("does not verify", 0x05), Step.ELSEWHERE, True),
    (MisconfiguredError("no such partition"), Step.ELSEWHERE, True),
    (RefusedError("no such scheme"), Step.GIVE_UP, False),
    (RefusedError("key type", 0x63), Step.GIVE_UP, False),
]


def fail(error: HsmitmError, member: str = "a", *, retries: int = 0, time_left: bool = True) -> Verdict:
    """What follows the first failure of a request."""
    return Attempts().failed(member, error, retries=retries, time_left=time_left)


# --- one failure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES, ids=codes.name)
def test_first_failure(code: int) -> None:
    """A wrong request ends at once and blames nobody; with any other code a peer is asked, and is so at once."""
    if codes.kind(code) is Kind.REQUEST:
        assert fail(failure(code)) == Verdict(Step.GIVE_UP)
    else:
        blame = SECOND_TRIES[codes.kind(code)][0]
        assert fail(failure(code)) == Verdict(Step.ELSEWHERE, blame)


@pytest.mark.parametrize("code", CODES, ids=codes.name)
def test_first_failure_with_a_retry(code: int) -> None:
    """With retries, a member that failed for certain is tried again after a pause, if its time is not up."""
    error = failure(code)
    blame, again = SECOND_TRIES.get(codes.kind(code), (False, False))
    verdict = fail(error, retries=3)
    assert (verdict.step is Step.AGAIN) == again
    assert verdict.blame == blame, "a full token is not a sick one"
    assert (verdict.pause_s > 0) == again
    assert fail(error, retries=3, time_left=False) == fail(error, retries=0)


@pytest.mark.parametrize(("error", "step", "blame"), OTHERS, ids=lambda one: str(getattr(one, "args", one)))
def test_failures_without_a_code_of_their_own(error: HsmitmError, step: Step, blame: bool) -> None:
    """A late answer and a key that vanished blame nobody yet; a lost member, and a bad signature, their member."""
    assert fail(error) == Verdict(step, blame)


@pytest.mark.parametrize("error", [DeadlineError("late"), KeyLostError("gone"), RefusedError("no")], ids=repr)
def test_is_not_tried_again_here(error: HsmitmError) -> None:
    """What the same member would only answer again is not asked of it again, whatever number of retries is set."""
    assert fail(error, retries=500).step is not Step.AGAIN


# --- one request ------------------------------------------------------------------------------------------------------


def test_retries_are_for_each_attempt() -> None:
    """Each attempt has its own retries, with growing pauses, and only then is a peer asked."""
    attempts = Attempts()
    pauses = []
    for member in ("a", "b", "a", "b"):
        for number in range(3):
            verdict = attempts.failed(member, failure(DEVICE_ERROR), retries=3, time_left=True)
            assert (verdict.step, verdict.blame) == (Step.AGAIN, True), (member, number)
            pauses.append(verdict.pause_s)
            assert attempts.retries_here == number + 1
        last = attempts.failed(member, failure(DEVICE_ERROR), retries=3, time_left=True)
        assert last.step is (Step.ELSEWHERE if attempts.count < TRIES else Step.GIVE_UP)
    assert pauses == [0.005, 0.01, 0.02] * TRIES
    assert attempts.tried == {"a", "b"}


def test_a_poisoned_request_takes_no_member_down() -> None:
    """What two members call a general error is the request's own fault: it is refused, and nobody is blamed."""
    attempts = Attempts()
    assert attempts.failed("a", failure(GENERAL_ERROR), retries=3, time_left=True) == Verdict(Step.ELSEWHERE)
    assert not attempts.rejected
    assert attempts.failed("b", failure(GENERAL_ERROR), retries=3, time_left=True) == Verdict(Step.GIVE_UP)
    assert attempts.rejected


def test_a_general_error_beside_a_loss_does_not_condemn_the_request() -> None:
    """A request that one member failed for certain is not called wrong by what another one says."""
    attempts = Attempts()
    attempts.failed("a", failure(DEVICE_ERROR), retries=0, time_left=True)
    assert attempts.failed("b", failure(GENERAL_ERROR), retries=0, time_left=True).step is Step.ELSEWHERE
    assert attempts.failed("a", failure(GENERAL_ERROR), retries=0, time_left=True).step is Step.GIVE_UP
    assert not attempts.rejected


@pytest.mark.parametrize("code", [FUNCTION_FAILED, VENDORS])
def test_a_throttled_request_gets_every_attempt(code: int) -> None:
    """What busy HSMs answer too is tried four times, with longer and longer pauses, before the request is refused."""
    attempts = Attempts()
    verdicts = [attempts.failed(member, failure(code), retries=0, time_left=True) for member in ("a", "b", "a", "b")]
    assert [verdict.step for verdict in verdicts] == [Step.ELSEWHERE] * 3 + [Step.GIVE_UP]
    assert [verdict.pause_s for verdict in verdicts[:3]] == [0, 0.08, 0.16]
    assert not any(verdict.blame for verdict in verdicts)
    assert attempts.rejected


def test_an_ambiguous_failure_is_blamed_when_a_peer_succeeds() -> None:
    """A member whose peer can do what it could not is at fault after all; the peer itself is not, nor who timed out."""
    attempts = Attempts()
    attempts.failed("a", failure(FUNCTION_FAILED), retries=0, time_left=True)
    attempts.failed("b", DeadlineError("late"), retries=0, time_left=True)
    attempts.failed("c", failure(VENDORS), retries=0, time_left=True)
    assert attempts.succeeded("c") == ["a"]
    assert sorted(attempts.succeeded("d")) == ["a", "c"]
    assert {name: error.code for name, error in attempts.doubtful.items()} == {"a": FUNCTION_FAILED, "c": VENDORS}


ERRORS = st.sampled_from(CODES).map(failure) | st.sampled_from([error for error, _, _ in OTHERS])
FAILURES = st.lists(st.tuples(st.sampled_from("abc"), ERRORS, st.booleans()), min_size=60, max_size=60)


@given(FAILURES, st.integers(0, 3))
def test_every_request_ends(failures: list[tuple[str, HsmitmError, bool]], retries: int) -> None:
    """However a request fails, it is given up after four attempts with their retries, and blames whom it should."""
    attempts, calls, here, ambiguous = Attempts(), 0, 0, []
    sequence = iter(failures)
    while True:
        member, error, time_left = next(sequence)
        verdict = attempts.failed(member, error, retries=retries, time_left=time_left)
        calls += 1
        doubtful = type(error) is MemberLostError and codes.kind(error.code) is Kind.AMBIGUOUS
        assert not (verdict.blame and (doubtful or isinstance(error, (DeadlineError, KeyLostError, RefusedError))))
        assert 0 <= verdict.pause_s <= 0.4
        if isinstance(error, RefusedError):
            assert verdict == Verdict(Step.GIVE_UP)
            break
        if verdict.step is Step.AGAIN:
            here += 1
            assert here <= retries
            assert time_left
            assert not doubtful
            assert isinstance(error, MemberLostError)
            assert verdict.pause_s > 0
            continue
        here = 0
        ambiguous += [member] if doubtful else []
        assert member in attempts.tried
        if verdict.step is Step.GIVE_UP:
            break
    assert attempts.count <= TRIES
    assert calls <= TRIES * (retries + 1)
    for member in "abcd":
        assert set(attempts.succeeded(member)) == set(ambiguous) - {member}
    assert attempts.rejected == (len(ambiguous) == attempts.count > 1)


@given(FAILURES)
def test_general_errors_end_a_request_at_the_second(failures: list[tuple[str, HsmitmError, bool]]) -> None:
    """No client's bad input reaches more than two members, in whatever company its failures come."""
    attempts, general = Attempts(), 0
    for member, error, time_left in failures:
        verdict = attempts.failed(member, error, retries=500, time_left=time_left)
        general += type(error) is MemberLostError and error.code == GENERAL_ERROR
        if general == 2:
            assert verdict.step is Step.GIVE_UP
        if verdict.step is Step.GIVE_UP:
            return


# --- the retries of a group -------------------------------------------------------------------------------------------


def test_a_group_at_rest_has_some_retries() -> None:
    """All requests in flight at a member that is lost may be retried at once, and then no more."""
    budget = RetryBudget(rest=100)
    assert [budget.retry() for _ in range(101)] == [True] * 100 + [False]


@pytest.mark.parametrize("rest", [1, 100])
def test_a_broken_group_is_asked_a_fifth_more(rest: int) -> None:
    """Once the stock is used up, one request in five is retried, and not each of them four times."""
    budget = RetryBudget(rest)
    while budget.retry():
        pass
    granted = 0
    for _ in range(1000):
        budget.request()
        granted += sum(budget.retry() for _ in range(3))
    assert 195 <= granted <= 200


def test_the_stock_is_not_hoarded() -> None:
    """A million good requests do not allow more retries than a rest allows."""
    budget = RetryBudget(rest=10)
    for _ in range(1_000):
        budget.request()
    assert [budget.retry() for _ in range(11)] == [True] * 10 + [False]


def test_a_large_group_has_as_many_retries_as_it_can_lose() -> None:
    """Where more requests can be in flight than a rest allows for, so many more may be retried, once."""
    budget = RetryBudget(rest=10)
    budget.request(25)
    budget.request(25)
    budget.request(8)
    assert [budget.retry() for _ in range(26)] == [True] * 25 + [False]
    for _ in range(1000):
        budget.request(25)
    assert sum(budget.retry() for _ in range(100)) == 25


def test_members_that_come_and_go_make_no_retries() -> None:
    """A group that loses members and gets them back has no more retries for that."""
    budget = RetryBudget(rest=10)
    budget.request(30)
    while budget.retry():
        pass
    for slots in [0, 30, 15, 30] * 5:
        budget.request(slots)
    assert sum(budget.retry() for _ in range(10)) == 4


@given(st.integers(1, 10), st.lists(st.booleans(), max_size=200))
def test_retries_are_counted(rest: int, asked: list[bool]) -> None:
    """Requests and retries may come in any order: a retry is granted exactly when a whole one is left."""
    budget, left = RetryBudget(rest), Fraction(rest)
    for retry in asked:
        if not retry:
            budget.request()
            left = min(left + Fraction(1, 5), Fraction(rest))
            continue
        granted = budget.retry()
        if abs(left - 1) > Fraction(1, 10**6):
            assert granted == (left > 1)
        left -= granted


@pytest.mark.parametrize(("attempt_timeout_s", "hang_s"), [(0.1, 1), (0.5, 1), (0.6, 1.2), (5, 10)])
def test_hang_s(attempt_timeout_s: float, hang_s: float) -> None:
    """A session hangs when two attempts in a row would have run out of time, and never before a second."""
    assert Failover(attempt_timeout_s=attempt_timeout_s).hang_s == pytest.approx(hang_s)
