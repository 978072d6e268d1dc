"""When something else may have been measured than what was meant, and the sentence that says so."""

from __future__ import annotations

FULL = 0.9
"""Of a core: a process of one thread that used more of it may have been the limit."""
ALONE = 0.2
"""Cores: other processes that used more took them from what was measured."""


def not_alone(others_share: float, therefore: str) -> list[str]:
    """A sentence where processes that have no part in the measurement used more than ALONE cores, and what follows from
    it; none otherwise."""
    if others_share <= ALONE:
        return []
    return [f"the machine was not idle, other processes used up to {others_share:.1f} cores: {therefore}"]
