"""CPU time and memory of processes, and the machine's CPU time, from /proc (proc(5)): what a server costs, and who else
was there. And how a process of a measurement is waited for at its end."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants, as far as they run."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


async def ended(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Wait for a process that was told to end; kill one that does not within `within_s`."""
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def cpu_s(pids: list[int]) -> dict[int, float]:
    """Seconds of CPU that each process has used, its threads included; those that are gone are left out."""
    used = {}
    for pid in pids:
        with suppress(OSError):
            # The second field is the command in parentheses, which may contain anything.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return used


def difference(before: dict[int, float], after: dict[int, float]) -> dict[int, float]:
    """Seconds of CPU used between two readings, by process. One that began in between counts from its begin."""
    return {pid: used - before.get(pid, 0.0) for pid, used in after.items()}


def children_s() -> float:
    """Seconds of CPU of this process's children that have ended and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def others_s(pids: list[int]) -> float:
    """Seconds of CPU, over all cores, that went neither to `pids` nor to this process and its children that have ended;
    what the hypervisor kept from the machine is among it. Between two readings nobody may leave `pids`."""
    return machine_s() - sum(cpu_s(pids).values()) - time.process_time() - children_s()


def machine_s() -> float:
    """Seconds of CPU that the machine has used over all cores, what the hypervisor kept from it among it."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = (int(one) for one in fields[1:9])
    return (user + nice + system + interrupts + soft + stolen) / _TICKS_PER_S


class Memory(Struct, frozen=True):
    """Kilobytes that processes occupy. `pss_kb` counts a page that several of them share once, `rss_kb` in each."""

    pss_kb: int
    rss_kb: int


def memory(pids: list[int]) -> Memory:
    """What the processes occupy together now; one that has ended occupies nothing.

    From /proc/PID/smaps_rollup, which is exact where VmRSS of the status file lags behind. It takes a user who may read
    that.
    """
    found = {"Pss": 0, "Rss": 0}
    for pid in pids:
        with suppress(ProcessLookupError, FileNotFoundError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in found:
                    found[name] += int(value.split()[0])
    return Memory(found["Pss"], found["Rss"])
