"""The HSM logs a member out: by another session's logout, a timeout, an administrator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.member.settings import Failover
from tests.faults.rig import Rig, make_rig
from tests.softhsm import Store
from tests.waiting import until


@contextmanager
def logged_out(rig: Rig, name: str, when: str = "C_SignInit") -> Iterator[None]:
    """All sessions of the member's process lose the login, just before it calls the function `when`."""
    with rig.hsm(name).fault(f"{when} logout n=1"):
        yield
        assert rig.hsm(name).fired() == 1


@pytest.mark.parametrize("members", [1, 2], ids=["the only member", "one of two"])
async def test_login_lost(partitions: list[Store], tmp_path: Path, members: int) -> None:
    """F24: A member that is logged out while it signs logs in exactly once more, and no request fails, not even where
    there is no other member."""
    async with make_rig(tmp_path, partitions[:members]) as rig, rig.load() as load:
        begun = rig.now()
        with logged_out(rig, "m1"):
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        signed = rig.signed_by("m1")
        await load.more(100)
        assert rig.signed_by("m1") > signed
        assert rig.logins("m1") == 2
        assert rig.starts() == [2, 1][:members]
        assert rig.away_s("m1", begun) < 1
        assert load.slowest_s < rig.group.failover.budget_s
        (lost, *_) = rig.history.of("m1", begun)
        # A session that is signing at that moment learns it by another code.
        assert "none of its keys" in lost.reason or "CKR_USER_NOT_LOGGED_IN" in lost.reason


async def test_login_lost_while_idle(partitions: list[Store], tmp_path: Path) -> None:
    """F24: A member that is logged out while nobody asks it anything is found by its own test signature, and a client
    never meets it."""
    async with make_rig(tmp_path, partitions[:2], failover=Failover(keep_alive_s=0.3)) as rig:
        begun = rig.now()
        with logged_out(rig, "m1", when="C_GenerateRandom"):
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        async with rig.load() as load:
            await load.more(50)
        assert rig.counted("hsmitm_signature_errors_total", purpose="mint") == 0
        assert rig.logins("m1") == 2


async def test_login_lost_of_every_member(rig: Rig) -> None:
    """F24: An HSM that logs all its clients out costs each member one login and no request."""
    async with rig.load() as load:
        begun = rig.now()
        with logged_out(rig, "m1"), logged_out(rig, "m2"):
            for name in ("m1", "m2"):
                await rig.until_path(name, ["down", "starting", "up"], begun)
        await load.more(100)
    assert [rig.logins(name) for name in ("m1", "m2")] == [2, 2]
    assert rig.starts() == [2, 2]


async def test_login_lost_by_its_code(rig: Rig) -> None:
    """F24: CKR_USER_NOT_LOGGED_IN has the member start again at once, with one login."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_SignInit rv 0x101 n=1"):
            await until(lambda: rig.hsm("m1").fired() == 1, "the HSM says so")
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        await load.more(50)
    assert "CKR_USER_NOT_LOGGED_IN (0x101)" in rig.history.of("m1", begun)[0].reason
    assert rig.logins("m1") == 2
