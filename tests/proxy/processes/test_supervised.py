"""What a supervised process tells its supervisor, over a real pipe."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from proxy.processes import supervised

_CHILD = """
import asyncio, sys, time
from proxy.processes import supervised

async def main():
    fd = int(sys.argv[1])
    print(await supervised.begin(fd), flush=True)
    supervised.tell_ready(fd)
    await asyncio.sleep(2.5)
    sys.stderr.write("hung")
    sys.stderr.flush()
    time.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def line() -> Iterator[tuple[int, int]]:
    """Both ends of the pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def test_signs_of_life_come_from_the_event_loop(line: tuple[int, int]) -> None:
    """A process gives one each second while its loop turns, and none from the moment on that it hangs."""
    reading, writing = line
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD, str(writing)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[writing],
    ) as process:  # fmt: skip
        os.close(writing)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"first\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"first\n"
        assert process.stderr.read(4) == b"hung"
        process.kill()
        assert sorted(os.read(reading, 100)) == sorted(b".1..")


async def test_a_supervisor_that_is_gone_or_does_not_read_hinders_nobody(line: tuple[int, int]) -> None:
    """A full pipe, as of a supervisor that is stopped, blocks no process; a closed one ends the signs."""
    reading, writing = line
    os.set_blocking(writing, False)
    while supervised._say(writing, b"x" * 4096):
        if os.read(reading, 1) == b"":
            break
        try:
            os.write(writing, b"x" * 65536)
        except BlockingIOError:
            break
    assert supervised._say(writing, supervised.ALIVE)
    duplicate = os.dup(writing)
    other, closed = os.pipe()
    os.close(other)
    assert not supervised._say(closed, supervised.ALIVE)
    for descriptor in (duplicate, writing, closed):
        os.close(descriptor)
    supervised.tell_ready(None)
    await asyncio.sleep(0)
