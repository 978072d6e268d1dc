"""The pace of a member: what a request takes alone, and how many at a time are of use. No I/O, no clock.

An HSM may work on many requests at a time or on one (a card, a TPM), whatever sessions it gives. Requests beyond what
it works on only queue inside the module: in no order, without bound, out of reach of a peer; and each of them looks
slow although nothing is. So work is counted: a request is as much of it as such a request takes alone. A member that
does three seconds of work in a second works on three requests at a time. With three in flight all of them are of use,
and one more is tried; with eight, five of them wait. In which order they are served does not matter to this.

What a request takes alone is seen where it has the member to itself. Beside others only answers in a row tell: later
than all the work in flight explains, they say that requests take longer now; earlier than one alone, that they do not.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

_RECENT = 5
"""Stalls must not make a member seem slow: the middle one of the last so many counts."""
_ODD, _ODDS = 3, 4
"""An answer that took so many times what is possible is odd; so many of them in a row are the new pace."""
_HELPED = 0.75
"""Of those in flight the share that must have been worked on, or some of them only waited."""
_TOO_MUCH, _ROUNDS = 2, 3
"""So many times as much work as there were requests in flight, in so many rounds: they take less than was thought."""
_WEIGHT = 0.5
_TRY_EVERY = 16
"""Answers with every place taken until one more is tried, where one more was of no use before."""
_WAY_S = 0.05
"""Requests may wait at the member for so long, beside those that it works on: the next is there when one is done. At a
quick HSM that is no bound at all."""
_GUESS_S = 0.001
"""What a request takes alone, until one was answered."""
_ANY = 1 << 16
"""Requests in flight, where none was seen to wait."""
_PATIENCE = 3
"""Times what a request takes by the pace of its member, until it is late."""


class Asked(Struct, eq=False, gc=False):
    """A request in flight; seconds. `place` counts it among those in flight, 0 once it has ended. `alone_s` is what it
    takes alone (0: not known), `ahead_s` what all in flight take, one after another and it too."""

    key: str
    at: float
    place: int
    alone_s: float
    ahead_s: float


class Pace:
    """The pace of one life of a member. `now` is always of the same clock, in seconds."""

    def __init__(self, before: Pace | None = None) -> None:
        """`before` is of a life before on the same partition: how many it works on at a time is known from there."""
        self.engines: float = before.engines if before else 1.0
        """How many requests it works on at a time, as far as was seen."""
        self.limited: bool = before.limited if before else False
        """Whether any was ever seen to wait for others, at this pace."""
        self._growing = False
        """Whether one more was of use when it was tried last."""
        self._extra = 0.0
        """On trial beyond `engines`."""
        self._alone: dict[str, float] = {}
        self._recent: dict[str, deque[float]] = {}
        self._odds = self._much = 0
        self.usual_s: float = before.usual_s if before else 0.0
        """What requests of late take alone."""
        self._in_flight = 0
        self._ahead_s = 0.0
        self._begun = self._at = 0.0
        self._answers, self._most = 0, 0
        self._work_s = self._held_s = 0.0
        self.useful = 1
        """Requests in flight that are of use: more would only wait at the member."""
        self._reckon(self.usual_s)

    def alone_s(self, key: str) -> float:
        """What a request for `key` takes alone; 0 where that is not known yet."""
        return self._alone.get(key, 0.0)

    def due_s(self, key: str | None, *, least_s: float = 0.0) -> float:
        """How long a request for `key` that comes now might take, until it is late: `least_s` or more. Without a key,
        any request."""
        alone_s = self._slowest_s() if key is None else self._alone.get(key, 0.0)
        return max(least_s, _PATIENCE * max(alone_s, (self._ahead_s + alone_s) / self.engines))

    def silence_s(self, *, least_s: float) -> float:
        """How long a member that has requests in flight may give no answer, until it hangs: `least_s` or more."""
        return max(least_s, _PATIENCE * self._slowest_s())

    def _slowest_s(self) -> float:
        return max(self._alone.values(), default=0.0)

    def asked(self, key: str, now: float) -> Asked:
        """A request is sent. It ends with `answered`, or with `ended`."""
        if self._in_flight:
            self._held_s += self._in_flight * (now - self._at)
        else:
            self._begun += now - self._at
        self._at = now
        self._in_flight = place = self._in_flight + 1
        if place > self._most:  # noqa: PLR1730  # a call less, at each request
            self._most = place
        alone_s = self._alone.get(key, 0.0)
        self._ahead_s += alone_s
        return Asked(key, now, place, alone_s, self._ahead_s)

    def ended(self, one: Asked, now: float) -> None:
        """A request is no more in flight; of its answer nothing is to be learned."""
        if not one.place:
            return
        one.place = 0
        self._held_s += self._in_flight * (now - self._at)
        self._at = now
        self._in_flight -= 1
        self._ahead_s = self._ahead_s - one.alone_s if self._in_flight else 0.0

    def answered(self, one: Asked, now: float, *, afresh: bool = False) -> None:
        """A request was answered well. `afresh` forgets what such requests took before, where they take longer now."""
        first, took_s, alone_s = one.place == 1, now - one.at, self._alone.get(one.key, 0.0)
        self.ended(one, now)
        longer = alone_s / one.alone_s if one.alone_s else 1.0  # than was thought when it was asked
        if took_s > _ODD * longer * one.ahead_s or _ODD * took_s < alone_s:
            self._odds += 1
            if afresh or self._odds >= _ODDS:
                self._recent.pop(one.key, None)
                alone_s, self.limited = 0.0, False  # forgotten, with what was learned by it
        else:
            self._odds = 0
        if not alone_s:  # what was counted so far, and is in flight, was by another measure
            self._note(one.key, took_s)
            self._begin_round(now, -self._in_flight)
            self._reckon(took_s)
            return
        if first:
            self._note(one.key, took_s)
        self._answers += 1
        self._work_s += alone_s
        if self._answers >= self._most:
            self._end_round(now)
        elif self._answers == 0:
            self._begin_round(now)

    def _note(self, key: str, took_s: float) -> None:
        recent = self._recent.setdefault(key, deque(maxlen=_RECENT))
        recent.append(took_s)
        self._alone[key] = sorted(recent)[(len(recent) - 1) // 2]

    # a round: as many answers as there were ever requests in flight meanwhile

    def _begin_round(self, now: float, answers: int = 0) -> None:
        """`_begun` is when it began, later by the time in which nothing was in flight."""
        self._begun = now
        self._answers, self._most = answers, self._in_flight
        self._work_s = self._held_s = 0.0

    def _end_round(self, now: float) -> None:
        busy_s = now - self._begun
        if busy_s > 0:
            at_a_time, in_flight = self._work_s / busy_s, self._held_s / busy_s
            self._much = self._much + 1 if self._most > 1 and at_a_time > _TOO_MUCH * in_flight else 0
            if self._much:
                if self._much >= _ROUNDS:
                    self._shorten(in_flight / at_a_time)
            elif at_a_time < _HELPED * in_flight and _HELPED * in_flight > 1:
                weight = _WEIGHT if self.limited else 1.0
                self.engines = max(1.0, self.engines + weight * (at_a_time - self.engines))
                self.limited, self._growing, self._extra = True, False, 0.0
            elif in_flight > self.engines + _HELPED:
                self.engines, self._growing, self._extra = in_flight, True, 0.0
            elif self._most >= self.useful:
                more = self.engines if self._growing else self._answers / _TRY_EVERY
                self._extra = min(self.engines, self._extra + more)
        usual_s = self._work_s / self._answers
        self._reckon(self.usual_s + _WEIGHT * (usual_s - self.usual_s) if self.usual_s else usual_s)
        self._begin_round(now)

    def _shorten(self, share: float) -> None:
        """Requests are less work than was thought."""
        self._much = 0
        self._recent.clear()
        self._alone = {key: share * alone_s for key, alone_s in self._alone.items()}
        self._work_s *= share

    def _reckon(self, usual_s: float) -> None:
        self.usual_s, way = usual_s, _WAY_S / (usual_s or _GUESS_S)
        self.useful = int(self.engines * (1 + way) + self._extra) if self.limited else _ANY
