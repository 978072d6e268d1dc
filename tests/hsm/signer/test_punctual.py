"""Waiting until a moment: what happened before it does not show in it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from statistics import median

import pytest

from hsm.signer import punctual


async def test_a_moment_that_has_passed_is_not_waited_for() -> None:
    """An answer that is late leaves at once."""
    before = time.monotonic()
    await punctual.until(before - 1)
    assert time.monotonic() - before < 0.05


@pytest.mark.parametrize("timers", [True, False])
async def test_nobody_returns_early(timers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment is reached, with the kernel's timers and without (before Python 3.13)."""
    if not timers:
        monkeypatch.delattr(os, "timerfd_create", raising=False)
    moments = [time.monotonic() + 0.001 * number for number in range(1, 30)]

    async def late(moment: float) -> float:
        await punctual.until(moment)
        return time.monotonic() - moment

    assert min(await asyncio.gather(*map(late, moments))) >= 0


async def test_who_gives_up_leaves_no_timer() -> None:
    """A call that is cancelled while it waits keeps no descriptor."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    waiting = asyncio.create_task(punctual.until(time.monotonic() + 60))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.alone
async def test_the_moment_does_not_show_when_one_began_to_wait() -> None:
    """Whoever begins to wait 300 us later returns no later: the loop's own sleep would show it all."""

    async def late(begins_s: float) -> float:
        moment = time.monotonic() + 0.0051
        while time.monotonic() < moment - 0.0051 + begins_s:
            pass
        await punctual.until(moment)
        return time.monotonic() - moment

    early = [await late(0.0) for _ in range(100)]
    later = [await late(0.0003) for _ in range(100)]
    assert abs(median(later) - median(early)) < 0.0001
