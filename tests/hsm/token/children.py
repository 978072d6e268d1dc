"""Processes of their own, for what could crash ours: functions of test files, and members that only look."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hsm.member.process import MemberProcess
from hsm.wire.member import Open, Opened, Selector
from tests.softhsm import Store, in_s

ROOT = Path(__file__).parents[3]


def run_child(
    function: Callable[..., None],
    store: Store,
    *arguments: str,
    given: str = "",
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a function of a test file in a process of its own, with `given` as its standard input."""
    run = f"import sys; from {function.__module__} import {function.__name__}; {function.__name__}(*sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", run, *arguments],
        cwd=ROOT,
        env=os.environ | store.environment | (environment or {}),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def look(environment: dict[str, str], module: str, selector: Selector) -> Opened:
    """What a member process finds without logging in."""
    process = await MemberProcess.spawn(environment)
    try:
        opened = await process.channel.call(Open(module, selector, None, 0, {}), in_s(10))
    finally:
        await process.end()
    assert isinstance(opened, Opened)
    return opened
