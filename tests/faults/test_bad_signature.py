"""The HSM answers with signatures that do not verify: broken, or attacked."""

from __future__ import annotations

from hsm.member.states import State
from tests.faults.rig import Rig
from tests.waiting import until


def proved(rig: Rig, name: str) -> float:
    """Signatures of a member that no client asked for, and that verified."""
    return sum(rig.counted("hsmitm_signatures_total", member=name, purpose=purpose) for purpose in ("proof", "test"))


async def test_bad_signature(rig: Rig) -> None:
    """F30: After one bad signature a member starts afresh, and serves again once twenty good ones are verified."""
    async with rig.load() as load:
        begun, before = rig.now(), proved(rig, "m1")
        with rig.hsm("m1").fault("C_Sign corrupt n=1"):
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        assert proved(rig, "m1") - before == 20
        await load.more(60)
    assert rig.counted("hsmitm_signature_errors_total", error="BadSignature") == 1
    assert rig.logins("m1") == 2
    assert load.slowest_s < 0.3


async def test_bad_signatures(rig: Rig) -> None:
    """F30: While a fifth of an HSM's signatures is bad none is delivered; a second one in service needs an operator."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_Sign corrupt p=0.2"):
            await until(lambda: rig.path("m1", begun)[:1] == ["down"], "the first bad signature takes it out")
            await until(
                lambda: len(rig.path("m1", begun)) > 4 or rig.member("m1").state is State.QUARANTINED,
                "it starts, and does not pass its proof, or not for long",
            )
        await until(lambda: rig.path("m1", begun)[-1] in ("up", "quarantined"), "it is sound again")
        if rig.member("m1").state is State.UP:
            with rig.hsm("m1").fault("C_Sign corrupt n=1"):
                await until(lambda: rig.member("m1").state is State.QUARANTINED, "the second one quarantines it")
        told = rig.history.of("m1", begun)[-1]
        assert "does not verify" in told.reason
        assert "have the HSM examined" in told.reason
        starts = rig.member("m1").starts
        await load.more(200)
        assert rig.member("m1").state is State.QUARANTINED
        assert rig.member("m1").starts == starts, "it is not started again by itself"
        before = proved(rig, "m1")
        assert "it was quarantined and is up again" in (await rig.group.reset("m1"))[0]
        assert proved(rig, "m1") - before == 20
        signed = rig.signed_by("m1")
        await until(lambda: rig.signed_by("m1") > signed, "it serves again")
    assert rig.path("m2", begun) == []
    assert rig.logins("m1") == rig.member("m1").starts
    assert load.slowest_s < 0.3
