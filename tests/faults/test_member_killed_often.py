"""A member is killed again and again for as long as the service runs."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest

from hsm.member import states
from tests.faults.rig import Rig, member_killed

pytestmark = pytest.mark.alone

KILLS = 50
RSS_GROWTH = 8 * 2**20


def resources() -> tuple[int, int]:
    """Descriptors and threads of this process, which is the signer's side."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count()


def resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_member_killed_often(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """F9: After fifty deaths of its members the service holds no more descriptors, threads, memory or sessions."""
    monkeypatch.setattr(states, "BACKOFF_MAX_S", states.BACKOFF_FIRST_S)
    async with rig.load() as load:
        begun, before, memory = rig.now(), resources(), 0
        for number in range(KILLS):
            name = f"m{1 + number % 2}"
            with member_killed(rig, name):
                await rig.until_up(name, starts=2 + number // 2)
            if number == KILLS // 5:
                memory = resident()
        assert resources() == before
        grown = resident() - memory
        await load.more(60)
    assert grown < RSS_GROWTH
    assert load.slowest_s < 1
    assert rig.starts() == [1 + KILLS // 2] * 2
    for name in rig.hsms:
        assert rig.path(name, begun) == ["down", "starting", "up"] * (KILLS // 2)
        assert rig.logins(name) == rig.member(name).starts
        life = rig.member(name)._life
        assert life is not None
        assert (await life.vital(time.monotonic() + 1)).sessions == 4
