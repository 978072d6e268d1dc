"""How many signatures a stream of connections takes, second by second.

`from_arrivals` plays a log through the product's own `addons.forward.leaf_cache`, with a clock that says what the log
says: every leaf that a worker would have minted is one signature. `from_rates` has no hosts to play; it draws the
seconds from the rates. Neither opens a socket or a file, and the same seed gives the same.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast
from unittest import mock

from msgspec import Struct
from OpenSSL import crypto

from addons.forward import leaf_cache
from addons.forward.leaf_cache import RENEW_AT, Leaf, LeafCache, LeafKey
from addons.records.metrics import Outcome
from bench.plan.arrival_log import Arrival

_DAY_S = 86400
_REST_EVERY = 1000
_TRIALS = 10_000

Progress = Callable[[float], None]


class Caches(Struct, frozen=True, kw_only=True):
    """The leaf caches: one of `entries` for each of the `workers`, with leaves of `leaf_days`."""

    entries: int
    leaf_days: float
    workers: int


class Demand(Struct, frozen=True, kw_only=True):
    """What `seconds` seconds of connections ask of the HSM. `by_second` has signatures by second from the begin, those
    seconds alone that have some. `hosts` are different ones; `renewals` are signatures for leaves near their end,
    `repeated` those for a host that the same worker had a leaf for before: it was evicted, or ran out. `worker_hosts`
    are the hosts of the worker that had most: a cache of so many never evicts."""

    connections: float
    hosts: float
    hits: float
    signatures: float
    renewals: float
    repeated: float
    worker_hosts: float
    seconds: int
    by_second: dict[int, int]

    @property
    def hit_rate(self) -> float:
        """The share of connections that found their leaf in the worker's cache."""
        return self.hits / self.connections

    @property
    def mean_per_s(self) -> float:
        """Signatures per second over all of the time."""
        return self.signatures / self.seconds

    @property
    def peak_per_s(self) -> int:
        """Signatures in the busiest second."""
        return max(self.by_second.values(), default=0)

    def percentile_per_s(self, share: float) -> int:
        """So many signatures or fewer were asked for in `share` (0 to 1) of the seconds. Nearest rank."""
        ordered = sorted(self.by_second.values())
        rank = max(1, math.ceil(share * self.seconds)) - (self.seconds - len(ordered))
        return ordered[rank - 1] if rank > 0 else 0


async def from_arrivals(
    arrivals: Sequence[Arrival], caches: Caches, seed: int, progress: Progress = lambda _: None
) -> Demand:
    """Play `arrivals`, at least one, in the order of their times. Which worker gets a connection is drawn: the kernel
    decides by its addresses. A host has a leaf of its own, and all clients ask for the same kind of leaf."""
    chance = random.Random(seed)  # noqa: S311
    clock, counted = _Clock(), _Counted(int(arrivals[0].at))
    seen: list[set[str]] = [set() for _ in range(caches.workers)]
    workers = [LeafCache(_minting(clock, caches.leaf_days, counted, hosts), caches.entries, counted.lookup)
               for hosts in seen]  # fmt: skip
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    # A mint takes no time here. With the eager factory, which workers have too, it has ended when its look-up goes on.
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        with mock.patch.object(leaf_cache, "time", clock):
            for number, one in enumerate(arrivals):
                clock.now = one.at
                await chance.choice(workers).leaf(LeafKey("trust", "p256", (one.host,)))
                if number % _REST_EVERY == 0:
                    progress(number / len(arrivals))
                    await asyncio.sleep(0)
    finally:
        loop.set_task_factory(before)
    signatures = sum(counted.by_second.values())
    renewals = signatures - counted.outcomes["miss"]
    return Demand(
        connections=len(arrivals),
        hosts=len({one.host for one in arrivals}),
        hits=counted.outcomes["hit"],
        signatures=signatures,
        renewals=renewals,
        repeated=signatures - renewals - sum(map(len, seen)),
        worker_hosts=max(map(len, seen)),
        seconds=int(arrivals[-1].at) - int(arrivals[0].at) + 1,
        by_second=dict(counted.by_second),
    )


def from_rates(connections: float, hosts: float, caches: Caches, seed: int, seconds: int) -> Demand:
    """`connections` per second, `hosts` of them to hosts that no cache holds, as `seconds` seconds may have them.

    The worst case of what is not known: every worker is asked for every new host, and mints it; every leaf that its
    cache can hold lives until it is renewed. Arrivals are independent of each other, so seconds are Poisson's.
    """
    misses = min(connections, hosts * caches.workers)
    renewals = min(connections - misses, caches.workers * caches.entries / (RENEW_AT * caches.leaf_days * _DAY_S))
    per_s = misses + renewals if misses else 0.0
    chance = random.Random(seed)  # noqa: S311
    trials = max(_TRIALS, math.ceil(1000 * per_s))  # of so many, each unlikely: Poisson's distribution
    drawn = {second: chance.binomialvariate(trials, per_s / trials) for second in range(seconds)}
    return Demand(
        connections=connections * seconds,
        hosts=hosts * seconds,
        hits=(connections - misses) * seconds,
        signatures=per_s * seconds,
        renewals=(per_s - misses) * seconds,
        repeated=0,
        worker_hosts=0,
        seconds=seconds,
        by_second={second: number for second, number in drawn.items() if number},
    )


class _Clock:
    """Stands in for the module `time` in `addons.forward.leaf_cache`."""

    now = 0.0

    def time(self) -> float:
        """What the log says."""
        return self.now


class _Counted:
    """What the caches did."""

    def __init__(self, begin: int) -> None:
        self._begin = begin
        self.outcomes: Counter[Outcome] = Counter()
        self.by_second: Counter[int] = Counter()

    def lookup(self, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1

    def signature(self, at: float) -> None:
        self.by_second[int(at) - self._begin] += 1


def _minting(clock: _Clock, leaf_days: float, counted: _Counted, seen: set[str]) -> leaf_cache.Mint:
    """A signer that signs at once, and notes in `seen` what for. Its leaves have no certificate: a cache looks at their
    times alone."""
    life_s = leaf_days * _DAY_S

    async def mint(key: LeafKey) -> Leaf:
        seen.add(key.names[0])
        counted.signature(clock.now)
        return Leaf(cast("crypto.X509", None), clock.now + life_s, clock.now + RENEW_AT * life_s)

    return mint
