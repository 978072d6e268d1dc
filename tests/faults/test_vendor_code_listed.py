"""A return code of the vendor's own that the operator has listed: it means on each member what stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.codes import Kind
from hsm.errors import MisconfiguredError, RefusedError
from hsm.member.settings import Failover
from hsm.member.states import State
from tests.faults.rig import make_rig
from tests.hsm.members import sign
from tests.softhsm import Store
from tests.waiting import until

CODE = 0x80000383
QUIET = Failover(keep_alive_s=60)


@pytest.mark.parametrize("rule", ["C_SignInit rv", "C_Sign rvafter"])
async def test_lost_on_one_and_unlisted_on_the_other(partitions: list[Store], tmp_path: Path, rule: str) -> None:
    """F18: The same code has one member started again, and is a peer's to judge on the member that does not list it."""
    listed = {"m1": {"codes": {CODE: Kind.PROCESS}}}
    async with make_rig(tmp_path, partitions[:2], settings=listed, failover=QUIET) as rig:
        begun = rig.now()
        with rig.hsm("m2").fault(f"{rule} {CODE:#x} n=1"):
            rig.prefer("m2")
            await sign(rig.group)
            assert rig.hsm("m2").fired() == 1
        assert rig.path("m2", begun) == []
        with rig.hsm("m1").fault(f"{rule} {CODE:#x} n=1"):
            rig.prefer("m1")
            await sign(rig.group)
            await rig.until_path("m1", ["down", "starting", "up"], begun)
        assert rig.starts() == [2, 1]
        assert rig.logins("m1") == 2


async def test_lost_and_busy(partitions: list[Store], tmp_path: Path) -> None:
    """F18: Two vendors' HSMs in one group: what is a lost connection on one is no room on the other."""
    listed = {"m1": {"codes": {CODE: Kind.PROCESS}}, "m2": {"codes": {CODE: Kind.BUSY}}}
    async with make_rig(tmp_path, partitions[:2], settings=listed, failover=QUIET) as rig:
        begun = rig.now()
        with rig.hsm("m2").fault(f"C_SignInit rv {CODE:#x} n=1"):
            rig.prefer("m2")
            await sign(rig.group)
        assert (rig.path("m2", begun), rig.replaced("m2"), rig.member("m2").resting) == ([], 0, True)
        with rig.hsm("m1").fault(f"C_SignInit rv {CODE:#x} n=1"):
            rig.prefer("m1")
            await sign(rig.group)
            await rig.until_path("m1", ["down", "starting", "up"], begun)


async def test_refused(partitions: list[Store], tmp_path: Path) -> None:
    """F18: A code that says that the request is wrong ends the request, and no peer is asked."""
    listed = {"m1": {"codes": {CODE: Kind.REQUEST}}}
    async with make_rig(tmp_path, partitions[:2], settings=listed, failover=QUIET) as rig:
        begun = rig.now()
        with rig.hsm("m1").fault(f"C_SignInit rv {CODE:#x} n=1"):
            rig.prefer("m1")
            with pytest.raises(RefusedError, match="PKCS#11 code 0x80000383 while signing"):
                await sign(rig.group)
        assert rig.counted("hsmitm_signature_retries_total") == 0
        assert rig.path("m1", begun) == []


async def test_session(partitions: list[Store], tmp_path: Path) -> None:
    """F18: A code that says that the session is gone is healed inside the member: nobody notices."""
    listed = {"m1": {"codes": {CODE: Kind.SESSION}}}
    async with make_rig(tmp_path, partitions[:2], settings=listed, failover=QUIET) as rig:
        with rig.hsm("m1").fault(f"C_SignInit rv {CODE:#x} n=1"):
            rig.prefer("m1")
            await sign(rig.group)
            assert rig.hsm("m1").fired() == 1
        assert rig.counted("hsmitm_signature_errors_total") == 0
        assert rig.signed_by("m1") == 1


async def test_device(partitions: list[Store], tmp_path: Path) -> None:
    """F18: A code that says that the HSM failed goes to a peer, and the member proves itself."""
    listed = {"m1": {"codes": {CODE: Kind.DEVICE}}}
    async with make_rig(tmp_path, partitions[:2], settings=listed, failover=QUIET) as rig:
        with rig.hsm("m1").fault(f"C_SignInit rv {CODE:#x} n=1"):
            rig.prefer("m1")
            await sign(rig.group)
        tests = "hsmitm_signatures_total"
        await until(lambda: rig.counted(tests, member="m1", purpose="test") == 1, "it signs a test")
        assert rig.replaced("m1") == 0, "the session is sound"


async def test_pin(partitions: list[Store], tmp_path: Path) -> None:
    """F18: A code that says that the PIN was refused stops the member: that PIN is never tried again."""
    listed = {"m1": {"codes": {CODE: Kind.PIN}}}
    async with make_rig(
        tmp_path, partitions[:2], settings=listed, failover=QUIET, all_up=False, state=_made(tmp_path / "state"),
        before=lambda hsms: hsms["m1"].rules(f"C_Login rv {CODE:#x}"),
    ) as rig:  # fmt: skip
        await rig.until_up("m2")
        member = rig.member("m1")
        await until(lambda: member.state is State.QUARANTINED, "the member is quarantined")
        assert "PKCS#11 code 0x80000383 while logging in" in member.reason
        assert rig.logins("m1") == 1
        for _ in range(2):
            with pytest.raises(MisconfiguredError, match="refused this PIN before"):
                await rig.group.reset("m1")
        assert rig.logins("m1") == 1


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
