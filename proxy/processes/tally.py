"""How many connections a worker began, of how many there is a record, and the records that wait: in memory that
outlasts the worker.

The supervisor keeps it, one for each worker's place (`files`). Whoever comes after a worker that was killed finds there
what that one had not written yet, and how many connections ended without a record. It cannot be made smaller, so that
no worker can harm the next one; what is found there is believed as far as it could be in the log.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select

_BEGUN, _SETTLED, _WITHHELD, _KEPT, _DONE = range(5)
_NUMBERS = 40
_ROOM = 262_144
"""Bytes of records that wait: over a hundred of them. Those beyond are not kept for anybody."""
SIZE = _NUMBERS + _ROOM


def make(name: str) -> int:
    """A descriptor of new memory, with no connection in it."""
    descriptor = os.memfd_create(f"tally of {name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


class Tally:
    """A worker's. Each number has one thread that writes it: connections begin, and records are withheld, on the event
    loop; records are settled (written or dropped) where they are written. `_KEPT` and `_DONE` are bytes, since ever."""

    def __init__(self, descriptor: int | None) -> None:
        """Takes the descriptor; None: nobody keeps it. `left` are records that a worker before this one has not
        written, which are ours now; `lost` is how many of its connections have none."""
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, SIZE)
        self._numbers = memoryview(self._memory)[:_NUMBERS].cast("Q")
        if descriptor is not None:
            os.close(descriptor)
        begun, settled, withheld, kept, done = self._numbers
        self.left = self._read(done, kept) if 0 < kept - done <= _ROOM else []
        self.lost = max(0, begun - settled - withheld - len(self.left))
        for number in range(5):
            self._numbers[number] = 0
        self._numbers[_BEGUN] = len(self.left)

    def _read(self, begin: int, end: int) -> list[bytes]:
        at, size = begin % _ROOM, end - begin
        data = (self._memory[_NUMBERS + at : SIZE] + self._memory[_NUMBERS : _NUMBERS + at])[:size]
        lines = data.splitlines(keepends=True)
        return [one for one in lines if one.startswith(b"{") and one.endswith(b"\n") and len(one) <= select.PIPE_BUF]

    def keep(self, line: bytes) -> bool:
        """A record waits; whether there was room to keep it for whoever comes next."""
        kept = self._numbers[_KEPT]
        if kept + len(line) - self._numbers[_DONE] > _ROOM:
            return False
        at = _NUMBERS + kept % _ROOM
        first = line[: SIZE - at]
        self._memory[at : at + len(first)] = first
        if len(first) < len(line):
            self._memory[_NUMBERS : _NUMBERS + len(line) - len(first)] = line[len(first) :]
        self._numbers[_KEPT] = kept + len(line)
        return True

    def begin(self) -> None:
        """A connection begins."""
        self._numbers[_BEGUN] += 1

    def settle(self, count: int, kept: int) -> None:
        """Records were written, or dropped; so many bytes of them had been kept."""
        self._numbers[_DONE] += kept
        self._numbers[_SETTLED] += count

    def withhold(self) -> None:
        """A connection ends of which no record is wanted, or that could not be taken."""
        self._numbers[_WITHHELD] += 1
