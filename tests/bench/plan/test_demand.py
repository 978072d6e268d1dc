"""Signatures from connections: the product's cache against a model of it, and rates against their distribution."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from addons.forward import leaf_cache
from addons.forward.leaf_store import LeafStore
from bench.plan.arrival_log import Arrival
from bench.plan.demand import Caches, Demand, from_arrivals, from_rates

_DAY_S = 86400
_ONE = Caches(entries=100, leaf_days=10, workers=1)


def _demand(seconds: int, **by_second: int) -> Demand:
    drawn = {int(name[1:]): number for name, number in by_second.items()}
    return Demand(
        connections=1, hosts=1, hits=0, signatures=sum(drawn.values()), renewals=0, repeated=0, worker_hosts=1,
        seconds=seconds, by_second=drawn,
    )  # fmt: skip


def _modelled(arrivals: list[Arrival], caches: Caches, seed: int) -> tuple[int, dict[int, int]]:
    """Hits and signatures by second, by a cache that is written down anew; which leaf makes room is the store's."""
    chance, hits, signed = random.Random(seed), 0, dict[int, int]()
    workers = [LeafStore[str, float](caches.entries) for _ in range(caches.workers)]
    life = caches.leaf_days * _DAY_S
    for one in arrivals:
        minted = chance.choice(workers)
        born = minted.look(one.host)
        if born is not None and one.at < born + life:
            hits += 1
            minted.use(one.host)
        if born is None or one.at >= born + 0.8 * life:
            second = int(one.at) - int(arrivals[0].at)
            signed[second] = signed.get(second, 0) + 1
            for _ in minted.keep(one.host, one.at):
                pass
    return hits, signed


