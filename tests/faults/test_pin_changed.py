"""The partition gets another PIN while a member is logged in with the old one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.errors import PinRefusedError
from hsm.member.states import State
from tests.faults.rig import make_rig, member_killed
from tests.faults.vendor_tool import change_pin
from tests.hsm.members import copy_of
from tests.softhsm import PIN, Store
from tests.waiting import until

NEW = "pin-of-next-year"


@contextmanager
def pin_changed(store: Store) -> Iterator[None]:
    """An administrator changes the PIN with the HSM's own tool, and nobody tells hsmitm."""
    change_pin(store, PIN, NEW)
    yield


async def test_pin_changed(partitions: list[Store], tmp_path: Path) -> None:
    """F22: A member whose PIN was changed serves until its next start, tries the old PIN once, and is up again after a
    reset with the new one."""
    own = copy_of(partitions[0], tmp_path / "own")
    async with make_rig(tmp_path, [own, partitions[1]]) as rig, rig.load() as load:
        begun = rig.now()
        with pin_changed(own):
            signed = rig.signed_by("m1")
            await until(lambda: rig.signed_by("m1") >= signed + 20, "it serves on")
            assert (rig.path("m1", begun), rig.logins("m1")) == ([], 1)
            with member_killed(rig, "m1"):
                await rig.until_path("m1", ["down", "starting", "quarantined"], begun)
            assert "CKR_PIN_INCORRECT (0xa0)" in rig.member("m1").reason
            assert rig.logins("m1") == 2
            await load.more(50)
            own.pin_file.write_text(f"{NEW}\n")
            assert await rig.group.reset("m1") == ["m1: it was quarantined and is up again"]
        assert rig.logins("m1") == 3
        signed = rig.signed_by("m1")
        await load.more(50)
        assert rig.signed_by("m1") > signed
        assert rig.path("group", begun) == ["last", "healthy"]


async def test_pin_changed_before_a_reset(partitions: list[Store], tmp_path: Path) -> None:
    """F22: A reset with the old PIN is refused after one login and takes nothing out of service; the next start of the
    member does not try that PIN again."""
    own = copy_of(partitions[0], tmp_path / "own")
    async with make_rig(tmp_path, [own, partitions[1]]) as rig, rig.load() as load:
        begun = rig.now()
        with pin_changed(own):
            with pytest.raises(PinRefusedError, match="CKR_PIN_INCORRECT"):
                await rig.group.reset("m1")
            assert (rig.path("m1", begun), rig.logins("m1")) == ([], 2)
            with member_killed(rig, "m1"):
                await rig.until_path("m1", ["down", "starting", "quarantined"], begun)
            assert "refused this PIN before" in rig.member("m1").reason
        await load.more(50)
        assert rig.logins("m1") == 2
        assert rig.member("m2").state is State.UP
