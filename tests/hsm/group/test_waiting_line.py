"""Requests that wait for a free slot."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import pytest

from hsm.errors import OverloadedError
from hsm.group import waiting_line
from hsm.group.waiting_line import WaitingLine
from tests.softhsm import in_s
from tests.waiting import until


class Line:
    """A line with names for those who wait; `served` are those that were woken, in that order."""

    def __init__(self) -> None:
        self.line = WaitingLine()
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.again: defaultdict[str, int] = defaultdict(int)

    async def join(self, *names: str, again: int = 0, asker: int = 0) -> None:
        """Let these wait, one behind the other; each waits again so many times after it was woken in vain."""
        for name in names:
            length = len(self.line)
            self.tasks[name] = asyncio.create_task(self._wait(name, again, asker))
            await until(lambda: len(self.line) > length, f"{name} waits")  # noqa: B023

    async def _wait(self, name: str, again: int, asker: int) -> None:
        await self.line.wait(in_s(10), asker)
        for _ in range(again):
            self.again[name] += 1
            await self.line.wait(in_s(10), asker, first=True)
        self.served.append(name)

    async def wake(self, *expected: str) -> None:
        """Wake one, who must be the next of these, until all of them were served."""
        for name in expected:
            number = len(self.served)
            self.line.wake()
            await until(lambda: len(self.served) > number, f"{name} is served")  # noqa: B023
            assert self.served[number:] == [name]


@pytest.fixture
def line() -> Line:
    """An empty line."""
    return Line()


async def test_first_come_first_served(line: Line) -> None:
    """Requests are served in the order in which they came, one for each free slot."""
    await line.join("a", "b", "c")
    assert len(line.line) == 3
    await line.wake("a", "b")
    assert len(line.line) == 1
    await line.join("d")
    await line.wake("c", "d")
    assert line.served == ["a", "b", "c", "d"]
    assert len(line.line) == 0


async def test_waking_nobody_is_not_remembered(line: Line) -> None:
    """A slot that nobody waited for does not let a later request overtake."""
    line.line.wake()
    await line.join("a")
    assert len(line.line) == 1
    assert line.served == []
    await line.wake("a")


async def test_who_was_woken_in_vain_keeps_its_place(line: Line) -> None:
    """A request that was woken and found nothing is the first again, before those that came after it."""
    await line.join("a", again=2)
    await line.join("b")
    for number in (1, 2):
        line.line.wake()
        await until(lambda: line.again["a"] == number, "the first looked again")  # noqa: B023
        assert len(line.line) == 2
    await line.wake("a", "b")


async def test_its_time_is_up(line: Line) -> None:
    """A request waits until its deadline and no longer, and leaves no place behind."""
    await line.join("a")
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        await line.line.wait(in_s(0.05))
    assert 0.05 <= time.monotonic() - before < 5
    assert len(line.line) == 1
    await line.wake("a")


async def test_its_time_was_up_already(line: Line) -> None:
    """A request whose deadline has passed does not wait at all."""
    with pytest.raises(TimeoutError):
        await line.line.wait(time.monotonic() - 1)
    assert len(line.line) == 0


async def test_who_leaves_gives_up_its_place(line: Line) -> None:
    """A client that went away is not woken for nothing: the next one is."""
    await line.join("a", "b", "c")
    for name in ("a", "c"):
        line.tasks[name].cancel()
        await asyncio.wait([line.tasks[name]])
    assert len(line.line) == 1
    await line.wake("b")


async def test_who_leaves_in_the_moment_it_is_woken_passes_it_on(line: Line) -> None:
    """A slot that was given to a client that went away in the same moment is not lost: the next one gets it."""
    await line.join("a", "b")
    line.line.wake()
    line.tasks["a"].cancel()
    await until(lambda: line.served == ["b"], "the next one has its turn")
    assert line.tasks["a"].cancelled()


async def test_who_was_cancelled_is_passed_over(line: Line) -> None:
    """A client that is just leaving when a slot becomes free does not take it with it."""
    await line.join("a", "b")
    line.tasks["a"].cancel()
    line.line.wake()
    await until(lambda: line.served == ["b"], "the next one has its turn")


async def test_a_full_line_says_so_at_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of requests one more is told at once; those that wait already are served."""
    monkeypatch.setattr(waiting_line, "MAX_WAITING", 2)
    await line.join("a", "b")
    with pytest.raises(OverloadedError, match="2 requests wait for the HSM already"):
        await line.line.wait(in_s(10))
    await line.wake("a")
    await line.join("c")
    await line.wake("b", "c")


async def test_who_was_woken_in_vain_is_not_put_out(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waited already keeps its place even when the line is full."""
    monkeypatch.setattr(waiting_line, "MAX_WAITING", 1)
    await line.join("a")
    first = asyncio.create_task(line.line.wait(in_s(10), first=True))
    await until(lambda: len(line.line) == 2, "it waits again")
    line.line.wake()
    await first
    await line.wake("a")


async def test_askers_have_their_turns(line: Line) -> None:
    """Whoever sends many requests waits behind itself: another's only one is served after one of them."""
    await line.join("a1", "a2", "a3", "a4", asker=1)
    await line.join("b1", asker=2)
    await line.join("c1", "c2", asker=3)
    assert (line.line.ahead(1), line.line.ahead(2), line.line.ahead(4)) == (7, 5, 3)
    await line.wake("a1", "b1", "c1", "a2", "c2", "a3")
    await line.join("b2", asker=2)
    await line.wake("a4", "b2")
    assert len(line.line) == 0


async def test_a_turn_in_vain_is_had_again(line: Line) -> None:
    """An asker whose request was woken and found nothing is the next again, before the others."""
    await line.join("a1", again=1, asker=1)
    await line.join("a2", asker=1)
    await line.join("b1", asker=2)
    line.line.wake()
    await until(lambda: line.again["a1"] == 1, "it looked")
    await line.wake("a1", "b1", "a2")


async def test_the_longest_line_makes_room(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one asker has all the places, another one gets one all the same: the newest of the longest line is told to
    try later. Nobody makes room for itself."""
    monkeypatch.setattr(waiting_line, "MAX_WAITING", 4)
    await line.join("a1", "a2", "a3", "a4", asker=1)
    with pytest.raises(OverloadedError, match="4 requests wait for the HSM already"):
        await line.line.wait(in_s(10), 1)
    line.tasks["b1"] = asyncio.create_task(line._wait("b1", 0, 2))
    with pytest.raises(OverloadedError, match="most of them this worker's"):
        await line.tasks["a4"]
    line.tasks["b2"] = asyncio.create_task(line._wait("b2", 0, 2))
    with pytest.raises(OverloadedError, match="most of them this worker's"):
        await line.tasks["a3"]
    with pytest.raises(OverloadedError, match="4 requests wait for the HSM already"):
        await line.line.wait(in_s(10), 2)
    await line.wake("a1", "b1", "a2", "b2")
    assert (len(line.line), line.line._waiting) == (0, {})


async def test_who_leaves_takes_its_line_with_it(line: Line) -> None:
    """An asker whose only request was given up has no turn any more."""
    await line.join("a1", asker=1)
    await line.join("b1", asker=2)
    line.tasks["a1"].cancel()
    await asyncio.wait([line.tasks["a1"]])
    assert (len(line.line), line.line.askers) == (1, [2])
    await line.wake("b1")
