"""How many lines of one kind a second are written, and what is told of the rest. No I/O, no clock, no lock.

What is logged is often decided by the network: a refused connection is a line. A class is a logger, a level and a
message's template, or what the place that logs says (`extra={"log_class": ...}`). Messages that are made before they
are logged, as scripts do, have no template in common: all that one logger says at one level is a class, too.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator

from msgspec import Struct

PER_CLASS, PER_LOGGER, PERIOD_S = 10, 100, 1.0
"""Lines of a class, and of a logger's level, in each period."""
OURS = ("hsmitm.signer", "hsmitm.member", "hsmitm.group", "hsmitm.supervisor")
"""They tell what hsmitm does, once for each member, key or setting, at no client's wish: PER_LOGGER holds alone."""
_CLASSES = 512
_EXAMPLE = 200


class Held(Struct, frozen=True):
    """Lines that were not written: how many, in how many seconds, of which level, and the first of them."""

    count: int
    period_s: float
    level: int
    example: str


class _Class(Struct):
    """One class in its present period."""

    level: int
    begun: float
    passed: int = 0
    held: int = 0
    held_since: float = 0.0
    example: str = ""


class Rates:
    """All classes of a process. `held` counts the lines that were not written."""

    def __init__(self) -> None:
        self.held = 0
        self._classes: dict[Hashable, _Class] = {}
        self._looked_through = 0.0

    def passes(self, record: logging.LogRecord, now: float) -> bool:
        """Whether `record` is written. `now` is seconds of a clock that never goes back."""
        return all(self._passes(kind, most, record, now) for kind, most in _kinds(record))

    def _passes(self, kind: Hashable, most: int, record: logging.LogRecord, now: float) -> bool:
        found = self._class(kind, record.levelno, now)
        if now - found.begun >= PERIOD_S:
            found.begun, found.passed = now, 0
        if found.passed < most:
            found.passed += 1
            return True
        if not found.held:
            found.held_since, found.example = now, _message(record)[:_EXAMPLE]
        found.held += 1
        self.held += 1
        return False

    def _class(self, kind: Hashable, level: int, now: float) -> _Class:
        found = self._classes.get(kind)
        if found is None:
            if len(self._classes) >= _CLASSES and now - self._looked_through >= PERIOD_S:
                self._forget_quiet(now)
            if len(self._classes) >= _CLASSES:
                kind = None  # what cannot be told apart any more is one class
            found = self._classes.setdefault(kind, _Class(level, now))
        return found

    def _forget_quiet(self, now: float) -> None:
        quiet = [kind for kind, one in self._classes.items() if not one.held and now - one.begun >= PERIOD_S]
        self._looked_through = now
        for kind in quiet:
            del self._classes[kind]

    @property
    def waiting(self) -> bool:
        """Whether there is something that `due` will tell."""
        return any(one.held for one in self._classes.values())

    def due(self, now: float, *, all_of_it: bool = False) -> Iterator[Held]:
        """What was held back, once it is a period ago."""
        for one in self._classes.values():
            if one.held and (all_of_it or now - one.held_since >= PERIOD_S):
                yield Held(one.held, now - one.held_since, one.level, one.example)
                one.held = 0


def _kinds(record: logging.LogRecord) -> Iterator[tuple[Hashable, int]]:
    said = getattr(record, "log_class", None)
    if said is not None or not record.name.startswith(OURS):
        yield (record.name, record.levelno, str(said or record.msg)[:_EXAMPLE]), PER_CLASS
    yield (record.name, record.levelno), PER_LOGGER


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  # whatever an argument's __str__ raises
        return f"a line that cannot be written: {type(error).__name__}"
