"""One session of a member hangs in a call; its other sessions are well."""

from __future__ import annotations

import time
from pathlib import Path

from hsm.member.settings import Failover
from tests.faults.rig import Rig, make_rig, until_gone
from tests.softhsm import Store
from tests.waiting import until

KEEP_ALIVE_S = 1.0


async def test_session_hung(partitions: list[Store], tmp_path: Path) -> None:
    """F4: While one session of a member hangs, its others go on signing until a new process has taken its place."""
    async with make_rig(tmp_path, partitions[:2], failover=Failover(keep_alive_s=KEEP_ALIVE_S)) as rig:
        first = rig.member("m1")
        async with rig.load() as load:
            allowed, begun, before = rig.longest_s(), rig.now(), first.pid
            with rig.hsm("m1").fault("C_Sign hang n=1"):
                await until(lambda: rig.hsm("m1").fired() == 1, "a session hangs")
                await rig.until_path("m1", ["suspect", "up"], begun)
                # Asked directly: of the load, the peer may get nearly all, for it has been the quicker one.
                for _ in range(20):
                    await first.sign(rig.group.keys["trust"].challenge(), time.monotonic() + 1, "mint", 0.5)
                assert first.pid == before
                await until(lambda: first.pid not in (0, before), "its process is replaced")
                await until_gone(before)
            replaced = rig.now()
            signed = rig.signed_by("m1")
            await load.more(60)
        assert load.slowest_s < allowed
        assert replaced - begun < 1.0 + 2 * KEEP_ALIVE_S + 1.0, "the time of a hang, the next look, and a start"
        _the_member_never_left(rig, begun)
        assert rig.signed_by("m1") > signed
        assert rig.starts() == [2, 1]
        assert rig.logins("m1") == 2


def _the_member_never_left(rig: Rig, since: float) -> None:
    assert rig.path("m1", since) == ["suspect", "up"]
    assert rig.path("m2", since) == []
    (told,) = rig.history.said("m1: a session has not answered for .* s; replacing its process", since)
    assert told.at > since + 1.0
