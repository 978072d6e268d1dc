"""Where the signing measurement is made, and where and with what unless it is told. It loads next to nothing: the
command line's help names these numbers."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bench import checkout
from hsm.errors import MisconfiguredError

KEY_TYPES = ("rsa-2048", "p256")
"""Names of `bench.sign.kind`."""
SESSIONS = (1, 2, 4, 8, 16)
MAIN_SESSIONS = 8
"""Those of the point that a result is mostly told of."""
MORE_MEMBERS = 2
FAR_MS, FAR_SESSIONS = (5.0, 20.0), 64
"""An HSM on a network: while an answer is on its way, many others can be."""


class Point(Struct, frozen=True):
    """What each C_Sign takes longer, and how many members with how many sessions each."""

    latency_ms: float
    members: int
    sessions: int

    def __str__(self) -> str:
        members = "a member" if self.members == 1 else f"{self.members} members"
        latency = f", HSM latency {self.latency_ms:g} ms" if self.latency_ms else ""
        return f"{members} with {self.sessions} sessions{latency}"


def points(
    sessions: Sequence[int] | None,
    members: Sequence[int] | None,
    latencies_ms: Sequence[float] | None,
    *,
    throw_away: bool = True,
) -> list[Point]:
    """All combinations of what is given. Of nothing given: a sweep of the sessions; where the HSM is `throw_away`, one
    of our own making, also a second member, and in a checkout an HSM that is far away. Raises MisconfiguredError."""
    if latencies_ms and not throw_away:
        raise MisconfiguredError("--hsm-latency-ms: an HSM of --config has a latency of its own")
    checkout.require_for_latency(latencies_ms or ())
    if throw_away and not sessions and not members and not latencies_ms:
        far = [Point(latency_ms, 1, FAR_SESSIONS) for latency_ms in FAR_MS]
        near = [Point(0, 1, number) for number in SESSIONS]
        return [*near, Point(0, MORE_MEMBERS, MAIN_SESSIONS), *(far if checkout.here() else [])]
    return [
        Point(latency_ms, member, session)
        for latency_ms in sorted(set(latencies_ms or [0]))
        for member in sorted(set(members or [1]))
        for session in sorted(set(sessions or SESSIONS))
    ]


def main_point(measured: Sequence[Point]) -> Point:
    """The point that figures without one in their names are of: no latency, one member, and MAIN_SESSIONS; as near to
    that as was measured."""
    return min(measured, key=lambda one: (one.latency_ms, one.members, abs(one.sessions - MAIN_SESSIONS)))
