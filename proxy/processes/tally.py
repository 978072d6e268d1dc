"""How many connections a worker began, and of how many there is a record: in memory that outlasts the worker.

The supervisor keeps it, one for each worker's place (`files`), and whoever comes after a worker that was killed finds
there how many connections ended without a record. It cannot be made smaller, so that no worker can harm the next one.
"""

from __future__ import annotations

import fcntl
import mmap
import os

_BEGUN, _SETTLED, _WITHHELD = range(3)
SIZE = 24
"""Bytes of three numbers."""


def make(name: str) -> int:
    """A descriptor of new memory, with no connection in it."""
    descriptor = os.memfd_create(f"tally of {name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


class Tally:
    """A worker's. Each number has one thread that writes it: connections begin, and records are withheld, on the event
    loop; records are settled (written or dropped) where they are written."""

    def __init__(self, descriptor: int | None) -> None:
        """Takes the descriptor; None: nobody keeps it. `lost` is what a worker before this one left unsettled."""
        self._numbers = memoryview(mmap.mmap(-1 if descriptor is None else descriptor, SIZE)).cast("Q")
        if descriptor is not None:
            os.close(descriptor)
        begun, settled, withheld = self._numbers
        self.lost = max(0, begun - settled - withheld)
        self._numbers[_BEGUN] = self._numbers[_SETTLED] = self._numbers[_WITHHELD] = 0

    def begin(self) -> None:
        """A connection begins."""
        self._numbers[_BEGUN] += 1

    def settle(self, count: int) -> None:
        """Records were written, or dropped."""
        self._numbers[_SETTLED] += count

    def withhold(self) -> None:
        """A connection ends of which no record is wanted, or that could not be taken."""
        self._numbers[_WITHHELD] += 1
