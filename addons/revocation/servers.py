"""Whom certificates name, as servers that are asked: few questions at a time, and none while one does not answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter

from addons.edge.connecting.errands import DeniedError, Errands
from addons.revocation.download import NoAnswerError, Streams, Wanted, download
from addons.turns import LineFullError, Turns

logger = logging.getLogger("hsmitm.revocation")

_PER_SERVER, _PLACES, _LINE = 4, 64, 64
"""Questions in progress, of one server and of all, and how many wait for one server."""
_FORGIVEN = 3
"""So often in a row a server may leave a question without an answer; then it is left alone, at first for so long, and
at most for so long. A network without a way out must not cost each new connection the wait."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0
_REMEMBERED = 1024


Result = Literal["answered", "silent", "not-asked"]
"""What became of a question: an answer of whatever kind, none, or nobody was asked: the server is left alone for now,
has too many questions to answer, or may not be asked."""
Count = Callable[[Result], object]


class Questions:
    """The counter of what is asked for certificates' sake."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._asked = Counter(
            "hsmitm_certificate_questions", "Questions to those whom servers' certificates name",
            ("of", "result"), registry=registry,
        )  # fmt: skip

    def of(self, kind: Literal["status", "issuer"]) -> Count:
        """What counts those of that kind."""
        return lambda result: self._asked.labels(kind, result).inc()


class NotAskedError(ValueError):
    """The address that is named is one that certificates may not name."""


class _Standing(Struct):
    """How a server has answered: failures in a row, and until when (monotonic seconds) it is not asked."""

    failures: int = 0
    until: float = 0.0


class Servers:
    """Those of one worker."""

    def __init__(
        self, errands: Errands, count: Count = lambda _: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`count` hears of each question what became of it."""
        self._errands = errands
        self._count = count
        self._clock = clock
        self._turns = Turns(_PER_SERVER, _PLACES, _LINE)
        self._failing: OrderedDict[str, _Standing] = OrderedDict()

    async def ask(self, wanted: Wanted, near: str = "") -> bytes:
        """The answer's body. `near` is the server whose certificate names this one, where nobody has verified it.

        Raises NoAnswerError, NotAskedError, or ValueError with what was wrong with the answer.
        """
        url = urlsplit(wanted.url)
        name = f"{url.hostname}:{url.port or 80}"
        account = near or name  # whoever is near can name servers without end
        self._check(wanted, name)
        try:
            await self._turns.take(account)
        except LineFullError:
            self._count("not-asked")
            raise NoAnswerError(f"{wanted.who} {wanted.url} has too many questions to answer") from None
        try:
            self._check(wanted, name)  # others may have asked in vain while we waited
            return await self._asked(wanted, name, near)
        finally:
            self._turns.give_back(account)

    def _check(self, wanted: Wanted, name: str) -> None:
        standing = self._failing.get(name)
        if standing is not None and self._clock() < standing.until:
            self._count("not-asked")
            raise NoAnswerError(f"{wanted.who} {wanted.url} is left alone for now: it did not answer")

    async def _asked(self, wanted: Wanted, name: str, near: str) -> bytes:
        parent = self._errands.parent
        result: Result = "answered"
        try:
            return await download(
                wanted, lambda url: self._streams(wanted, url, near), parent.authorization if parent else None
            )
        except NoAnswerError:
            result = "silent"
            raise
        except NotAskedError:
            result = "not-asked"
            raise
        finally:
            self._over(name, result)

    def _over(self, name: str, result: Result) -> None:
        self._count(result)
        if result == "silent":
            self._failed(name)
        elif result == "answered":
            self._failing.pop(name, None)

    async def _streams(self, wanted: Wanted, url: SplitResult, near: str) -> Streams:
        try:
            connected = await self._errands.connect(url.hostname or "", url.port or 80, near)
        except DeniedError as error:
            raise NotAskedError(f"{wanted.who} {wanted.url} is not asked: {error}") from None
        return await asyncio.open_connection(sock=connected)

    def _failed(self, name: str) -> None:
        standing = self._failing.setdefault(name, _Standing())
        self._failing.move_to_end(name)
        if len(self._failing) > _REMEMBERED:
            self._failing.popitem(last=False)
        standing.failures += 1
        if (over := standing.failures - _FORGIVEN) >= 0:
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(over, 8))
            standing.until = self._clock() + pause
            logger.info("%s, which certificates name, does not answer; it is left alone for %g s", name, pause)
