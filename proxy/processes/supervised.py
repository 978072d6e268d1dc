"""What a supervised process does itself to be one: it reads its first line, gives signs of life, says when it is ready.

Its standard input is a pipe from the supervisor, whose end says that the supervisor is gone. The process then goes on
serving until the next supervisor tells it to leave (`proxy.processes.guard`): a killed supervisor stops nobody's
traffic, and the next `hsmitm run` takes over. Signs of life come from the event loop, so one that hangs gives none.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys

from proxy.processes import notify

logger = logging.getLogger("hsmitm.supervisor")

EX_CONFIG = os.EX_CONFIG
"""The process found its configuration wrong. It is not started again."""
READY, ALIVE = b"1", b"."
BEAT_S = 1.0
_GARBAGE = 20_000
"""Objects that are made, and not unmade, before the collector looks for some that only refer to each other. Python's
2,000 had it look twice at what every connection in progress holds: 2 to 3 % of the CPU time of a new one."""

_running: set[asyncio.Task[None]] = set()


async def begin(ready_fd: int | None) -> str:
    """Our supervisor's first line. From here on it gets signs of life, and we notice when it is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    first = (await reader.readline()).decode().rstrip("\n")
    _run(asyncio.create_task(_notice_end(reader)))
    if ready_fd is not None:
        os.set_blocking(ready_fd, False)
        _run(asyncio.create_task(_beat(ready_fd)))
    return first


def _run(task: asyncio.Task[None]) -> None:
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _notice_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(1024):
        pass
    logger.warning("the supervisor is gone; serving on until 'hsmitm run' is started again")


async def _beat(descriptor: int) -> None:
    while _say(descriptor, ALIVE):  # noqa: ASYNC110  # the time is the point
        await asyncio.sleep(BEAT_S)


def _say(descriptor: int, word: bytes) -> bool:
    """Whether anybody may still hear it. A full pipe is that of a supervisor that does not read, for now or ever."""
    try:
        os.write(descriptor, word)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def tell_ready(descriptor: int | None) -> None:
    """Serving has begun.

    What exists now stays: the garbage collector need not look at it again, which held up all connections for 90 ms.
    And it looks less often at what came since: every connection leaves a thousand objects that refer to each other.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    if descriptor is not None:
        _say(descriptor, READY)
    else:
        notify.tell("READY=1")
        _run(asyncio.create_task(notify.keep_alive()))
