"""Servers that cannot be inspected, as was seen: they asked for a client's certificate, and their profile has it that
such servers are passed by from the next connection on.

A server is the very one that was seen: the host that the client asked the proxy for, or the address that it connected
to, its port, and the SNI. Whoever names a bank and connects elsewhere has met another server. No I/O, no clock.
"""

from __future__ import annotations

from collections import OrderedDict

from addons.records.facts import Facts

MOST, FOR_S = 1024, 12 * 3600.0
"""As PAN-OS remembers them: so many, of which the oldest go first, and so long."""

Seen = tuple[str, int, str]


class Exclusions:
    """Those that one worker has met."""

    def __init__(self, most: int = MOST, for_s: float = FOR_S) -> None:
        self._most, self._for_s = most, for_s
        self._until: OrderedDict[Seen, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def note(self, facts: Facts, now: float) -> bool:
        """The server of this connection is one, at `now` (monotonic seconds). Whether that is news."""
        key, news = _seen(facts), not self.holds(facts, now)
        self._until[key] = now + self._for_s
        self._until.move_to_end(key)
        if len(self._until) > self._most:
            self._until.popitem(last=False)
        return news

    def holds(self, facts: Facts, now: float) -> bool:
        """Whether this connection goes to one."""
        if not self._until:
            return False
        key = _seen(facts)
        until = self._until.get(key)
        if until is not None and until <= now:
            del self._until[key]
            return False
        return until is not None


def _seen(facts: Facts) -> Seen:
    return facts.host or facts.destination, facts.port, facts.sni
