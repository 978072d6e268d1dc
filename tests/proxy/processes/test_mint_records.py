"""No leaf without a record of it, whatever becomes of the log. Real pipes."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from hsm.errors import TryLaterError
from proxy.processes import mint_records
from proxy.processes.logs import LogHandler
from proxy.processes.mint_records import WrittenRecords
from tests.waiting import until


class Pipe:
    """A log whose reader reads when the test does."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self.handler = LogHandler(self.writing, logging.Formatter("%(message)s"), limited=True)
        self.records = WrittenRecords(self.handler)
        self.said = b""

    def fill(self) -> None:
        """Lines enough that nothing more goes in."""
        for _ in range(3):
            self.handler.writer.put(b"x" * 3000 + b"\n")

    def read(self) -> bytes:
        """What is there, after what was there before."""
        with suppress(BlockingIOError):
            self.said += os.read(self.reading, 65536)
        return self.said


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """An open one, at info."""
    before = logging.getLogger("hsmitm.signer").level
    logging.getLogger("hsmitm.signer").setLevel(logging.INFO)
    made = Pipe()
    yield made
    while not made.handler.writer.flush(0.01):
        made.read()
    os.close(made.reading)
    os.close(made.writing)
    logging.getLogger("hsmitm.signer").setLevel(before)


def soon(seconds: float = 5.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


async def test_a_record_is_written_before_the_leaf_goes(pipe: Pipe) -> None:
    """A leaf is answered when its record has left the process, in the order in which leaves were made."""
    for number in range(20):
        await pipe.records.room(soon())
        await pipe.records.write([f"minted {number}", f"part two of {number}"], soon())
        assert pipe.read().endswith(f"minted {number}\npart two of {number}\n".encode())


async def test_a_log_that_nobody_reads(pipe: Pipe) -> None:
    """Minting waits while the log takes nothing, goes on with it, and is refused in words where that takes too long."""
    pipe.fill()
    waiting = asyncio.create_task(pipe.records.write(["minted a"], soon()))
    with pytest.raises(TryLaterError, match=r"no leaf without a record of it.*has stopped"):
        await pipe.records.write(["minted b"], soon(0.4))
    assert not waiting.done()
    await until(lambda: b"minted a\n" in pipe.read(), "the log goes on")
    await waiting
    await until(lambda: b"minted b\n" in pipe.read(), "what was signed is told in any case")


async def test_no_signature_is_spent(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has stopped for a while keeps the HSM from work that would be in vain; one that goes on, does not."""
    monkeypatch.setattr(mint_records, "SLOW_S", 0.05)
    pipe.fill()
    first = asyncio.create_task(pipe.records.write(["minted a"], soon()))
    await pipe.records.room(soon(0.3))
    await until(lambda: pipe.handler.writer.stuck_s > 0.05, "it has stopped")
    with pytest.raises(TryLaterError, match="no leaf without a record"):
        await pipe.records.room(soon(0.4))
    later = asyncio.create_task(pipe.records.room(soon()))
    await until(lambda: b"minted a\n" in pipe.read(), "the log goes on")
    await asyncio.gather(first, later)


async def test_waiting_records_are_bounded(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for leaves meanwhile, a bounded number waits with a record in hand."""
    monkeypatch.setattr(mint_records, "MOST", 5)
    pipe.fill()

    async def mint() -> None:
        await pipe.records.room(soon(0.5))
        await pipe.records.write(["minted"], soon(0.5))

    asked = [asyncio.create_task(mint()) for _ in range(50)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in results} == {TryLaterError}
    assert pipe.handler.writer.records_waiting == 5
    assert await asyncio.gather(*[mint() for _ in range(5)], return_exceptions=True)
    assert pipe.handler.writer.records_waiting == 5


async def test_a_log_that_cannot_be_written(pipe: Pipe) -> None:
    """A log whose reader is gone means no leaves, and the reason is in the refusal."""
    os.close(pipe.reading)
    with pytest.raises(TryLaterError, match="no leaf without a record of it, and the log takes none: Broken pipe"):
        await pipe.records.write(["minted"], soon())
    pipe.reading = os.open("/dev/null", os.O_RDONLY)


async def test_a_level_without_records(pipe: Pipe) -> None:
    """Who raised the level does not want records, and waits for none."""
    logging.getLogger("hsmitm.signer").setLevel(logging.WARNING)
    pipe.fill()
    await pipe.records.write(["minted"], soon(0.3))


async def test_a_flood_of_other_lines(pipe: Pipe) -> None:
    """A flood that has lines dropped drops no record."""
    for _ in range(10_000):
        pipe.handler.writer.put(b"x" * 100 + b"\n")
    writing = asyncio.create_task(pipe.records.write(["minted a"], soon(9)))
    await until(lambda: b"minted a\n" in pipe.read(), "the record is there")
    await writing
    assert pipe.handler.writer.dropped > 0
