"""The log on its way out: nobody waits for its reader, and what that costs is told. Real pipes."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator

import pytest

from proxy.processes import log_writer
from proxy.processes.log_writer import MAX_LINE, MAX_LINES, Record, Writer
from tests.waiting import wait_until


class Pipe:
    """A pipe of one page, and what a test reads of it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self.ticks = 0
        self.writer = Writer(self.writing, self._tick, lambda count: b"%d lost\n" % count)
        self._said = b""

    def _tick(self) -> bool:
        self.ticks += 1
        return self.ticks < 3

    def read(self, end: bytes) -> bytes:
        """Everything until `end`."""

        def more() -> None:
            while end not in self._said:
                data = os.read(self.reading, 65536)
                if not data:
                    return
                self._said += data

        reading = threading.Thread(target=more, daemon=True)
        reading.start()
        reading.join(10)
        assert end in self._said, self._said[-300:]
        return self._said

    def stop_reading(self) -> None:
        """The reader goes away."""
        os.close(self.reading)
        self.reading = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """One whose reader reads when the test does."""
    made = Pipe()
    yield made
    if made.reading >= 0:
        os.set_blocking(made.reading, False)
        wait_until(lambda: made.writer.flush(0.01) or not _drained(made.reading), "the writer comes to rest")
        os.close(made.reading)
    os.close(made.writing)


def _drained(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def test_lines_come_out_in_order(pipe: Pipe) -> None:
    """What was logged first is read first, lines and records alike, each once."""
    for number in range(500):
        if number % 7:
            pipe.writer.put(b"%d\n" % number)
        else:
            pipe.writer.put_record(Record(b"%d\n" % number, lambda _: None))
    assert pipe.read(b"499\n") == b"".join(b"%d\n" % number for number in range(500))


def test_a_reader_that_stalls(pipe: Pipe) -> None:
    """Whoever logs while nobody reads does not wait, keeps a bounded number of lines, and how many are lost is told
    once, in their place."""
    text = b"x" * 99 + b"\n"
    begun = time.monotonic()
    for _ in range(3 * MAX_LINES):
        pipe.writer.put(text)
    assert time.monotonic() - begun < 2
    lost = pipe.writer.dropped
    assert MAX_LINES <= lost <= 2 * MAX_LINES
    said = pipe.read(b" lost\n")
    pipe.writer.put(b"end\n")
    said = pipe.read(b"end\n")
    assert said.count(text) == 3 * MAX_LINES - lost
    assert said.count(b" lost\n") == 1
    assert b"%d lost\n" % lost in said


def test_writes_do_not_mix(pipe: Pipe) -> None:
    """Lines of two processes on one pipe stay whole, long ones too: no write is larger than PIPE_BUF."""
    second = Writer(pipe.writing, lambda: False, lambda _: b"")
    lines = [mark * (MAX_LINE - 1) + b"\n" for mark in (b"a", b"b")] + [mark * 700 + b"\n" for mark in (b"c", b"d")]
    for _ in range(50):
        for writer, line in zip((pipe.writer, second) * 2, lines, strict=True):
            writer.put(line)
    found = set()
    said = b""
    while said.count(b"\n") < 200:
        said += os.read(pipe.reading, 65536)
    for line in said.split(b"\n")[:-1]:
        found.add(line + b"\n")
    assert found == set(lines)


def test_a_record_is_known_to_be_written(pipe: Pipe) -> None:
    """A record counts as written when it has left the process, not while the pipe is full."""
    told: list[OSError | None] = []
    for _ in range(2):
        pipe.writer.put(b"x" * 3000 + b"\n")
    pipe.writer.put_record(Record(b"record\n", told.append))
    assert not pipe.writer.flush(0.1)
    assert told == []
    pipe.read(b"record\n")
    wait_until(lambda: told == [None], "it is told")


def test_a_record_is_never_dropped(pipe: Pipe) -> None:
    """Where lines find no room, records do."""
    for _ in range(2 * MAX_LINES):
        pipe.writer.put(b"line\n")
    pipe.writer.put_record(Record(b"record\n", lambda _: None))
    pipe.read(b"record\n")


def test_a_writer_that_is_stuck_is_seen(pipe: Pipe) -> None:
    """Who makes records sees how many wait, and for how long nothing has gone out."""
    assert (pipe.writer.stuck_s, pipe.writer.records_waiting) == (0.0, 0)
    for _ in range(2):
        pipe.writer.put(b"x" * 3000 + b"\n")
    pipe.writer.put_record(Record(b"record\n", lambda _: None))
    wait_until(lambda: pipe.writer.stuck_s > 0.05, "it is seen")
    assert pipe.writer.records_waiting == 1
    pipe.read(b"record\n")
    wait_until(lambda: (pipe.writer.stuck_s, pipe.writer.records_waiting) == (0.0, 0), "it goes on")


def test_a_reader_that_is_gone(pipe: Pipe) -> None:
    """Without a reader lines are counted as lost, and whoever waits for a record learns why it is not written."""
    pipe.stop_reading()
    told: list[OSError | None] = []
    pipe.writer.put(b"line\n")
    pipe.writer.put_record(Record(b"record\n", told.append))
    wait_until(lambda: told, "it is told")
    assert isinstance(told[0], BrokenPipeError)
    assert pipe.writer.flush(5)
    assert pipe.writer.dropped == 1


def test_a_pipe_that_does_not_block(pipe: Pipe) -> None:
    """A pipe whose open end somebody else has set not to block is waited for all the same."""
    os.set_blocking(pipe.writing, False)
    for _ in range(20):
        pipe.writer.put(b"x" * 3000 + b"\n")
    pipe.writer.put(b"end\n")
    assert pipe.read(b"end\n").count(b"\n") == 21


def test_flushing_is_bounded(pipe: Pipe) -> None:
    """A process ends in time although nobody reads its log."""
    for _ in range(10):
        pipe.writer.put(b"x" * 3000 + b"\n")
    begun = time.monotonic()
    assert not pipe.writer.flush(0.2)
    assert time.monotonic() - begun < 1


def test_ticking(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be told later is told although nothing else is logged, and then nothing runs any more."""
    monkeypatch.setattr(log_writer, "_TICK_S", 0.01)
    pipe.writer.start_ticking()
    wait_until(lambda: pipe.ticks == 3, "it ticks until there is nothing left")
    pipe.writer.put(b"end\n")
    pipe.read(b"end\n")
    assert pipe.ticks == 3
