"""The token store vanishes under a member, or is emptied, and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from hsm.member.settings import Failover
from tests.faults.rig import make_rig
from tests.hsm.members import copy_of
from tests.softhsm import Store
from tests.waiting import until


@contextmanager
def store_removed(store: Store) -> Iterator[None]:
    """Its directory is gone, as of a file system that is not mounted."""
    tokens = store.directory / "tokens"
    away = tokens.rename(store.directory / "away")
    try:
        yield
    finally:
        away.rename(tokens)


@contextmanager
def store_emptied(store: Store) -> Iterator[None]:
    """Its directory is there, with nothing in it."""
    with store_removed(store):
        tokens = store.directory / "tokens"
        tokens.mkdir()
        try:
            yield
        finally:
            tokens.rmdir()


Fault = Callable[[Store], AbstractContextManager[None]]


@pytest.mark.parametrize("fault", [store_removed, store_emptied])
async def test_store_removed(partitions: list[Store], tmp_path: Path, fault: Fault) -> None:
    """F27: A member whose store vanishes is down until the store is back, and then up without an operator; its peer
    serves meanwhile, and the PIN is tried once for the new life alone."""
    own = copy_of(partitions[0], tmp_path / "own")
    async with make_rig(tmp_path, [own, partitions[1]]) as rig, rig.load() as load:
        begun = rig.now()
        with fault(own):
            await until(lambda: rig.member("m1").starts > 3, "it is looked for again and again")
            await load.more(100)
            assert rig.logins("m1") == 1
        restored = rig.now()
        await rig.until_up("m1")
        assert rig.history.of("m1", begun)[-1].at - restored < 2
        signed = rig.signed_by("m1")
        await load.more(100)
        assert rig.signed_by("m1") > signed
        assert rig.logins("m1") == 2
        assert rig.path("m2", begun) == []
        assert rig.path("group", begun) == ["last", "healthy"]
        assert rig.path("m1", begun)[:2] == ["down", "starting"]


@pytest.mark.parametrize("fault", [store_removed, store_emptied])
async def test_store_removed_while_idle(partitions: list[Store], tmp_path: Path, fault: Fault) -> None:
    """F27: A store that vanishes while nobody asks for anything is found by the member's test signature."""
    own = copy_of(partitions[0], tmp_path / "own")
    async with make_rig(tmp_path, [own, partitions[1]], failover=Failover(keep_alive_s=0.2)) as rig:
        begun = rig.now()
        with fault(own):
            await until(lambda: "down" in rig.path("m1", begun), "it is missed")
        await rig.until_up("m1")
        async with rig.load() as load:
            await load.more(50)
        assert rig.counted("hsmitm_signature_errors_total", purpose="mint") == 0
