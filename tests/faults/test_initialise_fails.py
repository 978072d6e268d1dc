"""The library cannot reach its HSM when it is initialised: the machine is up before its network is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.rig import make_rig
from tests.softhsm import Store
from tests.waiting import until


@pytest.mark.parametrize("code", [0x05, 0x06, 0x30, 0x80000001])
async def test_initialise_fails(partitions: list[Store], tmp_path: Path, code: int) -> None:
    """F41: A member whose library fails in C_Initialize at its first start, as one does that cannot reach its HSM, is
    tried again without a login, and up by itself once the HSM is there."""
    rule = f"C_Initialize rv {code:#x}"
    async with make_rig(
        tmp_path, partitions[:2], before=lambda hsms: hsms["m1"].rules(rule), all_up=False
    ) as rig, rig.load() as load:  # fmt: skip
        await until(lambda: rig.member("m1").starts > 2, "it is tried again")
        assert f"0x{code:x}" in rig.member("m1").last_error
        assert rig.logins("m1") == 0
        rig.hsm("m1").clear()
        await rig.until_up("m1")
        await load.more(50)
        assert rig.logins("m1") == 1
        assert rig.path("m2") == ["starting", "up"]
