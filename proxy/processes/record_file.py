"""Records of the decryption log on their way to a file, by a thread that alone waits for the disk.

Who puts a record never waits: one that finds no room, or that the disk does not take, is dropped, counted and told of.
Several workers write to one file, each with a descriptor of its own that was opened for appending: a file that was
rotated away is left when `reopen` asks for the new one. Under a lock (flock(2)) what a full disk took only a part of is
taken back, so that every line is whole; into a pipe each record is one write of at most PIPE_BUF bytes (pipe(7)).

The thread is not woken for each record: while there are many it looks each _PAUSE_S by itself.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from addons.records.connections import Connections
from addons.records.decryption_log import DecryptionLog
from addons.records.traffic import Traffic
from proxy.config.operation import DecryptionLogSection
from proxy.processes.line import Line
from proxy.processes.tally import Tally

logger = logging.getLogger("hsmitm.records")

MAX_WAITING = 4096
"""Records that wait, of at most PIPE_BUF bytes each."""
_PAUSE_S = 0.05
_ONE_WRITE = 65536
_OPEN_AGAIN_S = 5.0
_TELL_EVERY_S = 10.0

Opened = Callable[[], int | None]
"""A descriptor of the log, open for appending; None where it cannot be had. Called in the thread, but for the first
time."""


FOR_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
MODE = 0o640


def opened(path: Path) -> int | None:
    """The file, made where it is not there, never emptied; by a process that may."""
    try:
        return os.open(path, FOR_APPENDING, MODE)
    except OSError:
        return None


class RecordFile:
    """`written` counts records; `tally` keeps them, and what became of them, beyond this worker's life."""

    def __init__(self, opened: Opened, tally: Tally | None = None) -> None:
        self.written = 0
        self.tally = tally or Tally(None)
        self._opened = opened
        self._overflowed = 0  # on the loop
        self._failed = 0  # in the thread
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._news = threading.Condition()
        self._hurry = False
        self._idle = False
        self._busy = True
        self._reopen = False
        self._descriptor: int | None = None
        self._regular = False
        self._tried = -_OPEN_AGAIN_S
        self._told, self._silent_until = 0, 0.0
        self._problem = ""
        self._open()
        for line in self.tally.left:
            self.put(line)
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records that found no room, or that the disk did not take."""
        return self._overflowed + self._failed

    def put(self, line: bytes) -> None:
        """Write a record, soon; or drop it."""
        if len(self._waiting) >= MAX_WAITING:
            self._overflowed += 1
            self._problem = "whoever writes them does not keep up"
            self.tally.withhold()
            return
        self._waiting.append((line, self.tally.keep(line)))
        if self._idle:
            self._wake()

    def reopen(self) -> None:
        """The file was rotated: go on with the one that has its name now."""
        self._reopen = True
        self._wake()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written or dropped, at most so long; whether it is."""
        until = time.monotonic() + timeout_s
        self._hurry = True
        with self._news:
            self._news.notify_all()
            while self._waiting or self._busy:
                if (left := until - time.monotonic()) <= 0:
                    return False
                self._news.wait(left)
        return True

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    # the thread

    def _run(self) -> None:
        while True:
            with self._news:
                self._idle = True
                while not self._waiting and not self._reopen:
                    self._busy = False
                    self._news.notify_all()
                    self._news.wait()
                self._idle, self._busy = False, True
            if self._reopen:
                self._reopen = False
                self._open()
            while self._waiting:
                lines, kept = self._batch()
                self._write(lines)
                self.tally.settle(len(lines), kept)
            self._tell()
            if not self._hurry:
                time.sleep(_PAUSE_S)

    def _open(self) -> None:
        """What cannot be opened leaves the one of before in its place."""
        self._tried = time.monotonic()
        found = self._opened()
        if found is None:
            logger.warning("the decryption log cannot be opened for appending; hsmitm check says why")
            return
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._regular = found, stat.S_ISREG(os.fstat(found).st_mode)

    def _batch(self) -> tuple[list[bytes], int]:
        """What goes out in one write, and how many bytes of it are kept in the tally."""
        most = _ONE_WRITE if self._regular else select.PIPE_BUF
        lines: list[bytes] = []
        size = kept = 0
        while self._waiting and (not lines or size + len(self._waiting[0][0]) <= most):
            line, is_kept = self._waiting.popleft()
            lines.append(line)
            size += len(line)
            kept += len(line) * is_kept
        return lines, kept

    def _write(self, lines: list[bytes]) -> None:
        if self._descriptor is None and time.monotonic() - self._tried >= _OPEN_AGAIN_S:
            self._open()
        written = 0
        try:
            if self._descriptor is None:
                self._problem = "there is no file for them"
            elif self._regular:
                written = appended(self._descriptor, lines)
            else:
                _passed(self._descriptor, b"".join(lines))
                written = len(lines)
        except OSError as error:
            self._problem = error.strerror or str(error)
        if written < len(lines):
            self._problem = self._problem or os.strerror(28)
        self.written += written
        self._failed += len(lines) - written

    def _tell(self) -> None:
        if self.dropped > self._told and time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _TELL_EVERY_S
            logger.warning(
                "%d records of the decryption log were dropped: %s", self.dropped - self._told, self._problem
            )
            self._told, self._problem = self.dropped, ""


def appended(descriptor: int, lines: list[bytes]) -> int:
    """Append `lines` to the file, each of them whole or not at all: how many. Raises OSError where it is none."""
    data = b"".join(lines)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        taken = os.write(descriptor, data)
        if taken == len(data):
            return len(lines)
        whole = data.rfind(b"\n", 0, taken) + 1
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - taken + whole)
        return data.count(b"\n", 0, whole)
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _passed(descriptor: int, data: bytes) -> None:
    """All of it into a pipe or a terminal, where it may take its time."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody else made the shared end so
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll()


def of(section: DecryptionLogSection, base: Path, line: Line | None) -> RecordFile | None:
    """Where a worker's records go; `line` is to its supervisor, which opens the file. None: nowhere."""
    if not section.file:
        return None
    tally = Tally(line.ask_for_tally() if line is not None else None)
    if tally.lost:
        logger.warning("%d connections ended with the worker before this one: there is no record of them", tally.lost)
    path = section.path(base)
    if path is None:
        return RecordFile(lambda: os.dup(1), tally)
    return RecordFile(line.ask_for_log if line is not None else functools.partial(opened, path), tally)


def connections(file: RecordFile | None, registry: CollectorRegistry, worker: int) -> Connections:
    """What tells of the connections of this worker: counted, and, where there is a `file`, recorded."""
    traffic = Traffic()
    registry.register(traffic)
    if file is None:
        return Connections(traffic.ended)
    log = DecryptionLog(file.put, worker, file.tally.withhold)
    registry.register(_Counters(file, log))
    return Connections(traffic.ended, log.ended, begun=file.tally.begin)


class _Counters(Collector):
    """What became of this worker's records."""

    def __init__(self, file: RecordFile, log: DecryptionLog) -> None:
        self._file = file
        self._log = log

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        for name, text, value in (
            ("written", "Records of the decryption log that were written", self._file.written),
            ("dropped", "Records that no room was left for, or the disk did not take", self._file.dropped),
            ("lost", "Connections that ended with a worker that was killed", self._file.tally.lost),
            ("withheld", "Records that a rule's log does without", self._log.withheld),
        ):
            yield CounterMetricFamily(f"hsmitm_decryption_records_{name}", text, value=value)
