"""One life of a member process, seen from the signer: start it, talk to it, kill it.

The member process (`hsm.token.main`) is disposable. It is started by exec, never by fork: a child forked after
C_Initialize hangs in its first signature one time in five. It inherits one socket and an environment of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from hsm.errors import MemberLostError
from hsm.member.speech import Speech
from hsm.wire.channel import Channel
from hsm.wire.member import CODEC, Reply, Request

_REAP_S = 2.0
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
"""What ends a process for a fault of its own: here of a vendor's library, since the rest is Python."""
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "LD_LIBRARY_PATH")
"""Of the signer's environment, what a vendor's library may need. Not the rest: it may hold PINs of other members."""


class MemberProcess:
    """One life of a member process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: Channel[Request, Reply],
        lost: asyncio.Event,
        speech: Speech,
    ) -> None:
        self.channel = channel
        self.lost = lost
        self._process = process
        self._speech = speech
        speech.hear(process.pid)

    @classmethod
    async def spawn(cls, environment: dict[str, str], on_lost: Callable[[], None] | None = None) -> MemberProcess:
        """Start a process that waits for `wire.Open`. `on_lost` is called once, when its socket ends."""
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()

        def note_end(_: Channel[Request, Reply]) -> None:
            lost.set()
            if on_lost is not None:
                on_lost()

        loop = asyncio.get_running_loop()
        with theirs:
            # Before the process, so that nothing is awaited between its start and the caller's holding it.
            _, channel = await loop.create_connection(lambda: Channel(CODEC, lost=note_end, cancels=False), sock=ours)
            speech, said = await Speech.open()
            try:
                process = await cls._start(theirs, said, environment)
            except BaseException:
                speech.close()
                raise
            finally:
                os.close(said)
        return cls(process, channel, lost, speech)

    @staticmethod
    async def _start(theirs: socket.socket, said: int, environment: dict[str, str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-m", "hsm.token.main", str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[theirs.fileno()],
            env={name: os.environ[name] for name in _INHERITED if name in os.environ} | environment,
            start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id, which stays when it has ended."""
        return self._process.pid

    async def call(self, request: Request, deadline: float) -> Reply:
        """As `Channel.call`; where the process ended under the request, MemberLostError says how."""
        try:
            return await self.channel.call(request, deadline)
        except MemberLostError as error:
            if self.lost.is_set():
                raise MemberLostError(f"member process {self.pid}: {await self.how_it_ended()}") from error
            raise

    async def end(self) -> None:
        """Kill the process and reap it. A member has nothing to save, and one that hangs would not listen."""
        self.channel.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        with suppress(TimeoutError):  # a driver may keep it in the kernel; nobody waits for that
            async with asyncio.timeout(_REAP_S):
                await self._process.wait()
        self._speech.close()

    async def how_it_ended(self) -> str:
        """In words, for a log line; the process must be gone or going."""
        try:
            async with asyncio.timeout(1):
                status = await self._process.wait()
        except TimeoutError:
            return "it closed its socket"
        if status >= 0:
            return f"it ended with status {status}"
        name = next((f" ({one.name})" for one in signal.Signals if one == -status), "")
        crash = ": the PKCS#11 module crashed" if -status in _CRASHES else ""
        return f"it was killed by signal {-status}{name}{crash}"
