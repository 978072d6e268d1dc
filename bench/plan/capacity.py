"""From signatures per second to members and sessions. No I/O."""

from __future__ import annotations

import math

from msgspec import Struct

from hsm.errors import MisconfiguredError

BUSY = 0.7
"""How much of a member's rate ordinary seconds may use. Where requests come at random, those that wait grow as
1/(1 - use): at 0.7 about three stand where one would, at 0.9 ten."""


class HsmNumbers(Struct, frozen=True, kw_only=True):
    """What one member can do: `per_s` signatures with `sessions` sessions, beyond which it does no more. `signer_per_s`
    is what the signer gets through to any number of members, 0 where that is not known. `source` says who measured."""

    per_s: float
    sessions: int
    source: str
    signer_per_s: float = 0.0

    def __post_init__(self) -> None:
        if not (self.per_s > 0 and math.isfinite(self.per_s)) or self.sessions < 1:
            raise MisconfiguredError(
                f"{self.source}: a member that makes {self.per_s:g} signatures per second with {self.sessions} "
                "sessions cannot be planned with; both must be above 0"
            )


class Needs(Struct, frozen=True, kw_only=True):
    """What to configure. `members` count the one that may be away; `capacity_per_s` is what those that are left do, as
    far as the signer gets it through.

    `busy` is the share of that which the 99th percentile of seconds uses, `busy_peak` the busiest second.
    """

    members: int
    sessions: int
    capacity_per_s: float
    busy: float
    busy_peak: float


def needs(p99_per_s: float, peak_per_s: float, hsm: HsmNumbers) -> Needs:
    """Members so that, with one away, 99 of 100 seconds use at most BUSY of what is left, and the busiest all of it.

    Sessions by Little's law: at its full rate a member has all `hsm.sessions` at work, so one signature occupies one
    for sessions/rate seconds. As many as the busiest second takes, each BUSY of the time at work; more than
    `hsm.sessions` would sign nothing more, and two are the least, so that one may be replaced.
    """
    left = max(1, math.ceil(p99_per_s / (BUSY * hsm.per_s)), math.ceil(peak_per_s / hsm.per_s))
    occupied = peak_per_s / left * hsm.sessions / hsm.per_s
    sessions = min(max(2, math.ceil(occupied / BUSY)), max(2, hsm.sessions))
    capacity = min(left * hsm.per_s, hsm.signer_per_s or math.inf)
    return Needs(
        members=left + 1,
        sessions=sessions,
        capacity_per_s=capacity,
        busy=p99_per_s / capacity,
        busy_peak=peak_per_s / capacity,
    )