_steps = st.sampled_from((0, 1, 10_000, 4 * _DAY_S // 5 - 1, 4 * _DAY_S // 5, _DAY_S - 1, _DAY_S))
"""Seconds around which something happens to a leaf of a day: its renewal, its end."""
_log = st.lists(st.tuples(_steps, st.sampled_from("abcd")), min_size=1, max_size=40)


@settings(max_examples=400)
@given(
    steps=_log, begin=st.integers(0, 2**31), entries=st.integers(1, 5), workers=st.integers(1, 2), seed=st.integers()
)
@example([(0, "a"), (0, "b"), (0, "a"), (0, "c"), (0, "a")], 0, 2, 1, 0)
@example([(0, "a"), (4 * _DAY_S // 5 - 1, "a"), (1, "a"), (0, "a"), (_DAY_S, "a")], 0, 2, 1, 0)
def test_model(steps: list[tuple[int, str]], begin: int, entries: int, workers: int, seed: int) -> None:
    """Every log: hits and signatures, second by second, are those of a bounded cache that renews at four fifths."""
    arrivals, at = [], begin
    for step, host in steps:
        at += step
        arrivals.append(Arrival(at, host))
    caches = Caches(entries=entries, leaf_days=1, workers=workers)
    found = asyncio.run(from_arrivals(arrivals, caches, seed))
    assert (found.hits, found.by_second) == _modelled(arrivals, caches, seed)
    assert found.signatures == sum(found.by_second.values())
    assert found.connections == len(arrivals) == found.hits + found.signatures - found.renewals
    assert found.repeated >= 0
    assert 0 <= found.percentile_per_s(0.5) <= found.percentile_per_s(0.99) <= found.peak_per_s
    assert found.peak_per_s >= found.mean_per_s


@pytest.mark.parametrize(
    ("arrivals", "caches", "hits", "signatures", "renewals", "repeated"),
    [
        ([(0, "a"), (1, "a"), (2, "b")], _ONE, 1, 2, 0, 0),
        ([(0, "a"), (8 * _DAY_S - 1, "a")], _ONE, 1, 1, 0, 0),
        ([(0, "a"), (8 * _DAY_S, "a"), (8 * _DAY_S + 1, "a")], _ONE, 2, 2, 1, 0),
        ([(0, "a"), (10 * _DAY_S, "a")], _ONE, 0, 2, 0, 1),
        ([(0, "a"), (1, "b"), (2, "a")], Caches(entries=1, leaf_days=10, workers=1), 0, 3, 0, 1),
        ([(0, "a"), (1, "b"), (2, "a"), (3, "c"), (4, "a")], Caches(entries=2, leaf_days=10, workers=1), 2, 3, 0, 0),
    ],
    ids=["again", "young", "renewed", "expired", "evicted", "used-lately"],
)
async def test_arrivals(
    arrivals: list[tuple[int, str]], caches: Caches, hits: int, signatures: int, renewals: int, repeated: int
) -> None:
    """A leaf is minted once, renewed in its last fifth, minted again when it ran out or was pushed out."""
    found = await from_arrivals([Arrival(at, host) for at, host in arrivals], caches, 1)
    assert (found.hits, found.signatures, found.renewals, found.repeated) == (hits, signatures, renewals, repeated)


async def test_workers() -> None:
    """Each worker has its own cache: a host that all clients want is minted once by each."""
    arrivals = [Arrival(second, "a.example") for second in range(200)]
    found = await from_arrivals(arrivals, Caches(entries=10, leaf_days=30, workers=4), 1)
    assert (found.signatures, found.hosts, found.worker_hosts) == (4, 1, 1)


async def test_nothing_left_behind() -> None:
    """The product's clock and the event loop are as they were."""
    before = asyncio.get_running_loop().get_task_factory()
    await from_arrivals([Arrival(5, "a")], _ONE, 1)
    assert leaf_cache.time is time
    assert asyncio.get_running_loop().get_task_factory() is before


@pytest.mark.parametrize(
    ("demand", "share", "expected"),
    [
        (_demand(1, s0=7), 0.99, 7),
        (_demand(100, s3=7), 0.99, 0),
        (_demand(100, s3=7, s4=2), 0.99, 2),
        (_demand(100, s3=7, s4=2), 1.0, 7),
        (_demand(100), 1.0, 0),
        (_demand(4, s0=1, s1=2, s2=3, s3=4), 0.5, 2),
    ],
)
def test_percentile(demand: Demand, share: float, expected: int) -> None:
    """Seconds without a signature count: they are seconds too."""
    assert demand.percentile_per_s(share) == expected


def test_rates() -> None:
    """Of 500 connections per second, 20 to new hosts, four workers mint 80; seconds vary as independent clients do."""
    found = from_rates(500, 20, Caches(entries=10_000, leaf_days=30, workers=4), 1, 3600)
    drawn = [found.by_second.get(second, 0) for second in range(3600)]
    assert found.mean_per_s == pytest.approx(80.02, abs=0.01)
    assert sum(drawn) / 3600 == pytest.approx(80.02, abs=1)
    assert sum((one - 80) ** 2 for one in drawn) / 3600 == pytest.approx(80, rel=0.15)
    assert found.hit_rate == pytest.approx(0.84)
    assert 95 < found.percentile_per_s(0.99) < 110 <= found.peak_per_s


@given(
    connections=st.floats(0.01, 50_000),
    share=st.floats(0, 1),
    workers=st.integers(1, 64),
    entries=st.integers(1, 1_000_000),
)
def test_any_rates(connections: float, share: float, workers: int, entries: int) -> None:
    """Whatever the rates: no more signatures than connections, no hit rate beyond 0 and 1, a peak that is one."""
    found = from_rates(connections, share * connections, Caches(entries=entries, leaf_days=1, workers=workers), 1, 30)
    assert 0 <= found.hit_rate <= 1
    assert 0 <= found.mean_per_s <= connections * (1 + 1e-9)
    assert found.percentile_per_s(0.99) <= found.peak_per_s


def test_no_new_hosts() -> None:
    """Without new hosts nothing is signed."""
    found = from_rates(100, 0, _ONE, 1, 60)
    assert (found.signatures, found.peak_per_s, found.hit_rate) == (0, 0, 1)
