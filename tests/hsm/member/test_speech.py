"""A vendor's library that prints costs nobody anything: real processes and pipes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from msgspec import structs

from hsm.member import speech
from hsm.member.speech import LINES, LONGEST, Speech
from tests.hsm.members import keys_of, running
from tests.softhsm import Store
from tests.waiting import until


@contextmanager
def standard_error_that_nobody_reads() -> Iterator[None]:
    """Descriptor 2 of this process and of those that it starts is a full pipe."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"x" * 4096)
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        for one in (reading, writing, kept):
            os.close(one)


async def test_a_library_that_prints_while_nobody_reads_the_log(
    stores: list[Store], caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose process prints all the time serves, although the signer's own log has stopped; a few of its lines
    are logged, with its process."""
    settings = stores[0].settings()
    talkative = structs.replace(settings, environment=settings.environment | {"LD_DEBUG": "libs"})
    with standard_error_that_nobody_reads():
        async with running(talkative, keys=keys_of(stores[0])) as member:
            assert member.serving, member.reason
            pid = member.pid
    said = [line for line in caplog.messages if line.startswith(f"member process {pid} says: ")]
    assert "find library=" in "".join(said)
    assert len(said) < 100
    kinds = [getattr(one, "log_class", None) for one in caplog.records if " says: " in one.getMessage()]
    assert set(kinds) == {"what members say"}


async def test_what_it_says_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Megabytes are a few short lines, and how much is missing stands beside what comes after it."""
    heard, descriptor = await Speech.open()
    heard.hear(7)
    os.set_blocking(descriptor, False)

    def taken(data: bytes) -> bool:
        with suppress(BlockingIOError):
            return os.write(descriptor, data) > 0
        return False

    for _ in range(100):
        await until(lambda: taken(b"nonsense\n" * 400), "it is read")
    heard._begun = 0.0
    await until(lambda: taken(b"z" * 3000 + b"\nlast words"), "it is read")
    os.close(descriptor)
    await until(lambda: "last words" in caplog.text, "its last words are heard")
    assert len(caplog.messages) <= 2 * LINES + 2
    assert max(map(len, caplog.messages)) < LONGEST + 120
    assert " bytes before it are left out)" in caplog.text


async def test_lines_are_whole(caplog: pytest.LogCaptureFixture) -> None:
    """A line that comes in pieces is one, an empty one is none, and bytes that are no text do no harm."""
    heard, descriptor = await Speech.open()
    heard.hear(7)
    for piece in (b"first ", b"line\n\n", b"\xff\xfe second\n"):
        before = heard._partial, len(caplog.messages)
        os.write(descriptor, piece)
        await until(lambda was=before: (heard._partial, len(caplog.messages)) != was, "it is heard")  # type: ignore[misc]
    os.close(descriptor)
    await until(lambda: heard._transport is not None and heard._transport.is_closing(), "it is over")
    assert caplog.messages == ["member process 7 says: first line", "member process 7 says: \ufffd\ufffd second"]


def test_the_bounds_are_those_of_the_log() -> None:
    """What is logged of it is what the log would write of a class, and no more."""
    assert (speech.LINES, speech.PERIOD_S) == (10, 1.0)
