"""Bytes of the log on their way to a descriptor, by a thread that alone waits for whoever reads it.

Who logs never waits: what finds no room is dropped and counted. Not O_NONBLOCK instead of a thread: that is a property
of the pipe's open end, which all processes of a run share, and others may not expect it. Each write is at most PIPE_BUF
bytes, so that lines of several processes do not mix (pipe(7)). Records of mints (`put_record`) are never dropped: who
puts one is told when it is written, or that it cannot be.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

MAX_LINE = select.PIPE_BUF
"""Bytes of a line with its end: 4 KiB on Linux."""
MAX_LINES = 2048
"""Lines that wait: 8 MiB at most, seconds of a busy process."""
_TICK_S = 0.5


class Record(Struct):
    """A line that must not be lost. `written` is called in the writer's thread, once it is written, or with the reason
    why it cannot be."""

    line: bytes
    written: Callable[[OSError | None], None]


class Writer:
    """One thread, started with the first line. `dropped` counts lines that found no room or could not be written."""

    def __init__(
        self,
        descriptor: int,
        tick: Callable[[], bool],
        lost: Callable[[int], bytes],
    ) -> None:
        """In the thread: `tick` is called twice a second as long as it says so, once `start_ticking` was; `lost` makes
        the line that tells of lines that were dropped."""
        self.dropped = 0
        self.records_waiting = 0
        self._descriptor = descriptor
        self._tick, self._lost = tick, lost
        self._news = threading.Condition()
        self._waiting: deque[bytes | Record] = deque()
        self._lines = 0
        self._told = 0
        self._busy = False
        self._writing_since: float | None = None
        self._ticking = False
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Write `line`, soon; or drop it."""
        with self._news:
            if self._lines >= MAX_LINES:
                self.dropped += 1
                return
            self._lines += 1
            self._append(line)

    def put_record(self, record: Record) -> None:
        """Write a record, soon. Who puts it looks at `records_waiting` and `stuck_s` before it makes another."""
        with self._news:
            self.records_waiting += 1
            self._append(record)

    def start_ticking(self) -> None:
        """There is something that `tick` has to do."""
        with self._news:
            if not self._ticking:
                self._ticking = True
                self._wake()

    @property
    def stuck_s(self) -> float:
        """For how long the present write has not ended."""
        since = self._writing_since
        return 0.0 if since is None else time.monotonic() - since

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written, at most so long; whether it is."""
        until = time.monotonic() + timeout_s
        with self._news:
            while self._waiting or self._busy:
                remaining = until - time.monotonic()
                if remaining <= 0 or self._thread is None or not self._thread.is_alive():
                    return False
                self._news.wait(remaining)
        return True

    def _append(self, one: bytes | Record) -> None:
        self._waiting.append(one)
        self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            with suppress(RuntimeError):  # at the interpreter's end no thread can be started, and nothing is read
                self._thread.start()
        self._news.notify_all()

    def _run(self) -> None:
        next_tick = 0.0
        while True:
            with self._news:
                while not self._waiting and not (self._ticking and time.monotonic() >= next_tick):
                    self._busy = False
                    self._news.notify_all()
                    self._news.wait(max(0.0, next_tick - time.monotonic()) if self._ticking else None)
                self._busy = True
                lines, records = self._batch()
            if lines:
                self._write(lines, records)
            if self._ticking and time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_S
                self._ticking = False  # before it looks: what comes while it does starts it again
                if self._tick():
                    self.start_ticking()

    def _batch(self) -> tuple[list[bytes], list[Record]]:
        """The next lines that go out in one write, and the records among them."""
        lines: list[bytes] = []
        records: list[Record] = []
        size = 0
        while self._waiting:
            one = self._waiting[0]
            line = one.line if isinstance(one, Record) else one
            if lines and size + len(line) > MAX_LINE:
                break
            self._waiting.popleft()
            if isinstance(one, Record):
                records.append(one)
            else:
                self._lines -= 1
            lines.append(line)
            size += len(line)
        if self.dropped > self._told and self._lines < MAX_LINES // 2:
            self._waiting.appendleft(self._lost(self.dropped - self._told))
            self._lines += 1
            self._told = self.dropped
        return lines, records

    def _write(self, lines: list[bytes], records: list[Record]) -> None:
        problem: OSError | None = None
        self._writing_since = time.monotonic()
        try:
            self._write_all(b"".join(lines))
        except OSError as error:
            problem = error
            with self._news:
                self.dropped += len(lines) - len(records)
                self._told = self.dropped  # a line that tells of it would meet the same
        self._writing_since = None
        with self._news:
            self.records_waiting -= len(records)
        for one in records:
            one.written(problem)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody else made the shared end of the pipe so
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
