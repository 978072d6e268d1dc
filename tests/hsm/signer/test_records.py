"""The record of each leaf, and what is told of those that were refused. A real partition."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs

from hsm.errors import HsmitmError, TryLaterError
from hsm.signer.records import LOST, Records, lines_of
from hsm.signer.settings import SignerSettings
from hsm.signer.signer import Signer
from hsm.wire.client import SignerClient
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import Mint
from tests.hsm.signers import leaf_spki, mint


class Kept(Records):
    """A log that takes a record when the test lets it."""

    def __init__(self) -> None:
        self.taking = asyncio.Event()
        self.lines: list[str] = []
        self.full = False

    async def room(self, deadline: float) -> None:
        """Whether there is any, as the test says."""
        if self.full:
            raise TryLaterError(LOST)

    async def write(self, lines: Sequence[str], deadline: float) -> None:
        """Keep the lines."""
        await self.taking.wait()
        self.lines += lines


@pytest.fixture
def kept() -> Kept:
    """A log that takes nothing yet."""
    return Kept()


async def test_a_leaf_waits_for_its_record(settings: SignerSettings, kept: Kept) -> None:
    """A worker has its leaf when the record is written, not before; names, serial number and process are in it."""
    signer = Signer(settings, records=kept)
    await signer.open()
    try:
        async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
            asked = asyncio.create_task(mint(worker, "a.example", "b.example"))
            done, _ = await asyncio.wait([asked], timeout=0.5)
            assert not done
            kept.taking.set()
            await asked
            (line,) = kept.lines
            expected = rf"minted names=a.example,b.example authority=trust serial=[0-9a-f]+ worker={os.getpid()} ms=\S+"
            assert re.fullmatch(expected, line)
            kept.full = True
            before = signer.totals().value("hsmitm_signatures_total")
            with pytest.raises(TryLaterError, match="no leaf without a record"):
                await mint(worker, "c.example")
            totals = signer.totals()
            assert totals.value("hsmitm_signatures_total") == before
            assert totals.value("hsmitm_mints_total", result="TryLater") == 1
            assert totals.value("hsmitm_mints_total", result="minted") == 1
    finally:
        await signer.close()


def test_a_record_has_all_its_names() -> None:
    """A leaf of a hundred long names is several lines of a record, each a whole line of the log, and none is cut."""
    names = [f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 50}.host{number}.example" for number in range(100)]
    lines = lines_of(names, "authority=trust serial=1 worker=2 ms=1.0")
    assert max(map(len, lines)) < 4096 - 100
    assert [line.split(" ", 3)[2:] for line in lines] == [
        ["authority=trust", f"serial=1 worker=2 ms=1.0 part={at}/{len(lines)}"] for at in range(1, len(lines) + 1)
    ]
    told = [name for line in lines for name in line.split(" ")[1].removeprefix("names=").split(",")]
    assert told == names


@pytest.mark.parametrize(
    "names",
    [["a" * 300_000], ["b" * 250] * 1000, ["x y", "z\n2026-01-01 INFO minted names=bank.example"], ["é" * 100_000], []],
    ids=["long", "many", "forged", "wide", "none"],
)
async def test_a_refusal_is_short(
    signer: Signer, worker: SignerClient, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a worker asks for, the line that says no is short, and says how many names there were."""
    with pytest.raises(HsmitmError):
        await worker.call(Mint("trust", names, leaf_spki()), 10)
    (line,) = [one for one in caplog.messages if one.startswith("not minted")]
    assert len(line) < 1000
    if len(names) > 5:
        assert f"and {len(names) - 5} more" in line


async def test_refusals_of_one_worker_are_a_kind(
    signer: Signer, worker: SignerClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals are limited for each worker apart: one that is taken over hides no other's."""
    for number in range(3):
        with pytest.raises(HsmitmError):
            await mint(worker, f"not a name {number}")
    found = {getattr(one, "log_class", None) for one in caplog.records if "not minted" in one.getMessage()}
    assert found == {f"not minted for {os.getpid()}"}


async def test_nothing_changes_where_nobody_gives_records(
    settings: SignerSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A signer in another's process writes its records to the log that it finds."""
    caplog.set_level("INFO", "hsmitm.signer")
    signer = Signer(structs.replace(settings, state=tmp_path / "other"))
    await signer.open()
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        await mint(worker, "a.example")
    await signer.close()
    assert [one for one in caplog.messages if one.startswith("minted names=a.example authority=trust serial=")]
