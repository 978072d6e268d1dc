"""What is known of whether certificates are revoked; no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Status = Literal["good", "revoked", "unknown", "timeout"]
"""`unknown`: nobody is named that could say, or what came does not say; `timeout`: nobody answered in time."""

_WORST_FIRST: tuple[Status, ...] = ("revoked", "timeout", "unknown", "good")


class Answer(Struct, frozen=True):
    """Of one certificate, or of a chain. `words` say it of the server, for page and log.

    Times are in seconds since the epoch: `told` is when its issuer said so, `until` how long it is remembered, and from
    `renew` on somebody is asked again.
    """

    status: Status
    words: str
    told: float = 0.0
    renew: float = 0.0
    until: float = 0.0


def worst(answers: Iterable[Answer]) -> Answer:
    """That of a chain: of its certificates', the one that weighs most. There is one at least."""
    return min(answers, key=lambda one: _WORST_FIRST.index(one.status))
