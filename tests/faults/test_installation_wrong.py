"""What is installed is not what the configuration says: the library, its configuration file, the partition."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hsm.errors import MisconfiguredError
from hsm.member.process import MemberProcess
from hsm.member.states import State
from hsm.wire.member import Initialise, Selector
from tests.faults.rig import Rig, make_rig
from tests.hsm.members import copy_of
from tests.softhsm import MODULE, PIN, SO_PIN, Store, in_s
from tests.waiting import until

Changes = dict[str, Any]


@asynccontextmanager
async def wrong_at_start(partitions: list[Store], directory: Path, changes: Changes) -> AsyncIterator[Rig]:
    """A group whose first member is configured with `changes`."""
    settings = {"m1": changes}
    async with make_rig(directory, partitions[:2], settings=settings, all_up=False) as rig, rig.load() as load:
        yield rig
        await load.more(50)
        assert rig.signed_by("m2") >= 50
        assert rig.path("m2") == ["starting", "up"]


def module_missing(_: Store, directory: Path) -> tuple[Changes, str]:
    path = str(directory / "libvendor.so")
    return {"module": path}, f"no PKCS#11 module at {path}; give the path of the vendor's library"


def not_a_module(_: Store, directory: Path) -> tuple[Changes, str]:
    (path,) = Path("/").glob("lib/*/libc.so.6")
    return {"module": str(path)}, f"{path} is a library but not a PKCS#11 module: it has no C_GetFunctionList"


def not_a_library(_: Store, directory: Path) -> tuple[Changes, str]:
    path = directory / "libvendor.so"
    path.write_text("a page that says 404\n")
    return {"module": str(path)}, f"cannot load the PKCS#11 module {path}: "


def configuration_file_missing(_: Store, directory: Path) -> tuple[Changes, str]:
    environment = {"SOFTHSM2_CONF": str(directory / "missing.conf")}
    why = (
        f"CKR_GENERAL_ERROR (0x5) at C_Initialize of {MODULE}: SOFTHSM2_CONF names {directory / 'missing.conf'}, which"
    )
    return {"module": MODULE, "environment": environment}, why


@pytest.mark.parametrize("wrong", [module_missing, not_a_module, not_a_library, configuration_file_missing])
async def test_installation_wrong(
    partitions: list[Store], tmp_path: Path, wrong: Callable[[Store, Path], tuple[Changes, str]]
) -> None:
    """F25: A member whose library or configuration file is not there waits for an operator without a login, and says in
    one line what is missing where; the other member serves."""
    changes, why = wrong(partitions[0], tmp_path)
    async with wrong_at_start(partitions, tmp_path, changes) as rig:
        assert rig.states() == [State.QUARANTINED, State.UP]
        (told,) = rig.history.said("^member m1: starting -> quarantined: ")
        assert why in told.text
        assert "\n" not in told.text
        assert rig.logins("m1") == 0
        assert rig.starts() == [1, 1]
        with pytest.raises(MisconfiguredError, match=re.escape(why)):
            await rig.group.reset("m1")


async def with_another(store: Store, directory: Path, label: str) -> Store:
    """Another HSM, with a second partition of this label."""
    own = copy_of(store, directory)
    process = await MemberProcess.spawn(own.environment)
    try:
        await process.channel.call(Initialise(MODULE, label, SO_PIN, PIN), in_s(20))
    finally:
        await process.end()
    return own


async def test_partition_absent(partitions: list[Store], tmp_path: Path) -> None:
    """F25: A member whose library shows another partition and not its own, as that of two HSMs does when one is away at
    boot, is tried again without a login, says which there are, and is up by itself once its own appears."""
    own = await with_another(partitions[0], tmp_path / "own", "elsewhere")
    (theirs,) = (one.name for one in (partitions[0].directory / "tokens").iterdir())
    place = own.directory / "tokens" / theirs
    away = place.rename(tmp_path / "away")
    async with wrong_at_start([own, partitions[1]], tmp_path, {}) as rig:
        await until(lambda: rig.member("m1").starts > 2, "it is tried again")
        why = "no partition has label 'tests'. This module shows: 'elsewhere' (serial "
        assert why in rig.member("m1").last_error
        assert rig.logins("m1") == 0
        away.rename(place)
        await rig.until_up("m1")
        assert rig.logins("m1") == 1
        assert "quarantined" not in rig.path("m1")


async def test_two_partitions_of_one_label(partitions: list[Store], tmp_path: Path) -> None:
    """F25: Where two partitions have the configured label neither is logged in to; the message has the serial numbers,
    and with one of them in the configuration the member serves."""
    own = await with_another(partitions[0], tmp_path / "own", partitions[0].label)
    async with wrong_at_start([own, partitions[1]], tmp_path, {}) as rig:
        assert rig.states() == [State.QUARANTINED, State.UP]
        reason = rig.member("m1").reason
        one = r"'tests' \(serial (\w+), slot \d+\)"
        found = re.fullmatch(rf"2 partitions have label 'tests': {one}, {one}\. Name one by 'serial' instead", reason)
        assert found, reason
        assert len(set(found.groups())) == 2
        assert rig.logins("m1") == 0
        opened = rig.member("m2").opened
        assert opened is not None
        assert opened.partition.serial in found.groups(), "a copy of the partition has its serial number"
        settings = {"m1": {"selector": Selector(serial=opened.partition.serial)}}
    async with make_rig(tmp_path / "by-serial", [own, partitions[1]], settings=settings) as rig:
        assert rig.group.proved_by("trust") == ["m1", "m2"]


async def test_hsm_empty_at_start(partitions: list[Store], tmp_path: Path) -> None:
    """F25: A member whose module shows no partition at all, as a network HSM that cannot be reached, is tried again and
    up by itself once there is one."""
    own = copy_of(partitions[0], tmp_path / "own")
    tokens = own.directory / "tokens"
    away = tokens.rename(tmp_path / "away")
    tokens.mkdir()
    async with wrong_at_start([own, partitions[1]], tmp_path, {}) as rig:
        await until(lambda: rig.member("m1").starts > 2, "it is tried again")
        assert "shows no initialised partition; is the HSM reachable" in rig.member("m1").last_error
        assert rig.logins("m1") == 0
        tokens.rmdir()
        away.rename(tokens)
        await rig.until_up("m1")
        assert rig.logins("m1") == 1
