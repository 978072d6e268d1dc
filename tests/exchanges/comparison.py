"""What two recordings of one exchange differ in: content by its bytes and when they came, the rest one for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from tests.exchanges.ends import Seen

_ENDS = {"closed", "broken"}
_BROKEN_OFF = {"closed", "broken", "reset"}


@dataclass
class Recording:
    """Of one exchange: what came to each end, and when the client began."""

    begun_s: float
    client: list[Seen] = field(default_factory=list)
    server: list[Seen] = field(default_factory=list)

    def with_server(self, other: Recording) -> Recording:
        """As if the server had been that of another recording, at the same time."""
        shift = self.begun_s - other.begun_s
        return Recording(self.begun_s, self.client, [replace(one, at_s=one.at_s + shift) for one in other.server])


def said(seen: Sequence[Seen], *, closing: bool, across: bool = False) -> list[tuple[str, Any]]:
    """What came, with content that followed each other joined: how it is cut is nobody's business. Nor is, but for
    `closing`, how a connection ends behind a whole message: it may serve others. `across`: versions of HTTP have their
    own ways to break a message off."""
    joined: list[tuple[str, Any]] = []
    for what, run in groupby(seen, key=lambda one: one.what):
        values = [one.value for one in run]
        joined += [(what, b"".join(values))] if what == "data" else [(what, value) for value in values]
    if joined[-1:] == [("closed", None)] and joined[-2:-1] and joined[-2][0] == "reset":
        del joined[-2]  # a stream that is reset before its connection ends
    if across:
        joined = [("broken", None) if what in _BROKEN_OFF else (what, value) for what, value in joined]
    if not closing and any(what == "end" for what, _ in joined):
        joined = [one for one in joined if one[0] not in _ENDS]
    return joined


def moments(seen: Sequence[Seen], begun_s: float) -> list[tuple[str, int, float]]:
    """For each thing that came: what, how many bytes of content had come with it, and when, in seconds."""
    found, size = [], 0
    for one in seen:
        size += len(one.value) if one.what == "data" else 0
        if one.what not in _ENDS:
            found.append((one.what, size, one.at_s - begun_s))
    return found


def lateness_s(direct: Recording, way: Recording) -> float:
    """By how much the latest of all things came later on its way than directly."""
    worst = 0.0
    for mine, theirs in ((direct.client, way.client), (direct.server, way.server)):
        came = moments(theirs, way.begun_s)
        for what, size, at_s in moments(mine, direct.begun_s):
            late = [other for kind, others, other in came if kind == what and others >= size]
            if late:
                worst = max(worst, min(late) - at_s)
    return worst
