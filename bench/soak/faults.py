"""The faults of a soak: what is done to one member, and how it is undone. Each is an async context manager.

Between them they cover what an HSM, its library, its partition and its operator do to a client: processes that die or
stop, calls that hang, fail, crash or lie, sessions and logins that vanish, stores that go away.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from bench.rig.system import System

Fault = Callable[[System, str], AbstractAsyncContextManager[None]]


async def _pid(system: System, member: str) -> int:
    return next(one.pid for one in (await system.status()).members if one.name == member)


@asynccontextmanager
async def process_killed(system: System, member: str) -> AsyncIterator[None]:
    """The member's process ends at once, as by the kernel's lack of memory."""
    os.kill(await _pid(system, member), signal.SIGKILL)
    yield


@asynccontextmanager
async def process_stopped(system: System, member: str) -> AsyncIterator[None]:
    """The member's process does nothing any more: every call hangs."""
    pid = await _pid(system, member)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # killed and replaced, as it should be
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def store_removed(system: System, member: str) -> AsyncIterator[None]:
    """The partition is gone, and comes back."""
    store = system.store(member)
    away = store.with_name("tokens-away")
    store.rename(away)
    try:
        yield
    finally:
        away.rename(store)


@asynccontextmanager
async def reset_by_operator(system: System, member: str) -> AsyncIterator[None]:
    """`hsmitm hsm reset`."""
    await system.reset(member)
    yield


def _rules(what: str, *lines: str) -> Fault:
    @asynccontextmanager
    async def fault(system: System, member: str) -> AsyncIterator[None]:
        with system.modules[member].fault(*lines):
            yield

    fault.__doc__ = what
    return fault


FAULTS: dict[str, Fault] = {
    "process killed": process_killed,
    "process stopped": process_stopped,
    "store removed": store_removed,
    "reset by operator": reset_by_operator,
    "every call hangs": _rules("Until the fault ends.", "* stall"),
    "one session hangs": _rules("For ever.", "C_Sign hang n=1"),
    "signing hangs": _rules("For ever, in each new process too.", "C_Sign hang"),
    "crash while signing": _rules("In each new process too.", "C_Sign crash"),
    "device error": _rules("At every call.", "* rv 0x30"),
    "device removed": _rules("At every call.", "* rv 0x32"),
    "general error": _rules("At half of the signatures.", "C_Sign rvafter 0x5 p=0.5"),
    "sessions closed": _rules("All of them, once.", "C_SignInit closeall n=1"),
    "logged out": _rules("Once.", "C_SignInit logout n=1"),
    "replies lost": _rules("Twenty signatures are made and never told of.", "C_Sign rv 0x30 n=20"),
    "brown-out": _rules("Each signature takes 200 ms more.", "C_Sign delay 200"),
}
"""By name. A signature that does not verify is not among them: the second one of a member within an hour takes it out
of service until an operator acts, and a soak must go on."""
