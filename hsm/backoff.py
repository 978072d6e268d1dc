"""How long to wait before the next try: it doubles with each failure, up to a maximum. Pure: no clock, no sleep."""

from __future__ import annotations

from msgspec import Struct

_DOUBLINGS = 64
"""More than any maximum needs: a count of failures may grow without end, a float may not."""


class Backoff(Struct, frozen=True):
    """The waits of one kind of try, in seconds. `spread` is the share by which each is moved either way, so that those
    who failed together do not come back in step."""

    first_s: float
    longest_s: float
    spread: float = 0.0

    def after(self, failures: int, jitter: float = 0.5) -> float:
        """Seconds to wait after `failures` (1 or more) in a row. `jitter` in [0, 1) is where in the spread: by default
        its middle, the plain doubling."""
        plain = min(self.first_s * 2.0 ** min(failures - 1, _DOUBLINGS), self.longest_s)
        return plain * (1 + self.spread * (2 * jitter - 1))
