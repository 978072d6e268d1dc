"""What becomes of requests while no member is in service, in the operator's word (`hsm.unavailable`). Pure.

The signer acts on it, workers hear it with each answer to a report, and the configuration checks it.
"""

from __future__ import annotations

import re

FAIL = "fail"
"""Refuse every new inspected connection. What holds where nothing is said."""
CACHED_ONLY = "cached-only"
"""Go on with leaves that exist; names that need a new one are refused after their request's budget."""
_QUEUE = "queue:"
"""As `CACHED_ONLY`, but new names wait so many milliseconds ("queue:2000")."""


def check(text: str) -> None:
    """Raise ValueError unless `text` is one of the three."""
    if not re.fullmatch(rf"{FAIL}|{CACHED_ONLY}|{_QUEUE}[0-9]{{1,5}}", text):
        raise ValueError(f"'{text}' is none; use {FAIL}, {CACHED_ONLY} or {_QUEUE}MS")


def queue_s(text: str) -> float:
    """Seconds that a request waits for a member when none is in service, beyond its budget; `text` was checked."""
    return int(text.removeprefix(_QUEUE)) / 1000 if text.startswith(_QUEUE) else 0.0
