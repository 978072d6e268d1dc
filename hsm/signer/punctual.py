"""Waiting until a moment, to within what the kernel can do, whatever happened before it.

An event loop waits in epoll, whose time-outs are whole milliseconds from when it is entered: a loop that slept until
the same moment after two answers, one of which came 70 us later, wakes up 70 us later, too. A timer of the kernel's own
(timerfd_create(2)) does not know when it was last looked at.
"""

from __future__ import annotations

import asyncio
import os
import time


async def until(moment: float) -> None:
    """Return at `moment`, seconds on CLOCK_MONOTONIC; at once where it has passed."""
    if moment <= time.monotonic():
        return
    if not hasattr(os, "timerfd_create"):  # before Python 3.13: a thread's sleep has an absolute end, too
        await asyncio.to_thread(_sleep, moment)
        return
    loop = asyncio.get_running_loop()
    timer = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
    rung = loop.create_future()
    try:
        os.timerfd_settime(timer, flags=os.TFD_TIMER_ABSTIME, initial=moment)
        loop.add_reader(timer, _ring, rung)
        await rung
    finally:
        loop.remove_reader(timer)
        os.close(timer)


def _ring(rung: asyncio.Future[None]) -> None:
    if not rung.done():
        rung.set_result(None)


def _sleep(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
