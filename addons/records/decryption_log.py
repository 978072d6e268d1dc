"""The decryption log: a record of each client connection at its end, as far as its rule wants one.

It decides what is told and makes the line; where the lines go is whoever's that made it (`proxy.processes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from addons.records import record
from addons.records.facts import Facts
from addons.records.translation import to_record


class DecryptionLog:
    """What `Connections` tells of each connection that has ended."""

    def __init__(self, put: Callable[[bytes], None], worker: int, withhold: Callable[[], None] = lambda: None) -> None:
        """`put` takes a line and never waits; `worker` is this worker's number; `withhold` is told of a connection that
        has no record."""
        self._put, self._withhold = put, withhold
        self._worker = worker
        self.withheld = 0
        """Records that a rule's `log` does without."""

    def ended(self, facts: Facts) -> None:
        """Tell of a connection."""
        wanted = facts.decision.log if facts.decision is not None else "all"
        if wanted == "all" or (wanted == "failures" and facts.event in ("failed", "blocked")):
            self._put(record.line(to_record(facts, time.time(), worker=self._worker)))
        else:
            self.withheld += 1
            self._withhold()
