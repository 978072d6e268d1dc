"""The states of a member as a table, and how long a member stays away. No I/O, no clock.

A member:
  STARTING ----opened--> UP                 its keys are proved by signatures
  STARTING ----lost----> DOWN
  STARTING ----refused-> QUARANTINED        an operator must act: a failed login, a wrong installation
  UP ----------doubted-> SUSPECT            the last choice for requests, while it is examined
  SUSPECT -----cleared-> UP
  UP, SUSPECT -lost----> DOWN               its process is killed; it is started again after the back-off
  UP, SUSPECT -refused-> QUARANTINED        a second bad signature within the hour
  DOWN --------again---> STARTING
  QUARANTINED -again---> STARTING           `hsmitm hsm reset`, or a changed configuration
  any ---------drain---> DRAINING           no new requests; those in flight end
  any ---------stop----> STOPPED
"""

from __future__ import annotations

from enum import StrEnum

from hsm.backoff import Backoff
from hsm.errors import LoginError, MisconfiguredError


class State(StrEnum):
    """What a member is doing."""

    STARTING = "starting"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    STOPPED = "stopped"


class Event(StrEnum):
    """What happened to a member."""

    OPENED = "opened"
    DOUBTED = "doubted"
    CLEARED = "cleared"
    LOST = "lost"
    REFUSED = "refused"
    AGAIN = "again"
    DRAIN = "drain"
    STOP = "stop"


_NEXT = {
    (State.STARTING, Event.OPENED): State.UP,
    (State.STARTING, Event.LOST): State.DOWN,
    (State.STARTING, Event.REFUSED): State.QUARANTINED,
    (State.UP, Event.DOUBTED): State.SUSPECT,
    (State.UP, Event.LOST): State.DOWN,
    (State.UP, Event.REFUSED): State.QUARANTINED,
    (State.SUSPECT, Event.CLEARED): State.UP,
    (State.SUSPECT, Event.LOST): State.DOWN,
    (State.SUSPECT, Event.REFUSED): State.QUARANTINED,
    (State.DOWN, Event.AGAIN): State.STARTING,
    (State.QUARANTINED, Event.AGAIN): State.STARTING,
}

SERVING = frozenset({State.UP, State.SUSPECT})
"""The states in which requests may be sent."""

BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 5.0
BACKOFF_OUTAGE_MAX_S = 1.5
"""A killed member process is replaced at once, a dead HSM is asked twelve times a minute; while *no* member is in
service, each is asked so often that full service follows the HSM's return within five seconds."""
EAGER_STARTS = 20
"""The latter ends for a member that was never in service after so many starts, about half a minute."""
_SPREAD = 0.2
"""Members of one HSM do not come back in step."""
BACKOFF_RESET_S = 10.0
_FORGIVE_S = 3.0
"""A member that stayed up this long starts its back-off anew; before that one failure is forgiven for each so long."""
CRASH_LOOP, CRASH_LOOP_S = 5, 60.0
"""More starts than this within so many seconds are told at the level of errors: an operator should look."""
BAD_SIGNATURES_S = 3600.0
"""A second bad signature in service within this time quarantines the member."""


def following(state: State, event: Event) -> State:
    """The state after `event`. Raises ValueError where the table has no such arrow: a bug of ours."""
    if event is Event.STOP:
        return State.STOPPED
    if event is Event.DRAIN and state is not State.STOPPED:
        return State.DRAINING
    try:
        return _NEXT[state, event]
    except KeyError:
        raise ValueError(f"a member that is {state} cannot meet '{event}'") from None


def event_for(error: Exception, *, was_up: bool) -> Event:
    """What a failed start is: a failed login always stops the member; another misconfiguration only before it was ever
    up. Later the same message (no such partition, no such key) is how a vanished store looks, and that comes back."""
    permanent = isinstance(error, LoginError) or (isinstance(error, MisconfiguredError) and not was_up)
    return Event.REFUSED if permanent else Event.LOST


def failures_after(failures: int, up_s: float) -> int:
    """Failures in a row, once one more ended a life that was up for `up_s` seconds (0: it never was)."""
    if up_s > BACKOFF_RESET_S:
        return 1
    return max(1, failures + 1 - int(up_s / _FORGIVE_S))


def backoff_s(failures: int, jitter: float, *, outage: bool = False) -> float:
    """Seconds to wait after `failures` (1 or more) in a row; `jitter` as in `Backoff.after`. `outage`: no member is in
    service."""
    longest_s = BACKOFF_OUTAGE_MAX_S if outage else BACKOFF_MAX_S
    return Backoff(BACKOFF_FIRST_S, longest_s, _SPREAD).after(failures, jitter)
