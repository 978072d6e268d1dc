"""A member's partition has two keys of one label, or another key under the label."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm.member.states import State
from tests.faults.rig import Rig, make_rig
from tests.faults.vendor_tool import make_key
from tests.hsm.members import copy_of, note_change, objects_of
from tests.softhsm import Store
from tests.waiting import until


def doubled(store: Store, label: str, directory: Path) -> Store:
    """Another HSM, with a second key of that label."""
    own = copy_of(store, directory)
    make_key(own, label)
    return own


def replaced(store: Store, label: str, directory: Path) -> Store:
    """Another HSM, whose key of that label is another one."""
    own = copy_of(store, directory)
    for path in objects_of(own, label):
        path.unlink()
    make_key(own, label)
    return own


@contextmanager
def key_replaced(store: Store, label: str, away: Path) -> Iterator[None]:
    """An administrator puts another key in the place of one that is in use."""
    away.mkdir()
    for path in objects_of(store, label):
        path.rename(away / path.name)
    make_key(store, label)
    note_change(store)
    yield


async def _serves_the_other_key(rig: Rig, problem: str) -> None:
    """The member does not serve `untrust`, an alarm says why, and it serves `trust`."""
    assert rig.states() == [State.UP, State.UP]
    assert rig.group.proved_by("untrust") == ["m2"]
    assert rig.group.proved_by("trust") == ["m1", "m2"]
    (alarm,) = rig.history.said("^member m1 cannot serve key 'untrust': ")
    assert alarm.level == logging.ERROR
    assert problem in alarm.text
    assert problem in rig.group.problems("untrust")["m1"]
    signed = rig.signed_by("m1")
    await until(lambda: rig.signed_by("m1") >= signed + 20, "it serves its other key")


async def test_keys_doubled(partitions: list[Store], tmp_path: Path) -> None:
    """F28: Of two keys of a partition that have the label the right one is found by what it signs, and no request gets
    a signature by the other."""
    own = doubled(partitions[0], "untrust", tmp_path / "own")
    async with make_rig(tmp_path, [own, partitions[1]]) as rig, rig.load() as load:
        assert rig.group.proved_by("untrust") == ["m1", "m2"]
        signed = rig.signed_by("m1")
        await load.more(100)
        await until(lambda: rig.signed_by("m1") > signed, "it takes its part")
        assert rig.history.said("^member m1 cannot serve key") == []


async def test_keys_differ(partitions: list[Store], tmp_path: Path) -> None:
    """F28: A partition whose key of the label is not that of the certificate is not used for it, and told as an error;
    the member serves its other key, and the peer this one."""
    own = replaced(partitions[0], "untrust", tmp_path / "own")
    async with make_rig(tmp_path, [own, partitions[1]]) as rig, rig.load():
        problem = "pkcs11:object=untrust;type=private is not the key of the certificate: their public keys differ"
        await _serves_the_other_key(rig, problem)


async def test_key_replaced_under_a_member(partitions: list[Store], tmp_path: Path) -> None:
    """F28: A key that is replaced by another of its label while a member runs signs nothing that a client gets: the
    member starts afresh and comes back without it."""
    own = copy_of(partitions[0], tmp_path / "own")
    async with make_rig(tmp_path, [own, partitions[1]]) as rig, rig.load() as load:
        begun = rig.now()
        with key_replaced(own, "untrust", tmp_path / "away"):
            await rig.until_path("m1", ["down", "starting", "up"], begun)
            await _serves_the_other_key(rig, "their public keys differ")
            await load.more(100)
        assert "returned a signature that does not verify" in rig.history.of("m1", begun)[0].reason
        assert rig.logins("m1") == 2
        assert rig.path("m2", begun) == []
