"""Which member gets the next request. A pure function of what each member shows. No I/O, no clock.

Observed latency times requests in flight, among those in service: a member that answers slowly gets less, without
being called broken. The fewest requests in flight alone lets dozens wait at a slow member before it looks busy.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Protocol

from hsm.member.states import State

_PATIENCE, _PATIENCE_FLOOR_S, _TURN_S = 20, 0.1, 0.002


class Candidate(Protocol):
    """What the choice looks at."""

    @property
    def name(self) -> str:
        """What `tried` calls it."""

    @property
    def state(self) -> State:
        """UP or SUSPECT; others are never chosen."""

    @property
    def resting(self) -> bool:
        """Whether its token said a moment ago that it has no room."""

    @property
    def latency_s(self) -> float:
        """Average time of an answer."""

    @property
    def quickest_s(self) -> float:
        """The best of the recent answers."""

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""

    @property
    def slots(self) -> int:
        """Requests that may be in flight at a time."""


def choose[T: Candidate](candidates: Iterable[T], tried: Set[str], doubting: Set[str] = frozenset()) -> T | None:
    """The best of `candidates` (all of them serve the key) that has a free slot; None where none has.

    In this order: members that are UP and not `tried` for this request; SUSPECT, resting and `doubting` ones (names of
    those that have just refused what is wanted: asked first each time they would use up the retries); tried ones. A
    candidate of an earlier class whose slots are full is waited for, not passed over for a worse class.
    """
    best: T | None = None
    best_class, best_cost = 3, 0.0
    for one in candidates:
        place = 2 if one.name in tried else int(one.state is not State.UP or one.resting or one.name in doubting)
        cost = one.latency_s * (one.in_flight + 1)
        if place < best_class or (place == best_class and _better(one, cost, best, best_cost)):
            best, best_class, best_cost = one, place, cost
    return best if best is not None and best.in_flight < best.slots else None


def _better(one: Candidate, cost: float, best: Candidate | None, best_cost: float) -> bool:
    assert best is not None
    free, best_free = one.in_flight < one.slots, best.in_flight < best.slots
    return cost < best_cost if free == best_free else free


def patience_s(latency_s: float, in_flight: int, longest_s: float, *, peer: bool) -> float:
    """How long one attempt may take: `longest_s`, or where a `peer` could answer instead no longer than what is far
    beyond the member's custom. So a hang costs a request a fraction of the attempt timeout. The floor is above the
    pauses of this machine itself, which takes its time where many requests are in flight."""
    floor_s = _PATIENCE_FLOOR_S + _TURN_S * in_flight
    return min(longest_s, max(floor_s, _PATIENCE * latency_s)) if peer else longest_s


def wait_s(candidates: Iterable[Candidate], waiting: int) -> float:
    """How long a request behind `waiting` others will wait for a slot at best, in seconds; 0 where nothing is known."""
    rate = sum(one.slots / one.quickest_s for one in candidates if one.quickest_s > 0)
    return waiting / rate if rate else 0.0
