"""One supervised process: start it, wait until it is ready, start it again when it ends or hangs.

What such a process does itself to be one is in `proxy.processes.supervised`: its first line of standard input may carry
what a prompt got, and it writes to a pipe when it is ready and, from its event loop, each second that it is alive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hsm.backoff import Backoff
from proxy.processes.supervised import ALIVE, EX_CONFIG, READY

if TYPE_CHECKING:
    from proxy.processes.files import Desk  # it reads the whole configuration, which the processes never do

logger = logging.getLogger("hsmitm.supervisor")

_BACKOFF, _BACKOFF_RESET_S = Backoff(0.1, 5.0), 30.0
_STARTING = 6
"""A child that is not ready yet may be silent so many times as long: it reads files, and may share few cores."""


class Child:
    """A process that is kept running."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environment: dict[str, str],
        first_line: str = "",
        hang_s: float = 0.0,
        desk: Desk | None = None,
    ) -> None:
        """`first_line` goes to the child's standard input, never to argv or environment. A child that gives no sign of
        life for `hang_s` seconds is killed; 0: never. `desk` opens files for it."""
        self.name = name
        self.ready = asyncio.Event()
        self.ended_for_good: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.process: asyncio.subprocess.Process | None = None
        self._argv = argv
        self._environment = environment
        self._first_line = first_line
        self._stopping = asyncio.Event()
        self._was_ready = False
        self._hang_s = hang_s
        self._desk = desk
        self._silent_s = -1.0
        """For how long it has given no sign of life; negative until it has given the first one."""

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
        with ExitStack() as lent:
            reading, writing = os.pipe()
            lent.callback(os.close, writing)
            os.set_blocking(reading, False)
            argv, descriptors = ["--supervised", "--ready-fd", str(writing)], [writing]
            if self._desk is not None:
                line = lent.enter_context(self._desk.line(self.name))
                argv += ["--files-fd", str(line.fileno())]
                descriptors.append(line.fileno())
            self.process = await asyncio.create_subprocess_exec(
                *self._argv, *argv,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=descriptors,
                env=self._environment,
                start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to pass on, in order
            )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self._first_line}\n".encode())
        loop = asyncio.get_running_loop()
        loop.add_reader(reading, self._hear, reading)
        try:
            if self._stopping.is_set():  # told to while it was being started
                self.process.terminate()
            return await self.process.wait()
        finally:
            self._hear(reading)  # it may have ended before the loop has looked
            loop.remove_reader(reading)
            os.close(reading)
            self.ready.clear()
            self._silent_s = -1.0

    def _hear(self, descriptor: int) -> None:
        try:
            said = os.read(descriptor, 4096)
        except BlockingIOError:
            return
        if READY in said:
            self._was_ready = True
            self.ready.set()
        if not said:  # it has closed its line: nobody can tell any more whether it hangs
            asyncio.get_running_loop().remove_reader(descriptor)
            self._silent_s = -1.0
        elif ALIVE in said:
            self._silent_s = 0.0

    def watch(self, passed_s: float) -> None:
        """Note that `passed_s` seconds have passed in which we would have heard it; kill it when that is too long."""
        process = self.process
        if not self._hang_s or self._silent_s < 0 or process is None or process.returncode is not None:
            return
        self._silent_s += passed_s
        limit_s = self._hang_s if self.ready.is_set() else self._hang_s * _STARTING
        if self._silent_s <= limit_s:
            return
        self._silent_s = 0.0
        if _traced(process.pid):
            logger.warning("%s hangs, and is left alone: a debugger looks at it", self.name)
            return
        logger.error("%s hangs: no sign of life for %g s; killing it", self.name, limit_s)
        with suppress(ProcessLookupError):
            process.kill()

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


def _traced(pid: int) -> bool:
    with suppress(OSError):
        return "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    return False
