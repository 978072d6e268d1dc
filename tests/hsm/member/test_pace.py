"""How many requests at a time are of use at a member: learned at devices that are made of numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.member.pace import Asked, Pace

KEY = "trust"


@dataclass
class Device:
    """An HSM that works on `engines` requests at a time, each for `alone_s` (more or less, by `jitter`), in the order
    of coming or of `last_first`; and clients that have `sessions` of it and always want more."""

    engines: int
    alone_s: float
    sessions: int = 8
    jitter: float = 0.0
    last_first: bool = False
    pace: Pace = field(default_factory=Pace)
    now: float = 1000.0
    answers: int = 0
    slots: list[int] = field(default_factory=list)
    longest_s: float = 0.0
    late: int = 0
    _queue: list[tuple[Asked, float]] = field(default_factory=list)
    _busy: list[tuple[float, Asked, float]] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        for _ in range(3):  # the start of a member
            one = self.pace.asked(KEY, self.now)
            self.now += self._takes_s()
            self.pace.answered(one, self.now)

    def _takes_s(self) -> float:
        return self.alone_s * (1 + self.jitter * self._random.uniform(-1, 1))

    def serve(self, answers: int, clients: int = 100) -> float:
        """So many answers, as quickly as it goes. Answers a second."""
        begun, goal = self.now, self.answers + answers
        while self.answers < goal:
            while len(self._queue) + len(self._busy) < min(self.sessions, self.pace.useful, clients):
                due_s = self.pace.due_s(KEY)
                self._queue.append((self.pace.asked(KEY, self.now), self.now + due_s))
            while self._queue and len(self._busy) < self.engines:
                one, due = self._queue.pop(-1 if self.last_first else 0)
                self._busy.append((self.now + self._takes_s(), one, due))
            self._busy.sort(key=lambda job: job[0])
            self.now, one, due = self._busy.pop(0)
            self.pace.answered(one, self.now)
            self.answers += 1
            self.late += self.now > due
            self.longest_s = max(self.longest_s, self.now - one.at)
            self.slots.append(min(self.sessions, self.pace.useful))
        return answers / (self.now - begun)


ONE_AT_A_TIME = [
    (0.14, 0.0, False), (0.14, 0.3, False), (0.51, 0.1, False), (2.0, 0.2, False), (0.14, 0.0, True), (0.14, 0.2, True),
]  # fmt: skip


@pytest.mark.parametrize(("alone_s", "jitter", "last_first"), ONE_AT_A_TIME)
def test_a_device_that_works_on_one_at_a_time(alone_s: float, jitter: float, last_first: bool) -> None:
    """A card gets one request after another, now and then one more to see whether that helps, and loses nothing."""
    card = Device(1, alone_s, jitter=jitter, last_first=last_first)
    rate = card.serve(200)
    assert rate > 0.95 / alone_s
    assert card.slots[:8] == [8] * 7 + [1], "nothing is known at first"
    assert max(card.slots[8:]) == 2
    assert card.slots.count(1) > 0.6 * len(card.slots)
    assert card.late == 0 or last_first


@pytest.mark.parametrize(
    ("engines", "alone_s", "sessions"), [(8, 0.51, 8), (8, 0.25, 8), (16, 0.14, 16), (64, 0.3, 64)]
)
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_a_device_that_works_on_as_many_as_it_has_sessions(
    engines: int, alone_s: float, sessions: int, jitter: float
) -> None:
    """An HSM that is slow and has as many engines as sessions soon has a request for each."""
    hsm = Device(engines, alone_s, sessions, jitter)
    hsm.serve(8 * engines)
    assert hsm.serve(10 * engines) > 0.9 * engines / alone_s
    assert min(hsm.slots[8 * engines :]) >= 0.7 * sessions


@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("engines", [2, 3, 4])
def test_a_device_with_fewer_engines_than_sessions(engines: int, jitter: float) -> None:
    """Between both, a member gets about as many requests as its HSM works on, and is kept busy with them."""
    hsm = Device(engines, 0.2, sessions=16, jitter=jitter)
    hsm.serve(100)
    assert hsm.serve(300) > 0.85 * engines / 0.2
    usual = sorted(hsm.slots[100:])[150]
    assert engines <= usual <= 2 * engines


@pytest.mark.parametrize(("alone_s", "sessions"), [(0.0005, 8), (0.001, 16), (0.002, 16), (0.005, 4)])
def test_a_quick_hsm_is_not_held_back(alone_s: float, sessions: int) -> None:
    """Where a signature takes a few milliseconds, all sessions are used, whatever the HSM does with them: so little
    waits there that it does no harm."""
    hsm = Device(1, alone_s, sessions, jitter=0.5)
    hsm.serve(500)
    assert min(hsm.slots) == sessions


def test_a_device_that_becomes_slower() -> None:
    """An HSM with many engines that takes 300 ms all of a sudden is slow, and still works on as many: it goes on to get
    them."""
    hsm = Device(64, 0.001, sessions=64, jitter=0.2)
    hsm.serve(1000)
    hsm.alone_s = 0.3
    hsm.serve(64)
    assert hsm.serve(640) > 0.8 * 64 / 0.3


CHANGES = [((4, 0.14), (4, 0.6)), ((8, 0.5), (1, 0.5)), ((1, 0.5), (8, 0.5)), ((1, 0.6), (1, 0.1))]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_what_was_learned_is_learned_anew(before: tuple[int, float], after: tuple[int, float]) -> None:
    """What an HSM works on at a time may change, and what a request takes: the member follows."""
    hsm = Device(*before, sessions=8, jitter=0.1)
    hsm.serve(200)
    hsm.engines, hsm.alone_s = after
    hsm.serve(300)
    engines, alone_s = after
    assert hsm.serve(200) > 0.9 * engines / alone_s
    usual = sorted(hsm.slots[-200:])[100]
    assert engines <= usual <= min(8, 2 * engines)


def test_what_was_learned_outlives_a_process() -> None:
    """The next process of a member need not find out again what its HSM works on at a time."""
    hsm = Device(8, 0.5)
    hsm.serve(100)
    card = Device(1, 0.5)
    card.serve(100)
    assert Pace(card.pace).useful <= 2
    assert Pace(hsm.pace).useful >= 8


def test_few_requests_say_nothing_of_many() -> None:
    """An HSM that works on eight at a time, and is asked for one or two for a while, is not taken for a card."""
    hsm = Device(8, 0.5)
    hsm.serve(100)
    hsm.serve(100, clients=2)
    assert hsm.slots[-1] == 8


def test_a_stall_is_no_pace() -> None:
    """One or two answers that took long do not make a member seem slow, and a test signature that did makes it so."""
    pace = Pace()
    for takes_s in (0.1, 0.1, 0.1, 2.0, 2.0):
        pace.answered(pace.asked(KEY, 0.0), takes_s)
    assert pace.alone_s(KEY) == 0.1
    pace.answered(pace.asked(KEY, 0.0), 0.9, afresh=True)
    assert pace.alone_s(KEY) == 0.9


def test_a_new_pace() -> None:
    """What a request takes now is known after a few answers, alone or beside others."""
    pace = Pace()
    for _ in range(8):
        pace.answered(pace.asked(KEY, 0.0), 0.001)
    many = [pace.asked(KEY, 1.0) for _ in range(20)]
    for one in many[:4]:
        pace.answered(one, 1.3)
    assert pace.alone_s(KEY) == pytest.approx(0.3)
    for one in many[4:]:
        pace.answered(one, 1.31)
    assert pace.alone_s(KEY) == pytest.approx(0.3), "they were asked before it was known"
    many = [pace.asked(KEY, 1.4) for _ in range(20)]
    for place, one in enumerate(many):
        pace.answered(one, 1.7 + 0.001 * place)
    assert pace.engines > 15


def test_keys_have_paces_of_their_own() -> None:
    """A quick key beside a slow one, on a device that works on one at a time, is not late behind it."""
    pace, now = Pace(), 0.0
    for key, takes_s in (("rsa", 1.0), ("ec", 0.02), ("rsa", 1.0), ("ec", 0.02)):
        one = pace.asked(key, now)
        now += takes_s
        pace.answered(one, now)
    assert (pace.alone_s("rsa"), pace.alone_s("ec")) == pytest.approx((1.0, 0.02))
    assert pace.due_s("ec", least_s=0.5) == 0.5
    slow, quick = pace.asked("rsa", now), pace.asked("ec", now)
    assert pace.due_s("ec", least_s=0.5) >= 3.0, "behind both"
    pace.answered(slow, now + 1.0)
    pace.answered(quick, now + 1.02)
    assert pace.alone_s("ec") == pytest.approx(0.02)
    assert pace.engines == pytest.approx(1.0)


def test_an_attempt_has_the_time_that_the_pace_of_its_member_asks_for() -> None:
    """No less than the operator's timeout; at a slow member three times what it takes, behind those in flight too."""
    pace = Pace()
    assert pace.due_s(KEY, least_s=0.5) == 0.5, "nothing is known"
    for _ in range(3):
        pace.answered(pace.asked(KEY, 0.0), 0.1)
    assert pace.due_s(KEY, least_s=0.5) == 0.5
    for place in range(1, 4):
        pace.asked(KEY, 1.0)
        assert pace.due_s(KEY, least_s=0.5) == pytest.approx(max(0.5, 3 * 0.1 * (place + 1)))


