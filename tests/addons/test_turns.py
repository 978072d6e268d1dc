"""Whose look-up is next: no client, nor many of them, keep another from having its turn."""

from __future__ import annotations

import asyncio

import pytest

from addons.turns import LineFullError, Turns


async def _wait(turns: Turns, client: str, number: int) -> list[asyncio.Task[None]]:
    """`number` look-ups of a client, as far as they come."""
    tasks = [asyncio.create_task(turns.take(client)) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


def _begun(tasks: list[asyncio.Task[None]]) -> int:
    return sum(one.done() for one in tasks)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for one in tasks:
        one.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_client_has_its_places_and_no_more() -> None:
    """What goes beyond waits, in order, for one of the client's own look-ups to end."""
    turns = Turns(4, 64, 16)
    tasks = await _wait(turns, "a", 6)
    assert _begun(tasks) == 4
    turns.give_back("a")
    await asyncio.sleep(0)
    assert [one.done() for one in tasks] == [True] * 5 + [False]
    await _end(*tasks)


async def test_a_line_has_an_end() -> None:
    """A client that asks on and on is refused at once, so that nothing of it piles up."""
    turns = Turns(2, 64, 8)
    tasks = await _wait(turns, "a", 2 + 8)
    with pytest.raises(LineFullError):
        await turns.take("a")
    await turns.take("b")
    await _end(*tasks)


async def test_many_clients_together_leave_a_place_for_another() -> None:
    """The more places are taken, the fewer one client has: dozens that never give one back do not fill them all."""
    turns = Turns(16, 256, 64)
    tasks = [one for client in range(40) for one in await _wait(turns, f"bad {client}", 80)]
    assert turns.in_progress < 256
    late = await _wait(turns, "good", 1)
    assert late[0].done()
    await _end(*tasks)


async def test_clients_in_line_have_their_turn_one_after_the_other() -> None:
    """A place that becomes free goes to each waiting client in turn, however long its line is."""
    turns = Turns(1, 2, 4)
    first = await _wait(turns, "a", 1)
    second = await _wait(turns, "b", 1)
    lines = await _wait(turns, "c", 3), await _wait(turns, "d", 3)
    assert turns.in_progress == 2
    turns.give_back("a")
    turns.give_back("b")
    await asyncio.sleep(0)
    assert [_begun(one) for one in lines] == [1, 1]
    await _end(*first, *second, *lines[0], *lines[1])


async def test_who_leaves_the_line_takes_no_place() -> None:
    """A client that goes away while it waits, or just as its turn comes, leaves nothing behind."""
    turns = Turns(1, 4, 4)
    await turns.take("a")
    (gone, called) = await _wait(turns, "a", 2)
    await _end(gone)
    turns.give_back("a")  # its turn has come, and it has not noticed yet
    await _end(called)
    assert turns.in_progress == 0
    await turns.take("a")
    turns.give_back("a")
    assert turns.in_progress == 0
