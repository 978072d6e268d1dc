"""What the slots of a module say of their tokens, each asked by itself: one that fails or hangs hides no other.

Each is asked on a thread of its own, one after another, as every module is used to. A slot that does not answer is left
behind with its thread: nothing can interrupt a call into a module.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from hsm.errors import HsmitmError

_PATIENCE_S, _LEAST_S, _TIMES = 1.0, 0.2, 20
"""How long the next slot waits for one that does not answer: twenty times as long as the slowest answer so far took,
within bounds. A network HSM's client may set up its TLS at the first call: that one is heard later."""


class Answers[T]:
    """What was asked of slots. `problems` says why there is no answer."""

    def __init__(self) -> None:
        self.found: dict[int, T] = {}
        self.problems: dict[int, str] = {}

    def add(self, others: Answers[T]) -> None:
        """Add what was asked of other slots."""
        self.found.update(others.found)
        self.problems.update(others.problems)


def ask[T](
    slots: Iterable[int], question: Callable[[int], T], until: float, enough: Callable[[Mapping[int, T]], object]
) -> Answers[T]:
    """The answer of each slot to `question`, which may raise HsmitmError. Slots that have not answered when all were
    asked are waited for until `enough`, at most until `until` (CLOCK_MONOTONIC)."""
    answers: Answers[T] = Answers()
    ended: queue.SimpleQueue[_Asked[T]] = queue.SimpleQueue()
    waiting: set[int] = set()
    slowest_s = 0.0

    def take(for_s: float) -> float:
        """An answer, if there is one within this time. How long it took."""
        try:
            one = ended.get(timeout=max(0.0, for_s))
        except queue.Empty:
            return 0.0
        waiting.discard(one.slot)
        answers.found.update(one.answer)
        answers.problems.update(one.problem)
        return one.took_s

    for slot in slots:
        waiting.add(slot)
        _Asked(slot, question, ended).start()
        patience_s = max(_LEAST_S, min(_PATIENCE_S, _TIMES * slowest_s)) if slowest_s else _PATIENCE_S
        slowest_s = max(slowest_s, take(min(patience_s, until - time.monotonic())))
    while waiting and not enough(answers.found) and (left_s := until - time.monotonic()) > 0:
        take(left_s)
    for slot in waiting:
        answers.problems[slot] = "it does not answer"
    return answers


class _Asked[T](threading.Thread):
    """One slot, and what it says: an answer or a problem."""

    def __init__(self, slot: int, question: Callable[[int], T], ended: queue.SimpleQueue[_Asked[T]]) -> None:
        super().__init__(name=f"slot-{slot}", daemon=True)
        self.slot = slot
        self.answer: dict[int, T] = {}
        self.problem: dict[int, str] = {}
        self.took_s = 0.0
        self._question = question
        self._ended = ended

    def run(self) -> None:
        """What a thread does: ask the slot, and say that it has answered."""
        begun = time.monotonic()
        try:
            self.answer[self.slot] = self._question(self.slot)
        except HsmitmError as error:
            self.problem[self.slot] = str(error)
        self.took_s = time.monotonic() - begun
        self._ended.put(self)
