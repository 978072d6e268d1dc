"""Wait for a condition, with a limit and a message. The only place of the tests that sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_POLL_S = 0.01


async def until(condition: Callable[[], object], message: str, timeout_s: float = 10) -> None:
    """Return once `condition()` is true. Raises AssertionError: `message` says what did not come about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {message}"
        await asyncio.sleep(_POLL_S)


def wait_until[T](condition: Callable[[], T], message: str, timeout_s: float = 15) -> T:
    """As `until`, where no event loop runs. The condition's first true value; a failure shows its last."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {message} (last: {value!r})"
        time.sleep(_POLL_S)
    return value


async def pause(seconds: float) -> None:
    """Let time pass that is a part of what is tested: a peer that takes its time."""
    await asyncio.sleep(seconds)
