"""The signer's handle on a member: start its process, send it calls, kill it when it hangs, start it again.

The member process (`hsm.member_process`) is disposable. It is started by exec, never by fork: a child forked after
C_Initialize hangs in its first signature one time in five. It inherits one socket and an environment of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from hsm import lifecycle, pin, wire
from hsm.channel import Channel
from hsm.errors import DeadlineError, HsmitmError, MemberLostError, PinRefusedError
from hsm.lifecycle import Event, State
from hsm.uri import KeyURI

logger = logging.getLogger("hsmitm.member")

START_TIMEOUT_S = 30.0
"""From exec to a logged-in member with its keys found. A network HSM's client may take 20 s to set up its TLS."""
HANG_S = 2.0
"""A member that owes an answer past its deadline and has answered nothing for this long is killed."""
LOSSES_IN_A_ROW = 5
"""Answers in a row that say that the HSM failed, until the process starts afresh: a lost login or a vanished store is
cured so. Fewer are a single lost session or a moment's throttling, which heal by themselves."""
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "LD_LIBRARY_PATH")
"""Of the signer's environment, what a vendor's library may need. Not the rest: it may hold PINs of other members."""


class MemberSettings(Struct, frozen=True, kw_only=True):
    """One partition as the configuration names it. `base` is the directory that relative paths start from."""

    name: str
    module: str
    selector: wire.Selector
    pin: pin.PinSource
    sessions: int
    environment: dict[str, str] = field(default_factory=dict)
    base: Path = field(default_factory=Path)


