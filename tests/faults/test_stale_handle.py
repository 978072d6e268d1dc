"""A handle names another key than it did: the signature is sound, and by the wrong key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hsm.wire.member import KeyType
from tests.faults.rig import Rig, make_rig
from tests.hsm.members import copy_of
from tests.softhsm import make_store
from tests.waiting import until


@pytest.fixture
async def siblings(softhsm_module: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """A group on partitions with two keys of each kind."""
    keys: dict[str, KeyType] = {"trust": "rsa-2048", "trust2": "rsa-2048", "untrust": "p256", "untrust2": "p256"}
    store = await make_store(tmp_path / "1", keys)
    async with make_rig(tmp_path / "rig", [store, copy_of(store, tmp_path / "2")]) as rig:
        yield rig


async def test_stale_handle(siblings: Rig) -> None:
    """F29: A signature by another key than the one asked for never leaves, and its member starts afresh."""
    rig = siblings
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_SignInit otherkey n=1"):
            await rig.until_path("m1", ["down", "starting", "up"], begun)
            assert rig.hsm("m1").fired() == 1
        await load.more(60)
    assert rig.history.of("m1", begun)[0].reason == "member m1 returned a signature that does not verify"
    assert rig.counted("hsmitm_signature_errors_total", error="BadSignature") == 1
    assert rig.logins("m1") == 2
    assert rig.path("m2", begun) == []
    assert load.slowest_s < 0.3


async def test_initialised_behind_us(siblings: Rig) -> None:
    """F29: A module that is finalised behind a member takes all its handles with it: none is used again."""
    rig = siblings
    async with rig.load() as load:
        begun = rig.now()
        with rig.hsm("m1").fault("C_SignInit finalize n=1"):
            await until(lambda: rig.hsm("m1").fired() == 1, "the module is finalised")
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        await load.more(60)
    # SoftHSM may crash instead, where another of its threads signs at that moment.
    reason = rig.history.of("m1", begun)[0].reason
    assert "CKR_CRYPTOKI_NOT_INITIALIZED (0x190)" in reason or "killed by signal 11" in reason
    assert rig.counted("hsmitm_signature_errors_total", error="BadSignature") == 0
    assert rig.logins("m1") == 2
    assert load.slowest_s < 0.3
