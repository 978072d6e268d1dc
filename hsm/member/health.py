"""What the answers of one member say about it: its latency, and whether to doubt it. No I/O, no clock.

A fixed count of strikes restarts a member that is merely throttled, so a run of failures counts, or their share.
"""

from __future__ import annotations

from collections import deque

from hsm.member.pace import Pace
from hsm.wire.member import Vital

_IN_A_ROW = 5
_WINDOW = 20
_SHARE = 0.5
_FEWEST = 10
"""Answers in the window before their share says anything."""
_RECENT = 64
_WEIGHT, _TEST_WEIGHT = 0.2, 0.6
"""Of the newest latency in the average: a member that slows down tenfold is left within two or three answers."""


_OVERTAKEN = 4
"""Calls that came later and were answered: whoever waits in a queue is overtaken by few."""


def hangs(vital: Vital, hang_s: float, pace: Pace) -> bool:
    """Whether a call into the module hangs. Its age alone does not tell: of eight calls at a device that works on one
    at a time the last returns late, and none hangs. But its time must be up, and `hang_s` with it; and either others
    that came later were answered, or none has been for longer than the member's pace explains."""
    silent = vital.silent_s > pace.silence_s(least_s=hang_s)
    return vital.oldest_s > hang_s and (silent or vital.overtaken > _OVERTAKEN)


class Health:
    """The record of one life of a member."""

    def __init__(self, latency_s: float = 0.001) -> None:
        """`latency_s` stands in until something was measured."""
        self.latency_s = latency_s
        self._measured = False
        self._outcomes: deque[bool] = deque(maxlen=_WINDOW)
        self._failures_in_a_row = 0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    @property
    def quickest_s(self) -> float:
        """The best of the recent latencies: what the member can do, whatever one stall did to the average."""
        return min(self._recent, default=self.latency_s)

    def answered(self, latency_s: float) -> None:
        """The member answered well after `latency_s` seconds."""
        self._outcomes.append(True)
        self._failures_in_a_row = 0
        self.took(latency_s)

    def took(self, latency_s: float) -> None:
        """Count the latency of an answer."""
        self._average(latency_s, _WEIGHT)
        self._recent.append(latency_s)

    def tested(self, latency_s: float) -> None:
        """Count the latency of a test signature. It weighs more: a member that was slow once gets no requests, so the
        few tests must show that it is quick again."""
        self._average(latency_s, _TEST_WEIGHT)
        self._recent.append(latency_s)

    def timed_out(self, latency_s: float) -> None:
        """Count the time of an attempt that got no answer: the member is slow at least, but what it can do is open."""
        self._average(latency_s, _WEIGHT)

    def _average(self, latency_s: float, weight: float) -> None:
        self.latency_s = (1 - weight) * self.latency_s + weight * latency_s if self._measured else latency_s
        self._measured = True

    def blamed(self) -> bool:
        """The member failed a request. Whether that makes it doubtful: five in a row, or half of the last twenty."""
        self._outcomes.append(False)
        self._failures_in_a_row += 1
        failed = self._outcomes.count(False)
        return self._failures_in_a_row >= _IN_A_ROW or (
            len(self._outcomes) >= _FEWEST and failed >= _SHARE * len(self._outcomes)
        )

    def clear(self) -> None:
        """Forget the outcomes, after an examination that went well; the latency stays."""
        self._outcomes.clear()
        self._failures_in_a_row = 0
