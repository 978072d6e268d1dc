"""Whose request gets the next free slot, at a member that is looked at; real members are in test_group.py."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from prometheus_client import CollectorRegistry

from hsm.group.dispatch import Dispatch, Want
from hsm.member.metrics import MemberMetrics
from hsm.member.settings import Failover
from hsm.member.states import State
from tests.softhsm import in_s
from tests.waiting import until


class OneSlot:
    """A group with one member, which has one slot, and any number of keys; it answers when it is let."""

    name, state, resting, latency_s, quickest_s, slots = "m1", State.UP, False, 0.001, 0.001, 1
    outage_grace_s = 0.0

    def __init__(self) -> None:
        self.in_flight = 0
        self.keys: dict[str, Any] = {}
        self.failover = Failover(budget_s=10.0)
        self.members = [cast(Any, self)]
        self.served: list[int] = []
        self.answer: asyncio.Event = asyncio.Event()
        self.dispatch = Dispatch(self, MemberMetrics(CollectorRegistry()))

    def serves(self, _key: str, _scheme: str = "") -> bool:
        """It has every key."""
        return True

    def doubts(self, _key: str, _scheme: str) -> bool:
        """It has refused nothing."""
        return False

    def away_for(self, _seconds: float) -> bool:
        """It stays in service."""
        return False

    def proved_by(self, _key: str, _scheme: str = "") -> list[str]:
        """It has every key."""
        return [self.name]

    def problems(self, _key: str, _scheme: str = "") -> dict[str, str]:
        """There are none."""
        return {}

    def holders(self, _key: str) -> list[Any]:
        """It has every key."""
        return self.members

    def alone_s(self, _key: str) -> float:
        """A request takes no time of its own."""
        return self.latency_s

    def due_s(self, _key: str) -> float:
        """An attempt may take the attempt timeout."""
        return self.failover.attempt_timeout_s

    async def ask(self, asker: int, key: str) -> None:
        """A request of this asker for this key, until it was answered."""

        async def perform(_member: object, _until: float, _patience_s: float) -> bytes:
            self.in_flight += 1
            self.served.append(asker)
            await self.answer.wait()
            self.answer.clear()
            self.in_flight -= 1
            self.dispatch.freed()
            return b""

        self.keys.setdefault(key, None)
        await self.dispatch.request(Want(key), in_s(10), perform, asker)


async def test_a_flood_of_many_keys() -> None:
    """A worker that asks for a hundred keys at once has one turn where another worker, which asks for one, has one."""
    group = OneSlot()
    flood = [asyncio.create_task(group.ask(1, f"key-{number}")) for number in range(100)]
    await until(lambda: group.dispatch.waiting == 99, "the flood waits")
    honest = [asyncio.create_task(group.ask(2, "key-7")) for _ in range(5)]
    await until(lambda: group.dispatch.waiting == 104, "the other one waits")
    while not all(task.done() for task in honest):
        group.answer.set()
        await until(lambda: not group.answer.is_set(), "one was answered")
    assert group.served.count(1) <= 8, group.served
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_many_askers_of_one_key() -> None:
    """Each of several workers has its turn, whatever the others ask for."""
    group = OneSlot()
    tasks = [asyncio.create_task(group.ask(asker, "key")) for asker in (1, 1, 1, 1, 2, 3, 3)]
    await until(lambda: group.dispatch.waiting == 6, "they wait")
    while not all(task.done() for task in tasks):
        group.answer.set()
        await until(lambda: not group.answer.is_set(), "one was answered")
    assert group.served == [1, 1, 2, 3, 1, 3, 1]
