"""What an operator should know of the policy in force, in the log: once for each policy, and again as days pass."""

from __future__ import annotations

import datetime as dt
import logging

from addons.policy.rules import Compiled

logger = logging.getLogger("hsmitm.policy")


class Notices:
    """What was said already. One worker says it for all."""

    def __init__(self) -> None:
        self._looked: tuple[str, dt.date] | None = None
        self._said: frozenset[str] = frozenset()

    def look(self, policy: Compiled, at: dt.datetime) -> None:
        """Say what is new at `at`; it may be asked every second."""
        looked = policy.version, at.date()
        if looked == self._looked:
            return
        found = policy.warnings(at)
        for one in found:
            if one not in self._said:
                logger.warning("%s", one)
        self._looked, self._said = looked, frozenset(found)
