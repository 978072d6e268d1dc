"""What a peer may not send: a fault is one sentence, for the page that it gets and for the log."""

from __future__ import annotations

from typing import ClassVar, Literal

Which = Literal["malformed", "oversized-head", "oversized-trailers"]


class FaultError(Exception):
    """A message is refused. `str()` is one sentence that says what was wrong with it, without what the peer sent."""

    which: ClassVar[Which] = "malformed"


class MalformedError(FaultError):
    """What came is not HTTP/1.1, or could be read in two ways."""


class OversizedHeadError(FaultError):
    """A head is larger than its bounds."""

    which = "oversized-head"


class OversizedTrailersError(FaultError):
    """Chunk extensions or trailers are larger than their bounds."""

    which = "oversized-trailers"
