"""A token bucket: so many at once, and so many a second from there on. No clock of its own."""

from __future__ import annotations


class Bucket:
    """Holds up to `burst` tokens and gets `per_s` of them back in a second."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._since: float | None = None

    def take(self, number: float, now_s: float) -> bool:
        """Take as many tokens; whether there were as many. `now_s` is of a clock that never goes back."""
        if self._since is not None:
            self._left = min(self._burst, self._left + (now_s - self._since) * self._per_s)
        self._since = now_s
        self._left -= number
        return self._left >= 0
