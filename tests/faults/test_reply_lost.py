"""The HSM's reply to C_Sign is lost: its session stays in the operation for ever."""

from __future__ import annotations

from tests.faults.rig import Rig
from tests.waiting import until


async def test_reply_lost(rig: Rig) -> None:
    """F14: A session that is stuck after a lost reply is replaced before it costs a request."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_Sign rv 0x30 n=1"):
            await until(lambda: rig.hsm("m1").fired() == 1, "a reply is lost")
            stuck = rig.signed_by("m1")
            await until(lambda: rig.signed_by("m1") > stuck + 40, "the member signs with all its sessions")
        rig.member("m1").ask_for_test()
        await until(lambda: rig.replaced("m1") == 1, "the stuck session was replaced")
        await load.more(50)
    assert rig.counted("hsmitm_signature_errors_total") == 1
    assert rig.counted("hsmitm_signature_errors_total", member="m1", error="MemberLost") == 1
    assert rig.counted("hsmitm_signature_retries_total") == 1
    assert rig.path("m1", begun) == []
    assert rig.starts() == [1, 1]
    assert rig.logins("m1") == 1
    assert load.slowest_s < 0.2
