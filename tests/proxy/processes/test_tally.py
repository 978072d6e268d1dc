"""What a worker that was killed leaves behind."""

from __future__ import annotations

import mmap
import os

import pytest

from proxy.processes import tally
from proxy.processes.tally import SIZE, Tally


def test_the_next_worker_finds_what_is_missing() -> None:
    """Ten connections began, six have a record, one needs none: three ended with the worker. The one after that begins
    anew."""
    memory = tally.make("worker 1")
    killed = Tally(os.dup(memory))
    for _ in range(10):
        killed.begin()
    killed.settle(6)
    killed.withhold()
    assert killed.lost == 0
    assert Tally(os.dup(memory)).lost == 3
    assert Tally(os.dup(memory)).lost == 0
    os.close(memory)


def test_no_worker_takes_it_from_the_next() -> None:
    """One that is taken over can write wrong numbers, and not have the next one die of memory that is not there."""
    memory = tally.make("worker 1")
    for size in (0, SIZE * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)
    with mmap.mmap(memory, SIZE) as seen:
        seen[:] = b"\xff" * SIZE
    assert Tally(memory).lost == 0


def test_without_a_supervisor_nothing_is_lost() -> None:
    """Nobody keeps it."""
    alone = Tally(None)
    alone.begin()
    assert alone.lost == 0
