"""The standing of a member: what one failure concludes, without a process."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from hsm import codes
from hsm.codes import Kind
from hsm.errors import BadSignatureError, DeadlineError, HsmitmError, KeyLostError, MemberLostError, RefusedError
from hsm.member.health import Health
from hsm.member.metrics import MemberMetrics
from hsm.member.standing import Standing
from hsm.member.states import Event, State

OWN = 0x80000383


class Running:
    """A life that only has a health and keys."""

    def __init__(self) -> None:
        self.health = Health()
        self.lost = False
        self.proved = {"trust", "untrust"}
        self.problems: dict[str, str] = {}

    def note_problem(self, key: str, problem: str) -> None:
        """The member does not serve this key any more."""
        self.proved.discard(key)
        self.problems[key] = problem


@pytest.fixture
def life() -> Running:
    """The running process."""
    return Running()


@pytest.fixture
def standing(life: Running) -> Standing:
    """A member in service."""
    made = Standing("m1", MemberMetrics(CollectorRegistry()), lambda: None)
    made.begin()
    made.move(Event.AGAIN, "start 1")
    made.life = life  # type: ignore[assignment]
    made.move(Event.OPENED, "process 1")
    return made


def conclude(standing: Standing, error: HsmitmError, *, late: bool = False) -> None:
    """A request for 'trust' failed."""
    assert standing.life is not None
    standing.conclude(standing.life, "trust", error, 0.5, late=late)


@pytest.mark.parametrize(
    ("error", "late", "state", "tested", "resting"),
    [
        (DeadlineError("no answer"), True, State.SUSPECT, False, False),
        (DeadlineError("it came with little time left"), False, State.UP, False, False),
        (BadSignatureError("does not verify"), False, State.DOWN, False, False),
        (KeyLostError("gone"), False, State.UP, True, False),
        (RefusedError("no such scheme"), False, State.UP, False, False),
        (codes.error(0x63, "signing"), False, State.UP, True, False),
        (codes.error(0x05, "signing"), False, State.UP, False, False),
        (codes.error(0x30, "signing"), False, State.UP, False, False),
        (codes.error(0x190, "signing"), False, State.DOWN, False, False),
        (codes.error(0xA0, "signing"), False, State.DOWN, False, False),
        (codes.error(0x31, "signing"), False, State.UP, False, True),
        (codes.error(0x201, "signing"), False, State.UP, False, True),
        (codes.error(0xB1, "opening a session"), False, State.UP, False, True),
        (codes.error(OWN, "signing"), False, State.UP, False, False),
        (codes.error(OWN, "signing", {OWN: Kind.BUSY}), False, State.UP, False, True),
        (codes.error(OWN, "signing", {OWN: Kind.PROCESS}), False, State.DOWN, False, False),
        (MemberLostError("the connection was closed"), False, State.UP, False, False),
    ],
)
def test_what_a_failure_concludes(
    standing: Standing, error: HsmitmError, late: bool, state: State, tested: bool, resting: bool
) -> None:
    """By itself a failure takes a member out, has it tested, lets peers go first, or says nothing about it."""
    conclude(standing, error, late=late)
    assert (standing.state, standing.test_asked, standing.resting) == (state, tested, resting)
    assert standing.last_error == str(error)


def test_the_last_key_that_is_lost_takes_the_member_out(standing: Standing, life: Running) -> None:
    """One key may be deleted; when none is there any more, the login or the store is what is lost."""
    conclude(standing, KeyLostError("gone"))
    assert (standing.state, life.proved) == (State.UP, {"untrust"})
    life.proved.clear()
    conclude(standing, KeyLostError("gone"))
    assert standing.state is State.DOWN


def test_a_second_bad_signature_is_the_operators(standing: Standing) -> None:
    """The first bad signature costs a restart, the second within an hour an operator's look."""
    conclude(standing, BadSignatureError("does not verify"))
    assert (standing.state, standing.gave_bad_signature) == (State.DOWN, True)
    standing.move(Event.AGAIN, "start 2")
    standing.move(Event.OPENED, "process 2")
    conclude(standing, BadSignatureError("does not verify"))
    assert standing.state is State.QUARANTINED
    assert "number 2 within an hour" in standing.reason


def test_rests_grow_and_are_forgotten(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that says again and again that it has no room is left alone for longer; one that signs is forgiven."""
    now = [100.0]
    monkeypatch.setattr("hsm.member.standing.time.monotonic", lambda: now[0])
    rests_s = []
    for _ in range(7):
        began = now[0]
        standing.rest()
        standing.rest()  # another answer of the same moment says nothing new
        while standing.resting:
            now[0] += 0.01
        rests_s.append(round(now[0] - began, 1))
    assert rests_s == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    standing.answered()
    standing.rest()
    now[0] += 0.11
    assert not standing.resting


def test_a_test_of_a_life_that_is_gone_says_nothing(standing: Standing) -> None:
    """What the old process answers late does not count against the new one."""
    standing.conclude_test(Running(), MemberLostError("failed"))  # type: ignore[arg-type]
    assert (standing.state, standing.last_error) == (State.UP, "")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (MemberLostError("failed"), State.SUSPECT),
        (codes.error(0x201, "signing"), State.UP),
        (KeyLostError("gone"), State.DOWN),
        (BadSignatureError("does not verify"), State.DOWN),
    ],
)
def test_what_a_failed_test_concludes(standing: Standing, life: Running, error: HsmitmError, state: State) -> None:
    """A test signature that fails makes a member doubtful, unless its token only has no room."""
    standing.conclude_test(life, error)  # type: ignore[arg-type]
    assert standing.state is state
