"""The connection to a network HSM breaks: the process that serves it is killed, or the whole server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.member.settings import Failover
from tests.faults.hsm_server import Network, served
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone


@contextmanager
def connection_lost(network: Network, name: str) -> Iterator[None]:
    """The member's connection is gone for good; a new one can be made."""
    network.servers[name].kill_remotes()
    yield


@contextmanager
def server_gone(network: Network, name: str) -> Iterator[None]:
    """Neither the old connection nor a new one works, until the server is started again."""
    network.servers[name].kill()
    yield
    network.servers[name].start()


async def test_connection_lost_while_idle(partitions: list[Store], tmp_path: Path) -> None:
    """F38: A member whose connection broke while it was idle passes its first request to its peer, and is back within a
    second in a new process: the library of the old one would fail for ever."""
    async with served(tmp_path, partitions[:2]) as network:
        rig = network.rig
        begun = rig.now()
        with connection_lost(network, "m1"):
            rig.prefer("m1")
            async with rig.load() as load:
                await rig.until_path("m1", ["suspect", "down", "starting", "up"], begun)
                signed = rig.signed_by("m1")
                await load.more(100)
        assert "CKR_DEVICE_ERROR (0x30)" in rig.history.of("m1", begun)[1].reason
        assert rig.signed_by("m1") > signed
        assert rig.away_s("m1", begun) < 1.5
        assert load.slowest_s < 0.5
        assert rig.starts() == [2, 1]
        assert rig.logins("m1") == 2


async def test_connection_lost_is_found_by_a_test_signature(partitions: list[Store], tmp_path: Path) -> None:
    """F38: A broken connection that no request meets is found by the member's own test signature."""
    async with served(tmp_path, partitions[:2], failover=Failover(keep_alive_s=0.3)) as network:
        rig = network.rig
        begun = rig.now()
        with connection_lost(network, "m1"):
            await rig.until_path("m1", ["suspect", "down", "starting", "up"], begun)
        assert rig.counted("hsmitm_signature_errors_total", purpose="mint") == 0
        assert rig.logins("m1") == 2


async def test_connection_lost_while_it_signs(partitions: list[Store], tmp_path: Path) -> None:
    """F39: A connection that breaks under a signature costs one more attempt, at the peer."""
    async with served(tmp_path, partitions[:2]) as network:
        rig = network.rig
        hsm = rig.hsm("m1")
        async with rig.load() as load:
            hsm.rules("C_Sign stall n=1")
            await until(lambda: hsm.fired() == 1, "it signs")
            begun = rig.now()
            with connection_lost(network, "m1"):
                hsm.clear()
                await rig.until_path("m1", ["suspect", "down", "starting", "up"], begun)
            signed = rig.signed_by("m1")
            await load.more(100)
        assert rig.signed_by("m1") > signed
        assert rig.away_s("m1", begun) < 1.5
        assert load.slowest_s < 0.5
        assert rig.starts() == [2, 1]
        assert rig.logins("m1") == 2
        assert rig.path("m2", begun) == []


async def test_server_gone(partitions: list[Store], tmp_path: Path) -> None:
    """F38: While a network HSM is gone its member is tried ever less often, without a login; soon after the HSM is back
    the member is, too."""
    async with served(tmp_path, partitions[:2]) as network:
        rig = network.rig
        async with rig.load() as load:
            begun = rig.now()
            with server_gone(network, "m1"):
                await until(lambda: rig.member("m1").starts > 4, "it is tried again and again")
                assert "shows no initialised partition; is the HSM reachable" in rig.member("m1").last_error
                assert rig.logins("m1") == 1
            back = rig.now()
            await rig.until_up("m1")
            assert rig.now() - back < 3
            await load.more(100)
        assert rig.logins("m1") == 2
        assert rig.path("m2", begun) == []
