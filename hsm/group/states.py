"""The states of the group: a table over its members'. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from hsm.member.states import SERVING, State


class GroupState(StrEnum):
    """How many of the members are in service."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    LAST = "last"
    """One of several: what it fails at, clients see."""
    OUTAGE = "outage"


def group_state(members: Iterable[State]) -> GroupState:
    """The group's state from its members'. A member that an operator stops does not count."""
    counted = [state for state in members if state not in (State.DRAINING, State.STOPPED)]
    serving = sum(state in SERVING for state in counted)
    if not serving:
        return GroupState.OUTAGE
    if all(state is State.UP for state in counted):
        return GroupState.HEALTHY
    return GroupState.LAST if serving == 1 and len(counted) > 1 else GroupState.DEGRADED
