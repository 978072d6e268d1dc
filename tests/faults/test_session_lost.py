"""A member's session, or an object of it, is not valid any more."""

from __future__ import annotations

import pytest

from hsm import codes
from tests.faults.rig import Rig
from tests.waiting import until

LOST = {"C_SignInit rv": (0xB3, 0xB0, 0x90, 0x82, 0x60), "C_Sign rvafter": (0xB3, 0xB0, 0x91, 0x82, 0x60)}


def open_sessions(rig: Rig, name: str) -> int:
    """Sessions that a member's first process has open at its HSM."""
    return rig.hsm(name).calls("C_OpenSession") - rig.hsm(name).calls("C_CloseSession")


@pytest.mark.parametrize("rule", LOST)
async def test_session_lost(rig: Rig, rule: str) -> None:
    """F13: A member replaces a lost session by itself: nobody else is asked, and no session is leaked."""
    before = open_sessions(rig, "m1")
    async with rig.load() as load:
        begun = rig.now()
        for code in LOST[rule]:
            with rig.hsm("m1").fault(f"{rule} 0x{code:x} n=1"):
                await until(lambda: rig.hsm("m1").fired() == 1, f"{codes.name(code)} came")
            # two losses in one request would be one too many for its member
            await until(lambda: rig.member("m1").in_flight == 0, "the request that met it is answered")
        await load.more(60)
    assert rig.counted("hsmitm_signature_errors_total") == 0
    assert rig.counted("hsmitm_signature_retries_total") == 0
    assert rig.path("m1", begun) == []
    assert open_sessions(rig, "m1") == before == 5
    rig.member("m1").ask_for_test()
    await until(lambda: rig.replaced("m1") == len(LOST[rule]), "the replaced sessions are counted")
    assert rig.logins("m1") == 1
    assert load.slowest_s < 0.2


async def test_a_burst_of_lost_sessions(rig: Rig) -> None:
    """F13: Ten losses in a row cost no request and no restart; a peer signs while the member finds its feet."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_SignInit rv 0xb3 n=10"):
            await until(lambda: rig.hsm("m1").fired() == 10, "all were met")
        await rig.until_up("m1")
        await load.more(60)
    assert rig.path("m1", begun) in ([], ["suspect", "up"])
    assert rig.starts() == [1, 1]
    assert [rig.logins("m1"), rig.logins("m2")] == [1, 1]
    assert load.slowest_s < 0.2


async def test_all_sessions_closed(rig: Rig) -> None:
    """F13: When somebody closes all sessions of a member, and so logs it out, one new login brings it back."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_SignInit closeall n=1"):
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        await load.more(60)
    assert rig.logins("m1") == 2
    assert rig.path("m2", begun) == []
    assert rig.away_s("m1", begun) < 1
    assert load.slowest_s < 0.3
