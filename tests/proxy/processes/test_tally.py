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
    killed.settle(6, 0)
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


def test_what_a_killed_worker_had_not_written_is_written_by_the_next() -> None:
    """Records that wait are not lost with it, wherever in its memory they stand; half a record is none."""
    memory = tally.make("worker 1")
    line = b'{"rest": "' + b"x" * 1500 + b'"}\n'
    killed = Tally(os.dup(memory))
    for _ in range(400):
        killed.begin()
        assert killed.keep(line)
        killed.settle(1, len(line))
    for number in range(5):
        killed.begin()
        assert killed.keep(b'{"number": %d}\n' % number)
    killed.begin()
    after = Tally(os.dup(memory))
    assert after.left == [b'{"number": %d}\n' % number for number in range(5)]
    assert after.lost == 1
    after.settle(5, 0)
    assert (Tally(os.dup(memory)).left, Tally(memory).lost) == ([], 0)


def test_more_than_there_is_room_for_is_not_kept() -> None:
    """It waits all the same, for a worker that lives."""
    alone, line = Tally(None), b"{" + b"x" * 4000 + b"}\n"
    kept = [alone.keep(line) for _ in range(100)]
    assert kept == [True] * (262_144 // len(line)) + [False] * (100 - 262_144 // len(line))
