"""A network HSM stops answering on connections that stand, or does not answer new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.member import starter as starter_module
from tests.faults.hsm_server import served
from tests.faults.rig import member_killed, until_gone
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone


async def test_hsm_server_hung(partitions: list[Store], tmp_path: Path) -> None:
    """F40: A network HSM that stops answering costs each request that it holds a tenth of a second; the process that
    hangs in its library is killed, and a new one gets a new connection."""
    async with served(tmp_path, partitions[:2]) as network:
        rig = network.rig
        async with rig.load() as load:
            allowed, begun, before = rig.longest_s(), rig.now(), rig.member("m1").pid
            with network.servers["m1"].remotes_stopped():
                await rig.until_path("m1", ["suspect", "down", "starting", "up"], begun)
                await until_gone(before)
            await load.more(100)
        assert load.slowest_s < allowed
        assert rig.away_s("m1", begun) < 4
        assert rig.starts() == [2, 1]
        assert rig.logins("m1") == 2
        assert rig.path("m2", begun) == []


async def test_hsm_server_accepts_no_more(
    partitions: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42: A start that hangs because the HSM answers no new connection is given up after its time and tried again,
    without a login; the member is up once the HSM answers."""
    monkeypatch.setattr(starter_module, "START_FLOOR_S", 1.0)
    async with served(tmp_path, partitions[:2]) as network:
        rig = network.rig
        first = rig.member("m1")
        async with rig.load() as load:
            first._starter._slowest_s = 0.05
            begun = rig.now()
            with network.servers["m1"].accepting_stopped():
                await load.more(50)
                assert rig.path("m1", begun) == [], "a connection that stands is served"
                with member_killed(rig, "m1"):
                    await until(lambda: first.starts > 3, "two starts were given up")
                assert rig.logins("m1") == 1
            await rig.until_up("m1")
            await load.more(100)
        assert rig.history.said("^member m1: starting -> down: it did not start within 1.0 s", begun)
        assert rig.logins("m1") == 2
        assert rig.path("m2", begun) == []
