"""Work of the signer's own loop, by turns."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from hsm.signer.turns import Turns
from tests.softhsm import in_s


async def test_one_piece_in_a_turn_of_the_loop() -> None:
    """Whoever asks for much at once lets the loop turn after each piece, and another asker in between."""
    turns, order = Turns(), []
    looked: list[int] = []

    async def work(asker: int) -> None:
        await turns.take(asker, in_s(10))
        order.append(asker)

    async def watch() -> None:
        while len(order) < 12:
            looked.append(len(order))
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(asker)) for asker in [1] * 10 + [2, 2]]
    await asyncio.gather(*tasks, watch())
    assert order[:5] == [1, 1, 2, 1, 2]
    assert turns.waiting == 0
    assert all(after - before <= 1 for before, after in pairwise(looked))


async def test_a_turn_that_comes_too_late() -> None:
    """Who has no time to wait for its turn is told, and the others have theirs."""
    turns = Turns()
    await turns.take(1, in_s(10))
    with pytest.raises(TimeoutError):
        await turns.take(1, in_s(-1))
    await turns.take(1, in_s(10))
    await asyncio.sleep(0)
    await turns.take(2, in_s(10))


async def test_who_leaves_passes_its_turn_on() -> None:
    """A client that goes away while it waits costs nobody a turn."""
    turns, done = Turns(), []

    async def work(name: str) -> None:
        await turns.take(1, in_s(10))
        done.append(name)

    tasks = {name: asyncio.create_task(work(name)) for name in "abc"}
    await asyncio.sleep(0)
    tasks["b"].cancel()
    await asyncio.wait(tasks.values())
    assert done == ["a", "c"]
