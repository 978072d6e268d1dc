"""Handshake steps on threads, with a connection that asks its key as GnuTLS does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from addons.inbound import handshakes
from addons.inbound.handshakes import Handshakes, Step
from hsm.errors import DeadlineError


class Asking:
    """A connection whose handshake is what the test says. Only `do_handshake` is ever called here."""

    def __init__(self, handshake: Callable[[], None]) -> None:
        self._handshake = handshake
        self.begun = threading.Event()
        self.thread = ""

    def do_handshake(self) -> None:
        self.thread = threading.current_thread().name
        self.begun.set()
        self._handshake()


def _step(handshake: Callable[[], None], in_s: float = 10) -> tuple[Step, Asking]:
    connection = Asking(handshake)
    return Step(connection, time.monotonic() + in_s), connection  # type: ignore[arg-type]


def _question(loop: asyncio.AbstractEventLoop, cancelled: asyncio.Event) -> Callable[[], None]:
    """A handshake that asks something that is never answered."""

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    return lambda: handshakes.current().ask(never(), loop)


async def _begun(connection: Asking) -> None:
    assert await asyncio.to_thread(connection.begun.wait, 10)


async def test_a_step_runs_beside_the_event_loop() -> None:
    """A handshake that waits holds a thread of the pool; its answer comes from the event loop."""
    pool, loop = Handshakes(1), asyncio.get_running_loop()
    answers = []

    async def answer() -> str:
        return threading.current_thread().name

    step, connection = _step(lambda: answers.append(handshakes.current().ask(answer(), loop)))
    await pool.run(step)
    assert step.failure is None
    assert answers == [threading.current_thread().name]
    assert connection.thread.startswith("handshake")
    assert pool.in_progress == 0
    pool.close()


async def test_what_a_step_raises_is_kept() -> None:
    """A handshake that fails on its thread fails nothing else."""
    pool = Handshakes(1)
    step, _ = _step(lambda: {}["missing"])
    await pool.run(step)
    assert isinstance(step.failure, KeyError)
    step, _ = _step(lambda: None)
    await pool.run(step)
    assert step.failure is None
    pool.close()


async def test_a_client_that_goes_away_frees_its_thread_and_its_request() -> None:
    """The request to the signer is withdrawn, and the only thread is there for the next client at once."""
    pool, cancelled = Handshakes(1), asyncio.Event()
    step, connection = _step(_question(asyncio.get_running_loop(), cancelled))
    running = asyncio.create_task(pool.run(step))
    await _begun(connection)
    pool.give_up(step, "the client went away")
    async with asyncio.timeout(5):
        await running
        await cancelled.wait()
    assert isinstance(step.failure, DeadlineError)
    assert str(step.failure) == "the client went away"
    following, _ = _step(lambda: None)
    async with asyncio.timeout(5):
        await pool.run(following)
    assert following.failure is None
    pool.close()


async def test_a_step_that_waits_for_a_thread_can_be_given_up() -> None:
    """A client that goes away before its turn never takes a thread."""
    pool, cancelled = Handshakes(1), asyncio.Event()
    first, connection = _step(_question(asyncio.get_running_loop(), cancelled))
    second, never = _step(lambda: None)
    tasks = [asyncio.create_task(pool.run(first))]
    await _begun(connection)
    tasks.append(asyncio.create_task(pool.run(second)))
    await asyncio.sleep(0)
    assert pool.in_progress == 2
    pool.give_up(second, "the client went away")
    async with asyncio.timeout(5):
        await tasks[1]
    assert isinstance(second.failure, DeadlineError)
    pool.give_up(first, "over")
    await asyncio.gather(*tasks)
    assert not never.begun.is_set()
    pool.close()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_deadline_ends_a_step(busy: bool) -> None:
    """A handshake whose key does not answer in time ends, whether it has a thread or waits for one."""
    pool, cancelled = Handshakes(1), asyncio.Event()
    loop = asyncio.get_running_loop()
    blocking, connection = _step(_question(loop, cancelled))
    if busy:
        holding = asyncio.create_task(pool.run(blocking))
        await _begun(connection)
    step, _ = _step(_question(loop, asyncio.Event()), in_s=0.05)
    async with asyncio.timeout(5):
        await pool.run(step)
    assert isinstance(step.failure, DeadlineError)
    if busy:
        pool.give_up(blocking, "over")
        await holding
    pool.close()


async def test_a_step_given_up_asks_nothing() -> None:
    """A request that would be made after the client is gone is not made."""
    pool, loop = Handshakes(1), asyncio.get_running_loop()
    asked = []

    async def answer() -> None:
        asked.append(1)

    step, _ = _step(lambda: handshakes.current().ask(answer(), loop))
    step.give_up("gone")
    await pool.run(step)
    assert isinstance(step.failure, DeadlineError)
    assert not asked
    pool.close()


async def test_the_end_of_the_worker_gives_everything_up() -> None:
    """No thread is left that a hanging HSM could hold."""
    pool = Handshakes(4)
    waiting = [_step(_question(asyncio.get_running_loop(), asyncio.Event())) for _ in range(6)]
    tasks = [asyncio.create_task(pool.run(step)) for step, _ in waiting]
    for _, connection in waiting[:4]:
        await _begun(connection)
    pool.close()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
    assert all(isinstance(step.failure, DeadlineError) for step, _ in waiting)
    for thread in threading.enumerate():
        if thread.name.startswith("handshake"):
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()
