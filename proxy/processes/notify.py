"""What we tell the service manager that has started us (sd_notify(3)): ready, alive, stopping.

A datagram to the socket that NOTIFY_SOCKET names; nothing where there is none. A few lines, because the library that
does it (libsystemd) is not on every machine, and the protocol is stable by promise.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

_SHARE = 3
"""Signs of life within WatchdogSec: one that is late does not end us."""


def tell(state: str) -> None:
    """Say `state`, for example "READY=1". A service manager that does not listen is no fault of ours."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
        sending.setblocking(False)
        sending.sendto(state.encode(), address)


def watchdog_s() -> float:
    """How long we may be silent (WatchdogSec), in seconds; 0 where nobody watches this process."""
    watched = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if int(watched) == os.getpid() else 0.0
    except ValueError:
        return 0.0


async def keep_alive() -> None:
    """Say from the event loop that it turns, as long as this runs. Returns at once where nobody watches."""
    allowed_s = watchdog_s()
    while allowed_s > 0:
        tell("WATCHDOG=1")
        await asyncio.sleep(allowed_s / _SHARE)
