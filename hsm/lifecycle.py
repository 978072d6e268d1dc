"""A member's states as a table, and how long it stays away. No I/O, no clock.

STARTING --opened--> UP --lost--> DOWN --again--> STARTING
STARTING --lost----> DOWN
STARTING --refused-> QUARANTINED   (an operator must act)
any      --stop----> STOPPED
"""

from __future__ import annotations

from enum import StrEnum

from hsm.errors import MisconfiguredError, PinRefusedError


class State(StrEnum):
    """What a member is doing. Only UP gets requests."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


class Event(StrEnum):
    """What happened to a member."""

    OPENED = "opened"
    LOST = "lost"
    REFUSED = "refused"
    AGAIN = "again"
    STOP = "stop"


_NEXT = {
    (State.STARTING, Event.OPENED): State.UP,
    (State.STARTING, Event.LOST): State.DOWN,
    (State.STARTING, Event.REFUSED): State.QUARANTINED,
    (State.UP, Event.LOST): State.DOWN,
    (State.DOWN, Event.AGAIN): State.STARTING,
}

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 30.0
"""A killed member is back within a quarter of a second; a dead HSM is asked twice a minute."""
BACKOFF_RESET_S = 60.0
"""A member that stayed up this long starts its back-off anew."""


def following(state: State, event: Event) -> State:
    """The state after `event`. Raises ValueError where the table has no such arrow: a bug of ours."""
    if event is Event.STOP:
        return State.STOPPED
    try:
        return _NEXT[state, event]
    except KeyError:
        raise ValueError(f"a member that is {state} cannot meet '{event}'") from None


def event_for(error: Exception, *, was_up: bool) -> Event:
    """What a failed start is: a refused PIN always stops the member; another misconfiguration only before it was ever
    up. Later the same message (no such partition, no such key) is how a vanished store looks, and that comes back."""
    permanent = isinstance(error, PinRefusedError) or (isinstance(error, MisconfiguredError) and not was_up)
    return Event.REFUSED if permanent else Event.LOST


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds to wait after `failures` (1 or more) in a row; `jitter` in [0, 1) spreads it by a fifth either way, so
    that members of one HSM do not come back in step."""
    plain = min(BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16), BACKOFF_MAX_S)
    return plain * (0.8 + 0.4 * jitter)
