"""The PIN in the configuration is not the partition's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.errors import MisconfiguredError
from hsm.member.states import State
from tests.faults.rig import make_rig
from tests.hsm.members import copy_of
from tests.softhsm import PIN, Store

STARTS = 6


@contextmanager
def wrong_pin(store: Store) -> Iterator[None]:
    """The member's file has another PIN than the partition."""
    store.pin_file.write_text("a-wrong-pin\n")
    try:
        yield
    finally:
        store.pin_file.write_text(f"{PIN}\n")


async def test_pin_wrong(partitions: list[Store], tmp_path: Path) -> None:
    """F21: A member with a wrong PIN is quarantined after one login, and it stays that one login over five restarts of
    the signer; its peer serves."""
    own, logins = copy_of(partitions[0], tmp_path / "own"), []
    with wrong_pin(own):
        for number in range(STARTS):
            directory, state = tmp_path / str(number), tmp_path / "state"
            async with make_rig(directory, [own, partitions[1]], state=state, all_up=False) as rig:
                assert rig.states() == [State.QUARANTINED, State.UP]
                assert rig.starts() == [1, 1]
                logins.append(rig.logins("m1"))
                (told,) = rig.history.said("member m1: starting -> quarantined: ")
                assert told.level == logging.WARNING
                why = "refused this PIN before; it is not tried again" if number else r"CKR_PIN_INCORRECT \(0xa0\)"
                assert rig.history.said(f"quarantined: .*{why}")
                with pytest.raises(MisconfiguredError, match="refused this PIN before"):
                    await rig.group.reset("m1")
                assert not rig.history.said("wrong-pin"), "no PIN is logged"
                if number in (0, STARTS - 1):
                    async with rig.load() as load:
                        await load.more(50)
                assert rig.path("group") == ["last"]
    assert logins == [1] + [0] * (STARTS - 1)


async def test_pin_corrected(partitions: list[Store], tmp_path: Path) -> None:
    """F21: Once the file has the right PIN, a reset brings the quarantined member into service, with one login."""
    own = copy_of(partitions[0], tmp_path / "own")
    with wrong_pin(own):
        async with make_rig(tmp_path, [own, partitions[1]], all_up=False) as rig, rig.load() as load:
            own.pin_file.write_text(f"{PIN}\n")
            assert await rig.group.reset("m1") == ["m1: it was quarantined and is up again"]
            await load.more(50)
            assert rig.signed_by("m1") > 0
            assert rig.logins("m1") == 2
            assert rig.path("group") == ["last", "healthy"]
