"""Records on their way to a file, a pipe, or nowhere."""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from proxy.config.operation import DecryptionLogSection
from proxy.processes import record_file
from proxy.processes.record_file import MAX_WAITING, RecordFile, opened
from tests.addons.records import examples
from tests.waiting import wait_until


def _file(path: Path) -> RecordFile:
    return RecordFile(functools.partial(opened, path))


def _line(writer: int, number: int, size: int = 1900) -> bytes:
    return json.dumps({"writer": writer, "number": number, "rest": "x" * size}).encode() + b"\n"


def _numbers(text: bytes) -> Iterator[tuple[int, int]]:
    for line in text.splitlines():
        told = json.loads(line)
        yield told["writer"], told["number"]


def test_records_of_several_workers_are_whole_and_all_there(tmp_path: Path) -> None:
    """Four of them append to one file that had something in it: no line mixes with another, and nothing is lost."""
    path = tmp_path / "decryption.jsonl"
    path.write_bytes(_line(9, 9))
    writers = [_file(path) for _ in range(4)]
    for number in range(500):
        for index, one in enumerate(writers):
            one.put(_line(index, number))
    assert all(one.flush(20) for one in writers)
    found = list(_numbers(path.read_bytes()))
    assert found[0] == (9, 9)
    assert sorted(found[1:]) == [(index, number) for index in range(4) for number in range(500)]
    assert [(one.written, one.dropped) for one in writers] == [(500, 0)] * 4


def test_a_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    """Who is neither the user nor of the group cannot read who visited what."""
    file = _file(tmp_path / "decryption.jsonl")
    file.put(_line(1, 1))
    assert file.flush(5)
    assert (tmp_path / "decryption.jsonl").stat().st_mode & 0o777 & ~0o640 == 0


def test_a_file_that_was_rotated_is_left(tmp_path: Path) -> None:
    """logrotate renames the file and asks: what comes then is in a new one, and the old one keeps what it had."""
    path, old = tmp_path / "decryption.jsonl", tmp_path / "decryption.jsonl.1"
    file = _file(path)
    file.put(_line(1, 1))
    assert file.flush(5)
    path.rename(old)
    file.reopen()
    wait_until(path.exists, "the new file is there")
    file.put(_line(1, 2))
    assert file.flush(5)
    assert (list(_numbers(old.read_bytes())), list(_numbers(path.read_bytes()))) == ([(1, 1)], [(1, 2)])


def test_what_cannot_be_opened_anew_leaves_the_old_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the directory is gone, records go on to where they went before, and the log says so."""
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "decryption.jsonl"
    file = _file(path)
    (tmp_path / "logs").rename(tmp_path / "moved")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        file.reopen()
        wait_until(lambda: "cannot be opened" in caplog.text, "it is told")
    file.put(_line(1, 1))
    assert file.flush(5)
    assert list(_numbers((tmp_path / "moved" / "decryption.jsonl").read_bytes())) == [(1, 1)]


def test_without_a_file_records_are_dropped_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Traffic goes on; who looks at the log or the metric sees what is missing."""
    file = _file(tmp_path / "nowhere" / "decryption.jsonl")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        file.put(_line(1, 1))
        assert file.flush(5)
        wait_until(lambda: "1 records of the decryption log were dropped" in caplog.text, "it is told")
    assert (file.written, file.dropped) == (0, 1)


_FULL = """
import functools, json, resource, sys
from pathlib import Path
from proxy.processes.record_file import RecordFile, opened

path, most = Path(sys.argv[1]), 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
one, other = (RecordFile(functools.partial(opened, path)) for _ in range(2))
for number in range(100):
    one.put(b'{"number": %d, "rest": "%s"}\\n' % (number, b"x" * 1500))
    other.put(b'{"number": %d, "rest": "%s"}\\n' % (number + 1000, b"x" * 1100))
assert one.flush(20) and other.flush(20)
assert path.stat().st_size <= most
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
one.put(b'{"number": 5000}\\n')
assert one.flush(20)
numbers = [json.loads(line)["number"] for line in path.read_bytes().splitlines()]
assert numbers[-1] == 5000, numbers
assert len(numbers) == one.written + other.written, (len(numbers), one.written, other.written)
assert one.written + one.dropped == 101 and other.written + other.dropped == 100
assert one.dropped + other.dropped > 20, (one.dropped, other.dropped)
"""


def test_where_there_is_no_room_every_line_is_whole(tmp_path: Path) -> None:
    """A file may not grow: what a write took only a part of is taken back, the rest is dropped and counted, and when
    there is room again it goes on."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "decryption.jsonl")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_who_puts_never_waits_for_who_reads() -> None:
    """A pipe that nobody reads: records are dropped, and each goes in whole as soon as there is room."""
    reading, writing = os.pipe()
    writers = [RecordFile(lambda: os.dup(writing)) for _ in range(2)]
    began = time.monotonic()
    count = MAX_WAITING + 200
    for number in range(count):
        for index, one in enumerate(writers):
            one.put(_line(index, number))
    assert time.monotonic() - began < 5
    assert all(one.dropped > 0 for one in writers)
    os.close(writing)
    read = bytearray()
    wanted = sum(count - one.dropped for one in writers)
    while read.count(b"\n") < wanted:
        read += os.read(reading, 65536)
    assert len(set(_numbers(bytes(read)))) == wanted
    os.close(reading)


def test_the_counters_say_what_is_missing(tmp_path: Path) -> None:
    """Written, dropped and withheld, of one worker."""
    registry = CollectorRegistry()
    file = record_file.of(DecryptionLogSection(file="decryption.jsonl"), tmp_path, None)
    assert file is not None
    made = record_file.connections(file, registry, 3)
    for tell in made.told:
        tell(examples.decrypted())
    assert file.flush(5)
    shown = generate_latest(registry).decode()
    assert "hsmitm_decryption_records_written_total 1.0" in shown
    assert "hsmitm_decryption_records_dropped_total 0.0" in shown
    assert 'hsmitm_bytes_total{direction="in",leg="client"} 2048.0' in shown
    assert 'hsmitm_tls_groups_total{group="X25519MLKEM768",leg="client"} 1.0' in shown
    assert json.loads((tmp_path / "decryption.jsonl").read_bytes())["hsmitm"]["worker"] == 3


@pytest.mark.parametrize(("written", "there"), [("", False), ("stdout", True), ("logs/decryption.jsonl", True)])
def test_a_log_that_is_off_is_none(tmp_path: Path, written: str, there: bool) -> None:
    """Empty is off; "stdout" is no file of that name."""
    (tmp_path / "logs").mkdir()
    found = record_file.of(DecryptionLogSection(file=written), tmp_path, None)
    assert (found is not None) == there
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]


@pytest.mark.parametrize("written", ["logs/", "a\0b"])
def test_what_is_no_file_is_refused(written: str) -> None:
    """The configuration says so, naming the field."""
    with pytest.raises(ValueError, match="file: "):
        DecryptionLogSection(file=written)
