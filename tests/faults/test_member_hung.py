"""A member process stands still: it answers nothing, and its socket stays open."""

from __future__ import annotations

from hsm.member.settings import Failover
from tests.faults.rig import Rig, member_hung, until_gone
from tests.waiting import until


async def test_member_hung(rig: Rig) -> None:
    """F3: A member that hangs costs no request more than a short attempt; it is killed, and back within two seconds."""
    async with rig.load() as load:
        allowed, begun = rig.longest_s(), rig.now()
        with member_hung(rig, "m1") as process:
            await rig.until_path("m1", ["suspect", "down", "starting", "up"], begun)
            await until_gone(process, 0.5)
        await load.more(60)
    suspected, killed, _, back = rig.history.of("m1", begun)
    assert load.slowest_s < allowed
    assert "did not answer within" in suspected.reason
    assert killed.at - begun < 2.0, "an attempt, a test signature and the time of a hang: 0.5 + 0.5 + 1.0 s"
    assert killed.reason.startswith("it hangs: no answer before the deadline")
    assert back.at - killed.at < 2
    assert rig.path("m2", begun) == []
    assert rig.starts() == [2, 1]
    assert rig.logins("m1") == 2


async def test_member_hung_while_idle(rig: Rig) -> None:
    """F3: A member that hung while nobody asked is found by its own test signature, before a client meets it."""
    rig.group.failover = Failover(keep_alive_s=0.3)
    for member in rig.group.members:
        member.reconsider()
    begun = rig.now()
    with member_hung(rig, "m1"):
        await rig.until_path("m1", ["suspect", "down", "starting", "up"], begun)
    assert rig.away_s("m1", begun) < 2.5
    assert rig.counted("hsmitm_signature_errors_total", purpose="mint") == 0
    assert rig.logins("m1") == 2


async def test_member_paused(rig: Rig) -> None:
    """F3: A member that only paused is cleared by its test signature, and its process goes on."""
    async with rig.load() as load:
        allowed, begun, process = rig.longest_s(), rig.now(), rig.member("m1").pid
        with member_hung(rig, "m1"):
            await until(lambda: rig.path("m1", begun), "it is doubted")
        await rig.until_path("m1", ["suspect", "up"], begun)
        await load.more(50)
    assert load.slowest_s < allowed
    assert rig.member("m1").pid == process
    assert rig.logins("m1") == 1
