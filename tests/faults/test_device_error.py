"""The HSM fails under requests: once, for a moment, or for good."""

from __future__ import annotations

from tests.faults.rig import Rig
from tests.waiting import until

RULE = "C_SignInit rv 0x30"


async def test_one_device_error(rig: Rig) -> None:
    """F12: One failure of an HSM is made good by its peer, and changes nothing else."""
    async with rig.load() as load:
        begun = rig.now()
        tests = rig.counted("hsmitm_signatures_total", member="m1", purpose="test")
        with rig.hsm("m1").fault(f"{RULE} n=1"):
            await until(lambda: rig.hsm("m1").fired() == 1, "it fails")
            await until(
                lambda: rig.counted("hsmitm_signatures_total", member="m1", purpose="test") > tests,
                "it was asked for a test signature at once", 1,
            )  # fmt: skip
        await load.more(60)
    assert rig.path("m1", begun) == []
    assert rig.counted("hsmitm_signature_retries_total") == 1
    assert rig.starts() == [1, 1]
    assert load.slowest_s < 0.2


async def test_five_device_errors(rig: Rig) -> None:
    """F12: Five failures in a row make an HSM doubtful; one good test signature clears it, without a restart."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault(f"{RULE} n=5"):
            await until(lambda: rig.hsm("m1").fired() == 5, "it fails five times")
            await rig.until_path("m1", ["suspect", "up"], begun)
        await load.more(60)
    assert rig.path("m1", begun) == ["suspect", "up"]
    assert rig.starts() == [1, 1]
    assert [rig.logins("m1"), rig.logins("m2")] == [1, 1]
    assert load.slowest_s < 0.2


async def test_an_hsm_that_is_broken(rig: Rig) -> None:
    """F12: An HSM that fails for good is restarted, asked ever less often, and back soon after it works again."""
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault(RULE):
            await rig.until_path("m1", ["suspect", "down", "starting", "down", "starting", "down", "starting"], begun)
        healed = rig.now()
        await rig.until_up("m1")
        back = rig.now()
        await load.more(60)
    suspected, killed, *_ = rig.history.of("m1", begun)
    assert "CKR_DEVICE_ERROR (0x30) while signing" in suspected.reason
    assert killed.reason == "its test signatures fail: CKR_DEVICE_ERROR (0x30) while signing"
    assert back - healed < 1
    assert rig.logins("m1") == rig.member("m1").starts
    assert rig.path("m2", begun) == []
    assert load.slowest_s < 0.2
