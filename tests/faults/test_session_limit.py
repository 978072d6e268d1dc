"""The token has fewer sessions to give than were configured, or runs out of them."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from bench.rig.faulty_module import FaultyModule
from tests.faults.rig import Rig, make_rig, member_killed
from tests.softhsm import Store
from tests.waiting import until


async def sessions(rig: Rig, name: str) -> int:
    """Sessions of a member that serve, as its process says now."""
    life = rig.member(name)._life
    assert life is not None
    return (await life.vital(time.monotonic() + 1)).sessions


async def test_fewer_sessions_than_configured(partitions: list[Store], tmp_path: Path) -> None:
    """F19: A token with too few sessions serves with those that it gives, and the operator is told once."""

    def limited(hsms: dict[str, FaultyModule]) -> None:
        hsms["m1"].rules("maxsess 3")

    async with make_rig(tmp_path, partitions[:2], sessions=8, before=limited) as rig:
        async with rig.load() as load:
            await load.more(300)
        assert rig.member("m1").sessions == 2, "one of three is the anchor's"
        assert await sessions(rig, "m1") == 2
        assert rig.signed_by("m1") > 0
        (warning,) = [line for line in rig.history.said("m1.*2 of 8 sessions") if line.level == logging.WARNING]
        assert warning.text.startswith("member m1")
        assert [line for line in rig.history.said("m2.* of 8 sessions") if line.level == logging.WARNING] == []
        assert rig.path("m1") == ["starting", "up"]
        with member_killed(rig, "m1"):
            await rig.until_up("m1", starts=2)
        await _until_sessions(rig, 2)
        assert rig.logins("m1") == 2
        assert load.slowest_s < 0.3


async def test_no_session_for_the_replacement(rig: Rig) -> None:
    """F19: A lost session that the token does not replace leaves the others at work, and comes back when it can."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("maxsess 4", "C_SignInit rv 0xb3 n=1"):
            await until(lambda: rig.hsm("m1").fired(0) > 0, "a session cannot be opened again")
            assert await sessions(rig, "m1") == 3
            signed = rig.signed_by("m1")
            await until(lambda: rig.signed_by("m1") > signed + 20, "the others serve")
        await _until_sessions(rig, 4)
        await load.more(50)
    assert rig.counted("hsmitm_signature_errors_total") == 0
    assert rig.path("m1", begun) == []
    assert rig.starts() == [1, 1]
    assert load.slowest_s < 0.2


async def test_no_room_for_a_signature(rig: Rig) -> None:
    """F19: A session that the token has no room for at the moment rests, and signs again soon after."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_SignInit rv 0xb1 n=1"):
            await until(lambda: rig.hsm("m1").fired() == 1, "the token has no room")
            await _until_sessions(rig, 3)
        await _until_sessions(rig, 4)
        await load.more(50)
    assert rig.counted("hsmitm_signature_errors_total") == 0
    assert rig.path("m1", begun) == []
    assert load.slowest_s < 0.2


async def _until_sessions(rig: Rig, number: int) -> None:
    deadline = time.monotonic() + 3
    while await sessions(rig, "m1") != number:
        assert time.monotonic() < deadline, f"m1 does not come to {number} sessions"
