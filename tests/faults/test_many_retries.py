"""`auto_recovery_retry`, from none to the most there may be, at a member that hangs or fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.member.settings import Failover
from tests.faults.rig import make_rig, member_hung
from tests.softhsm import Store

RETRIES = (0, 3, 500)


@pytest.mark.parametrize("retries", RETRIES)
async def test_retries_at_a_hung_member(partitions: list[Store], tmp_path: Path, retries: int) -> None:
    """F37: However many retries are configured, a member that hangs costs a request the time of one attempt."""
    async with make_rig(tmp_path, partitions[:2], failover=Failover(auto_recovery_retry=retries)) as rig:
        async with rig.load() as load:
            allowed, begun = rig.longest_s(), rig.now()
            with member_hung(rig, "m1"):
                await rig.until_path("m1", ["suspect", "down", "starting", "up"], begun)
            await load.more(50)
        assert load.slowest_s < allowed
        assert rig.counted("hsmitm_signature_retries_total", step="same member") == 0, "there was no time left"
        assert rig.logins("m1") == 2


@pytest.mark.parametrize("retries", RETRIES)
async def test_retries_at_a_failing_member(partitions: list[Store], tmp_path: Path, retries: int) -> None:
    """F37: Retries at a member that fails are made, and end with the time of one attempt: then its peer signs."""
    async with make_rig(tmp_path, partitions[:2], failover=Failover(auto_recovery_retry=retries)) as rig:
        async with rig.load() as load:
            allowed, begun = rig.longest_s(), rig.now()
            with rig.hsm("m1").fault("C_SignInit rv 0x30"):
                await load.more(200)
            await rig.until_up("m1")
            await load.more(50)
        assert load.slowest_s < allowed
        again = rig.counted("hsmitm_signature_retries_total", step="same member")
        assert (again > 0) == (retries > 0)
        assert rig.counted("hsmitm_signature_retries_total", step="next member") > 0
        assert rig.path("m2", begun) == []
