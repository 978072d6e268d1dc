"""How many connections a socket admits, of whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.census import COMMANDS, WORKERS, Census, Limits
from hsm.wire.worker import MAX_WORKERS


def test_one_process_does_not_keep_others_out() -> None:
    """A process has its few, a user has some, and room is left for another user's."""
    census = Census(Limits(process=2, user=3, all=4))
    for process, user, full in (
        (1, 10, ""),
        (1, 10, ""),
        (1, 10, "it has 2 connections already"),
        (2, 10, ""),
        (3, 10, "its user has 3 connections already"),
        (4, 0, ""),
        (5, 0, "there are 4 connections already"),
    ):
        assert census.full(process, user) == full
        if not full:
            census.join(process, user)
    census.leave(1, 10)
    assert census.full(3, 10) == ""
    assert census.full(1, 10) == ""


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), max_size=30))
def test_who_leaves_leaves_nothing_behind(comers: list[tuple[int, int]]) -> None:
    """When all have gone there is nothing left of them, in whatever order they came."""
    census = Census(WORKERS)
    for one in comers:
        census.join(*one)
    for one in reversed(comers):
        census.leave(*one)
    assert not census._processes
    assert not census._users


@pytest.mark.parametrize(("descriptors", "workers"), [(1 << 20, 512), (1024, 512), (512, 256), (256, 128)])
def test_descriptors_are_kept_in_reserve(descriptors: int, workers: int) -> None:
    """However few descriptors a signer has, both sockets leave some for members; and where it has the usual number, all
    workers that there may be find room."""
    found = WORKERS.within(descriptors)
    assert found.all == workers
    assert found.process <= found.user < found.all
    commands = COMMANDS.within(descriptors)
    if descriptors >= 256:
        assert found.all + commands.all <= descriptors * 3 // 4
    if descriptors >= 1024:
        assert found.user > MAX_WORKERS
