"""A network HSM that is not there when hsmitm starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.member.states import BACKOFF_MAX_S, State
from tests.faults.hsm_server import served
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone


async def test_hsm_server_absent(partitions: list[Store], tmp_path: Path) -> None:
    """F41: A network HSM that is absent at start is tried again, ever less often and without a login; its member is up
    soon after the HSM appeared, and nobody acts."""
    async with served(tmp_path, partitions[:2], absent=["m1"]) as network:
        rig = network.rig
        first = rig.member("m1")
        async with rig.load() as load:
            await until(lambda: first.starts > 4, "it is tried again and again")
            assert first.state in (State.DOWN, State.STARTING)
            assert rig.signed_by("m1") == rig.logins("m1") == 0
            network.servers["m1"].start()
            appeared = rig.now()
            await rig.until_up("m1")
            assert rig.now() - appeared < 1.2 * BACKOFF_MAX_S
            await load.more(100)
        assert rig.signed_by("m1") > 0
        assert rig.logins("m1") == 1
        assert rig.path("group")[-1] == "healthy"