def test_silence_is_measured_by_the_slowest_key() -> None:
    """A member hangs after the time that the settings say, or three times what its slowest key takes."""
    pace = Pace()
    assert pace.silence_s(least_s=1.0) == 1.0
    pace.answered(pace.asked("ec", 0.0), 0.05)
    assert pace.silence_s(least_s=1.0) == 1.0
    pace.answered(pace.asked("rsa", 0.0), 0.51)
    assert pace.silence_s(least_s=1.0) == pytest.approx(1.53)


def test_a_request_that_failed_is_no_work() -> None:
    """Failures and requests that were given up say nothing of the pace; a request ends once."""
    pace = Pace()
    pace.answered(pace.asked(KEY, 0.0), 0.1)
    one, other = pace.asked(KEY, 1.0), pace.asked(KEY, 1.0)
    pace.ended(one, 9.0)
    pace.ended(one, 10.0)
    assert pace.due_s(KEY) == pytest.approx(0.6), "one is in flight"
    pace.ended(other, 11.0)
    assert pace.due_s(KEY) == pytest.approx(0.3)
    assert pace.alone_s(KEY) == pytest.approx(0.1)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ask", "answer", "fail"]), st.floats(0, 3), st.integers(0, 20)), max_size=80
)


@given(EVENTS)
def test_there_is_always_a_slot(events: list[tuple[str, float, int]]) -> None:
    """Whatever happens, in whatever order and times, one request may be in flight, and no number goes astray."""
    pace, now = Pace(), 0.0
    flying: list[Asked] = []
    for what, after_s, which in events:
        now += after_s
        if what == "ask":
            flying.append(pace.asked(f"key {which % 3}", now))
        elif flying:
            one = flying.pop(which % len(flying))
            finish: Callable[[Asked, float], None] = pace.answered if what == "answer" else pace.ended
            finish(one, now)
        assert pace.useful >= 1
        assert pace.engines >= 1
        assert pace.due_s("key 0", least_s=0.5) >= 0.5
    for one in flying:
        pace.ended(one, now)
    assert pace.due_s("unknown") == 0
