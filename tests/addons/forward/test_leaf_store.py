"""Which leaves are kept: what an office visits all day stays, whatever one client makes up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.forward.leaf_store import LeafStore

_LIMIT = 1000
_KNOWN = 500
_SEED = 8


def _visit(store: LeafStore[str, int], host: str) -> bool:
    """Whether the leaf was there."""
    if store.look(host) is not None:
        store.use(host)
        return True
    list(store.keep(host, 1))
    return False


def _hit_ratio(flood_uses: int, made_up_for_each_visit: int) -> float:
    """Of 10,000 visits to known hosts, some of which are visited far more often than others, while a client makes up
    names and asks for each `flood_uses` times."""
    store, chance = LeafStore[str, int](_LIMIT), random.Random(_SEED)
    known = [f"known{i}" for i in range(_KNOWN)]
    weights = [1 / (1 + i) for i in range(_KNOWN)]
    for host in known * 3:
        _visit(store, host)
    hits = made_up = 0
    for host in chance.choices(known, weights, k=10_000):
        hits += _visit(store, host)
        for _ in range(made_up_for_each_visit):
            made_up += 1
            for _ in range(flood_uses):
                _visit(store, f"made-up{made_up}")
    assert len(store) <= _LIMIT
    return hits / 10_000


@pytest.mark.parametrize(("uses", "made_up", "at_least"), [(1, 1, 1.0), (1, 20, 1.0), (2, 1, 0.95), (2, 5, 0.9)])
def test_a_flood_of_names_does_not_push_known_hosts_out(uses: int, made_up: int, at_least: float) -> None:
    """Known hosts are found although a client makes up names twenty times as fast as others visit, and also where it
    asks for each name twice. (A plain LRU of this size finds 84, 46, 84 and 66 %.)"""
    assert _hit_ratio(uses, made_up) >= at_least


def test_what_nobody_visits_any_more_makes_room_for_what_is_visited() -> None:
    """Hosts of last month, however often they were visited, give way to those of today after some visits of these."""
    store = LeafStore[str, int](100)
    for host in [f"old{i}" for i in range(80)] * 50:
        _visit(store, host)
    new = [f"new{i}" for i in range(60)]
    for _ in range(40):
        for host in new:
            _visit(store, host)
    assert all(_visit(store, host) for host in new)


def test_a_renewed_leaf_keeps_its_place() -> None:
    """A leaf that is minted anew replaces the old one, and is no newcomer."""
    store = LeafStore[str, int](5)
    list(store.keep("a", 1))
    store.use("a")
    list(store.keep("a", 2))
    for i in range(20):
        list(store.keep(f"b{i}", i))
    assert store.look("a") == 2


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 30), st.booleans())))
def test_it_never_holds_more_than_it_may(limit: int, visits: list[tuple[int, bool]]) -> None:
    """Whatever is kept and used in whatever order, the bound holds, the newest is there, and what goes is told."""
    store, here = LeafStore[int, int](limit), set[int]()
    for key, again in visits:
        here.add(key)
        here -= set(store.keep(key, key))
        assert len(store) == len(here) <= limit
        assert store.look(key) == key
        assert all(store.look(one) == one for one in here)
        if again:
            store.use(key)
