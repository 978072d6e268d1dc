"""Kill/restore cycles of a member: do memory, descriptors and threads of the signer stay flat?

The signer runs in this process, so that a cycle is no longer than it must be: the back-off, which would make a thousand
cycles last for hours, is taken away.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

from bench.report.percentiles import percentile
from bench.report.plot import Chart, Series
from bench.report.processes import memory
from bench.report.report import Progress, Report
from bench.rig.system import System
from hsm.errors import HsmitmError
from hsm.member import states
from hsm.member.states import State
from hsm.signer.signer import Signer

_SIGNATURES = 10
"""Requests in each cycle, while the member is away."""
_SAMPLE_EVERY = 10
_POLL_S = 0.005


async def restarts(cycles: int, seed: int, *, sessions: int, hsm_latency_ms: float, progress: Progress) -> Report:
    """Kill one of two members `cycles` times and wait until it is back; sample what this process holds."""
    logging.getLogger("hsmitm").setLevel(logging.CRITICAL)  # five lines for each cycle
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    samples: list[dict[str, int]] = []
    away_ms: list[float] = []
    errors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hsmitm-bench-") as directory, _no_backoff():
        system = System(Path(directory), 2, key_type="p256", workers=1, sessions=sessions, seed=seed)
        await system.prepare()
        for module in system.modules.values():
            module.latency(hsm_latency_ms)
        signer = Signer(system.config.signer())
        await signer.open()
        try:
            for number in range(cycles):
                if number % _SAMPLE_EVERY == 0:
                    samples.append(_held())
                    progress(f"cycle {number}", number / cycles)
                away_ms.append(1000 * await _cycle(signer, number % 2, errors))
            samples.append(_held())
        finally:
            await signer.close()
    figures: dict[str, float] = {"cycles": cycles, "failed_requests": len(errors)}
    for name in samples[0]:
        figures[f"{name}_growth"] = _growth([one[name] for one in samples])
    figures |= {"away_p50_ms": percentile(away_ms, 0.5), "away_max_ms": max(away_ms)}
    return Report(
        name="restarts",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=seed,
        configuration={"cycles": cycles, "sessions": sessions, "hsm_latency_ms": hsm_latency_ms},
        figures=figures,
        errors=errors,
        detail={"samples": samples, "away_ms": away_ms},
        charts=[
            Chart(
                title=f"{cycles} restarts of a member",
                x_label=f"cycle, in steps of {_SAMPLE_EVERY}",
                y_label="resident memory of the signer, MB",
                series=[
                    Series(
                        "signer",
                        [number * _SAMPLE_EVERY for number in range(len(samples))],
                        [one["rss_kb"] / 1024 for one in samples],
                    )
                ],
            )
        ],
    )


def _no_backoff() -> mock._patch[float]:
    return mock.patch.object(states, "BACKOFF_MAX_S", states.BACKOFF_FIRST_S)


async def _cycle(signer: Signer, which: int, errors: list[str]) -> float:
    """Seconds that the member was away."""
    group, member = signer.group, signer.group.members[which]
    began, starts = time.monotonic(), member.starts
    os.kill(member.pid, signal.SIGKILL)
    for _ in range(_SIGNATURES):
        message = os.urandom(32)
        try:
            await group.sign("trust", message, group.keys["trust"].scheme.digest(message), time.monotonic() + 5, "mint")
        except HsmitmError as error:
            errors.append(str(error))
    while member.starts == starts or member.state is not State.UP:  # noqa: ASYNC110  # another process's doing
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - began


def _held() -> dict[str, int]:
    """What this process holds now: resident memory in kB, descriptors, threads, children."""
    children = sum(len(task.read_text().split()) for task in Path("/proc/self").glob("task/*/children"))
    return {
        "rss_kb": memory([os.getpid()]).rss_kb,
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
        "children": children,
    }


def _growth(values: list[int]) -> float:
    """From the median of the second tenth (the first is warming up) to that of the last."""
    tenth = max(1, len(values) // 10)
    return statistics.median(values[-tenth:]) - statistics.median(values[tenth : 2 * tenth] or values[:1])
