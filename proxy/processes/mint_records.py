"""Records of leaves in the signer's log: written before the leaf is answered, or there is no leaf.

They share the log's descriptor and its order with all other lines, and nothing of their fate: none is dropped, or held
back as one too many. As long as nobody reads the log minting waits, each mint until its own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hsm.errors import TryLaterError
from hsm.signer.records import LOST, Records
from proxy.processes.log_writer import Record

if TYPE_CHECKING:
    from proxy.processes.logs import LogHandler

logger = logging.getLogger("hsmitm.signer")

MOST, SLOW_S = 1024, 1.0
"""Records that wait at a time; and for how long the log may take nothing before no signature is spent on another."""
_MARGIN_S, _LOOK_S = 0.2, 0.05
"""Of a request's time, so that the refusal comes before whoever asked has given up; and how often a log that stopped
is looked at."""


class WrittenRecords(Records):
    """The records of one signer's process, on its event loop."""

    def __init__(self, handler: LogHandler) -> None:
        """`handler` is this process's."""
        self._handler = handler
        self._opening: asyncio.Task[None] | None = None

    async def room(self, deadline: float) -> None:
        """What `Records.room` promises: at once, unless the log has stopped."""
        if not self._stopped():
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        opening = self._opening
        await asyncio.wait([opening], timeout=_remaining_s(deadline))
        if not opening.done():
            raise _stalled()

    def _stopped(self) -> bool:
        writer = self._handler.writer
        return writer.records_waiting >= MOST or (writer.records_waiting > 0 and writer.stuck_s > SLOW_S)

    async def _open(self) -> None:
        while self._stopped():  # noqa: ASYNC110  # the writer's thread does not know who waits
            await asyncio.sleep(_LOOK_S)
        self._opening = None

    async def write(self, lines: Sequence[str], deadline: float) -> None:
        """What `Records.write` promises; a leaf's record has left this process then."""
        if not logger.isEnabledFor(logging.INFO):
            return
        if len(lines) == 1:
            await self._write(lines[0], deadline)
        else:
            await asyncio.gather(*(self._write(line, deadline) for line in lines))

    async def _write(self, text: str, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()

        def tell(problem: OSError | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the signer has left
                loop.call_soon_threadsafe(_end, written, problem)

        self._handler.writer.put_record(Record(self._handler.line(logging.INFO, text), tell))
        try:
            async with asyncio.timeout(_remaining_s(deadline)):
                await written
        except TimeoutError:
            raise _stalled() from None


def _remaining_s(deadline: float) -> float:
    return max(0.0, deadline - _MARGIN_S - time.monotonic())


def _end(written: asyncio.Future[None], problem: OSError | None) -> None:
    if written.done():
        return
    if problem is None:
        written.set_result(None)
    else:
        written.set_exception(TryLaterError(f"{LOST}: {problem.strerror}"))


def _stalled() -> TryLaterError:
    return TryLaterError(f"{LOST}: whoever reads hsmitm's log has stopped")