class MemberProcess:
    """One life of a member process."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel, lost: asyncio.Event) -> None:
        self.channel = channel
        self.lost = lost
        self._process = process

    @classmethod
    async def spawn(cls, environment: dict[str, str]) -> MemberProcess:
        """Start a process that waits for `wire.Open`."""
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()
        loop = asyncio.get_running_loop()
        with theirs:
            # Before the process, so that nothing is awaited between its start and the caller's holding it.
            _, channel = await loop.create_connection(lambda: Channel(lost=lambda _: lost.set()), sock=ours)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-m", "hsm.member_process", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={name: os.environ[name] for name in _INHERITED if name in os.environ} | environment,
                start_new_session=True,
            )  # fmt: skip
        return cls(process, channel, lost)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def end(self) -> None:
        """Kill the process and reap it. A member has nothing to save, and one that hangs would not listen."""
        self.channel.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def how_it_ended(self) -> str:
        """In words, for a log line; the process must be gone or going."""
        try:
            async with asyncio.timeout(1):
                status = await self._process.wait()
        except TimeoutError:
            return "it closed its socket"
        return f"it was killed by signal {-status}" if status < 0 else f"it ended with status {status}"


Prove = Callable[["Member", wire.Opened], Awaitable[None]]


class Member:
    """A member over all lives of its process. `run` is its life; `sign` is what others want of it."""

    def __init__(
        self,
        settings: MemberSettings,
        keys: dict[str, KeyURI],
        refusals: pin.Refusals,
        prove: Prove,
        prompted: str | None = None,
    ) -> None:
        """`prove` is called with what a new process found, before the member is up; its error keeps the member down."""
        self.settings = settings
        self.state = State.STOPPED
        self.since = time.time()
        self.reason = "not started"
        self.opened: wire.Opened | None = None
        self.starts = 0
        self.transitions: dict[State, int] = dict.fromkeys(State, 0)
        self.settled = asyncio.Event()
        self._keys = keys
        self._refusals = refusals
        self._prove = prove
        self._prompted = prompted
        self._process: MemberProcess | None = None
        self._was_up = False
        self._losses = 0

    @property
    def name(self) -> str:
        """The member's name in the configuration."""
        return self.settings.name

    @property
    def serving(self) -> bool:
        """Whether a request may be sent: up, and its process not known to be gone."""
        return self.state is State.UP and self._process is not None and not self._process.lost.is_set()

    @property
    def in_flight(self) -> int:
        """Requests sent to the member and not answered."""
        return self._process.channel.in_flight if self._process else 0

    @property
    def sessions(self) -> int:
        """Sessions of the running process."""
        return self.opened.sessions if self.opened and self.state is State.UP else 0

    async def run(self) -> None:
        """Start, wait for the end, back off, start again; until cancelled or quarantined."""
        failures = 0
        self.state = State.DOWN
        try:
            while True:
                self._move(Event.AGAIN, f"start {self.starts + 1}")
                up_at = time.monotonic()
                try:
                    process = await self._start()
                except (HsmitmError, OSError) as error:
                    event = lifecycle.event_for(error, was_up=self._was_up)
                    self._move(event, str(error))
                    if event is Event.REFUSED:
                        return
                except Exception as error:  # a bug of ours must not leave the signer waiting for this member for ever
                    logger.exception("starting member %s failed", self.name)
                    self._move(Event.LOST, f"internal error: {error}")
                else:
                    up_at = time.monotonic()
                    await process.lost.wait()
                    self._move(Event.LOST, f"member process {process.pid}: {await process.how_it_ended()}")
                await self._discard()
                failures = 1 if time.monotonic() - up_at > lifecycle.BACKOFF_RESET_S else failures + 1
                await asyncio.sleep(lifecycle.backoff_s(failures, random.random()))  # noqa: S311  # jitter, no secret
        finally:
            await self._discard()

    async def _start(self) -> MemberProcess:
        self.starts += 1
        secret = await pin.read(self.settings.pin, self.settings.base, self._prompted)
        self._refusals.check(self.name, secret)
        process = self._process = await MemberProcess.spawn(self.settings.environment)
        opening = wire.Open(self.settings.module, self.settings.selector, secret, self.settings.sessions, self._keys)
        try:
            reply = await process.channel.call(opening, time.monotonic() + START_TIMEOUT_S)
        except PinRefusedError as error:
            try:
                self._refusals.remember(self.name, secret)
            except OSError as failure:  # still a refused PIN: a lost start would be tried again, and lock the partition
                raise PinRefusedError(f"{error}; it cannot be noted for the next start: {failure}") from error
            raise
        except MemberLostError as error:
            if process.lost.is_set():
                raise MemberLostError(f"at start {await process.how_it_ended()}") from error
            raise
        assert isinstance(reply, wire.Opened)
        self._refusals.forget(self.name)
        self.opened = reply
        await self._prove(self, reply)
        self._was_up = True
        self._losses = 0
        self._move(Event.OPENED, f"process {process.pid}, partition {reply.partition}, {reply.sessions} sessions")
        return process

    async def sign(self, request: wire.Sign, deadline: float) -> wire.Signature:
        """A signature from one of the member's sessions, unverified. Raises what `Channel.call` raises."""
        process = self._process
        if process is None:
            raise MemberLostError(f"member {self.name} is {self.state}")
        try:
            reply = await process.channel.call(request, deadline)
        except DeadlineError:
            if process.channel.silent_s > HANG_S and process is self._process:
                logger.warning("member %s has answered nothing for %.1f s; killing it", self.name, HANG_S)
                await process.end()
            raise
        except MemberLostError:
            self._losses += 1
            if self._losses >= LOSSES_IN_A_ROW and process is self._process and not process.lost.is_set():
                logger.warning("member %s failed %d requests in a row; restarting it", self.name, self._losses)
                await process.end()
            raise
        self._losses = 0
        assert isinstance(reply, wire.Signature)
        return reply

    async def restart(self) -> None:
        """Kill the process; `run` starts another."""
        if self._process is not None:
            await self._process.end()

    async def stop(self) -> None:
        """End the process for good. The task of `run` is the caller's to cancel first."""
        if self.state is not State.STOPPED:
            self._move(Event.STOP, "stopped")
        await self._discard()

    async def _discard(self) -> None:
        process = self._process
        if process is not None:
            await process.end()  # cancelled here, it is left to `stop`
            if self._process is process:
                self._process = None

    def _move(self, event: Event, reason: str) -> None:
        before = self.state
        self.state = lifecycle.following(before, event)
        self.since = time.time()
        self.reason = reason
        self.transitions[self.state] += 1
        quiet = self.state in (State.STARTING, State.UP, State.STOPPED)
        level = logging.INFO if quiet else logging.WARNING
        logger.log(level, "member %s: %s -> %s: %s", self.name, before, self.state, reason)
        if self.state is not State.STARTING:
            self.settled.set()
