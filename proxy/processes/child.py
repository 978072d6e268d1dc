"""One supervised process: start it, wait until it is ready, start it again when it ends. And what such a process does
itself to be one: it says when it is ready (`tell_ready`), and watches for its supervisor (`orphaned`).

The child's standard input is a pipe from the supervisor. Its first line may carry what a prompt got; its end tells the
child that the supervisor is gone. It then goes on serving, and leaves as soon as a new supervisor answers at the same
guard (`Guard`): a killed supervisor stops nobody's traffic, and the next `hsmitm run` takes over.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hsm.backoff import Backoff
from hsm.errors import MisconfiguredError
from hsm.wire.endpoint import peer

logger = logging.getLogger("hsmitm.supervisor")

EX_CONFIG = os.EX_CONFIG
"""The child found its configuration wrong. It is not started again."""
_BACKOFF, _BACKOFF_RESET_S = Backoff(0.1, 5.0), 30.0
_GUARD_POLL_S = 0.2


class Child:
    """A process that is kept running."""

    def __init__(self, name: str, argv: Sequence[str], environment: dict[str, str], first_line: str = "") -> None:
        """`first_line` goes to the child's standard input, never to argv or environment."""
        self.name = name
        self.ready = asyncio.Event()
        self.ended_for_good: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.process: asyncio.subprocess.Process | None = None
        self._argv = argv
        self._environment = environment
        self._first_line = first_line
        self._stopping = asyncio.Event()
        self._was_ready = False

    async def run(self) -> None:
        """Start the process again and again, until `stop`. A child that cannot boot ends this for good."""
        failures = 0
        while True:
            started = time.monotonic()
            status = await self._one_life()
            if self._stopping.is_set():
                return
            if status == EX_CONFIG and not self._was_ready:
                self.ended_for_good.set_result(status)
                return
            lived = time.monotonic() - started
            failures = 1 if lived > _BACKOFF_RESET_S else failures + 1
            pause = _BACKOFF.after(failures)
            logger.warning("%s %s; starting it again in %.1f s", self.name, _how(status), pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
                return

    async def _one_life(self) -> int:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.process = await asyncio.create_subprocess_exec(
            *self._argv, "--supervised", "--ready-fd", str(writing),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[writing],
            env=self._environment,
            start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to pass on, in order
        )  # fmt: skip
        os.close(writing)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self._first_line}\n".encode())
        loop = asyncio.get_running_loop()
        loop.add_reader(reading, self._note_ready, reading)
        try:
            if self._stopping.is_set():  # told to while it was being started
                self.process.terminate()
            return await self.process.wait()
        finally:
            self._note_ready(reading)  # it may have ended before the loop has looked
            os.close(reading)
            self.ready.clear()

    def _note_ready(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        with suppress(BlockingIOError):
            if os.read(descriptor, 1):
                self._was_ready = True
                self.ready.set()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to a child that is ready for it; one that is starting reads everything afresh anyway."""
        if self.ready.is_set() and self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def stop(self, patience_s: float) -> None:
        """SIGTERM, then SIGKILL after `patience_s` seconds."""
        self._stopping.set()
        process = self.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(patience_s):
                await process.wait()
        except TimeoutError:
            logger.warning("%s did not end within %g s; killing it", self.name, patience_s)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class Guard:
    """An address in the abstract namespace that only one supervisor of a configuration holds."""

    def __init__(self, config: Path) -> None:
        digest = hashlib.sha256(os.fsencode(config)).hexdigest()[:32]
        self._address = f"\0hsmitm/{os.geteuid()}/{digest}"

    def hold(self) -> socket.socket:
        """Become the supervisor. Raises MisconfiguredError where another one is."""
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(self._address)
        except OSError as error:
            held.close()
            raise MisconfiguredError("hsmitm runs already with this configuration; stop that one first") from error
        held.listen()
        held.setblocking(False)
        return held

    def holder(self) -> int:
        """The process id of the supervisor, 0 where there is none of our own user."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, suppress(OSError):
            asking.connect(self._address)
            pid, uid = peer(asking)
            if uid == os.geteuid():
                return pid
        return 0


async def orphaned(config: Path, leave: Callable[[], None]) -> str:
    """In a supervised child: the supervisor's first line. Then watch for its end, and `leave` when a new one comes."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    first = (await reader.readline()).decode().rstrip("\n")
    watching = asyncio.create_task(_watch(reader, Guard(config), os.getppid(), leave))
    _watchers.add(watching)
    return first


def orphans(config: Path) -> bool:
    """Whether processes of a killed supervisor of this configuration are still here, on their way out."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            argv = (process / "cmdline").read_bytes().split(b"\0")
            if process.stat().st_uid == os.geteuid() and b"--supervised" in argv and os.fsencode(config) in argv:
                return True
    return False


_watchers: set[asyncio.Task[None]] = set()


async def _watch(reader: asyncio.StreamReader, guard: Guard, supervisor: int, leave: Callable[[], None]) -> None:
    while await reader.read(1024):
        pass
    logger.warning("the supervisor is gone; serving on until 'hsmitm run' is started again")
    # A process that is killed closes its pipe to us a moment before its guard, so the old one does not count as new.
    while guard.holder() in (0, supervisor):  # noqa: ASYNC110  # another process's doing: nothing to wait on
        await asyncio.sleep(_GUARD_POLL_S)
    logger.warning("a new supervisor is there; leaving to make room")
    leave()


def tell_ready(descriptor: int | None) -> None:
    """In a child: serving has begun.

    What exists now stays: the garbage collector need not look at it again, which held up all connections for 90 ms.
    """
    gc.collect()
    gc.freeze()
    if descriptor is not None:
        os.write(descriptor, b"1")
        os.close(descriptor)
