"""A key is deleted from one partition while its member runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.member import examination
from hsm.member.settings import Failover
from tests.faults.rig import make_rig
from tests.hsm.members import copy_of, note_change, objects_of
from tests.softhsm import Store
from tests.waiting import until

LOOK_S = 0.3


@contextmanager
def keys_deleted(store: Store, away: Path, *labels: str) -> Iterator[None]:
    """Both halves of the keys are gone, and come back."""
    away.mkdir()
    paths = [path for label in labels for path in objects_of(store, label)]
    moved = {path: path.rename(away / path.name) for path in paths}
    note_change(store)
    try:
        yield
    finally:
        for path, there in moved.items():
            there.rename(path)
        note_change(store)


@pytest.mark.parametrize("label", ["trust", "untrust"])
async def test_key_deleted(
    partitions: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    """F26: A member that loses one key goes on with its others, no request fails, and once the key is back the member
    serves it again: without a restart, without a login, without an operator."""
    monkeypatch.setattr(examination, "LOOK_FOR_KEYS_EVERY_S", LOOK_S)
    own, other = copy_of(partitions[0], tmp_path / "own"), {"trust": "untrust", "untrust": "trust"}[label]
    failover = Failover(keep_alive_s=0.2)
    async with make_rig(tmp_path, [own, partitions[1]], failover=failover) as rig, rig.load() as load:
        begun = rig.now()
        with keys_deleted(own, tmp_path / "away", label):
            await until(lambda: rig.group.proved_by(label) == ["m2"], "the key is missed on one member")
            signed = rig.signed_by("m1")
            await until(lambda: rig.signed_by("m1") >= signed + 20, "its other key serves")
            assert rig.group.proved_by(other) == ["m1", "m2"]
            problem = rig.group.problems(label)["m1"]
            assert problem.startswith(
                f"no private key pkcs11:object={label};type=private on partition 'tests' (serial "
            )
            looked = rig.now()
            await until(lambda: rig.now() - looked > 2 * LOOK_S, "it is looked for in vain", timeout_s=5)
            assert rig.group.proved_by(label) == ["m2"]
        await until(lambda: rig.group.proved_by(label) == ["m1", "m2"], "the key is found again")
        await load.more(100)
        lost, found = (
            rig.history.said(f"^member m1 {what} key '{label}'", begun) for what in ("cannot serve", "serves")
        )
        assert [line.level for line in lost] == [logging.ERROR]
        assert [line.level for line in found] == [logging.INFO]
        assert rig.path("m1", begun) == []
        assert rig.path("m2", begun) == []
        assert rig.starts() == [1, 1]
        assert rig.logins("m1") == 1


async def test_all_keys_deleted(partitions: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F26: A member that loses every key looks like one that lost its login: it starts again once, with one login, is
    asked for nothing while it has no key, and serves when they are back."""
    monkeypatch.setattr(examination, "LOOK_FOR_KEYS_EVERY_S", LOOK_S)
    own = copy_of(partitions[0], tmp_path / "own")
    failover = Failover(keep_alive_s=0.2)
    async with make_rig(tmp_path, [own, partitions[1]], failover=failover) as rig, rig.load() as load:
        begun = rig.now()
        with keys_deleted(own, tmp_path / "away", "trust", "untrust"):
            await rig.until_path("m1", ["down", "starting", "up"], begun)
            signed = rig.signed_by("m1")
            await load.more(100)
            assert rig.signed_by("m1") == signed
            assert rig.group.problems("trust").keys() == rig.group.problems("untrust").keys() == {"m1"}
        for label in ("trust", "untrust"):
            await until(lambda name=label: rig.group.proved_by(name) == ["m1", "m2"], "the key is found again")
        await load.more(50)
        assert rig.signed_by("m1") > signed
        assert rig.logins("m1") == rig.member("m1").starts == 2
        assert rig.path("m2", begun) == []
