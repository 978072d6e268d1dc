"""How many requests may be in flight at a member. A pure function. No I/O, no clock."""

from __future__ import annotations

QUICK_S = 0.05
"""What a signature takes at most where the way there and back matters."""


RAMP_S = 1.0
"""A member that comes back beside others gets its full share over this time: its HSM may be just waking."""


def slots(sessions: int, latency_s: float, up_for_s: float, useful: int, *, alone: bool) -> int:
    """How many requests may be in flight at a member of `sessions` sessions.

    Two for each session keep it busy over the way there and back; where a signature takes long, the way matters
    nothing, and a queue at the member would only delay its test signatures. `useful` is what its pace says
    (`hsm.member.pace`): more than its HSM works on would wait inside the module. `alone`: no other member could share.
    """
    full = min(useful, 2 * sessions if latency_s < QUICK_S else sessions)
    if alone or up_for_s >= RAMP_S:
        return max(1, full)
    return max(1, int(full * up_for_s / RAMP_S))
