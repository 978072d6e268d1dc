"""What the status page's process may ask of the signer, and what one that is taken over cannot do to it."""

from __future__ import annotations

import asyncio
import grp
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from hsm.errors import HsmitmError, TryLaterError
from hsm.signer import monitors
from hsm.signer import status as board
from hsm.signer.settings import SignerSettings
from hsm.signer.signer import Signer
from hsm.wire import admin, client, pressure, status
from hsm.wire.channel import Channel
from hsm.wire.client import SignerClient
from hsm.wire.member import Open, Selector, Sign
from hsm.wire.run_directory import STATUS_SOCKET, RunDirectory
from hsm.wire.status import Look, Seen
from hsm.wire.worker import Authorities, Mint, Report
from tests.hsm.signers import leaf_spki, mint, serving
from tests.softhsm import PIN
from tests.waiting import until

ROOT = Path(__file__).parents[3]
NOBODY = 65534


async def _page(settings: SignerSettings) -> Channel[Look, Seen]:
    path = str(settings.run.socket(STATUS_SOCKET))
    _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: Channel(status.CODEC), path)
    return channel


async def _look(channel: Channel[Look, Seen]) -> Seen:
    return await channel.call(Look(), time.monotonic() + 5)


async def test_the_page_sees_counters_and_readiness(
    signer: Signer, worker: SignerClient, settings: SignerSettings
) -> None:
    """The page learns whether hsmitm is ready, and what all processes have counted."""
    await mint(worker)
    channel = await _page(settings)
    seen = await _look(channel)
    assert seen.unready == "no worker listens yet"
    assert ("hsmitm_mints_total", {"authority": "trust", "result": "minted"}, 1.0) in [
        sample for family in seen.families for sample in family.samples
    ]
    channel.close()


@pytest.mark.parametrize(
    "body",
    [
        admin.Status(), admin.Info(), admin.Reset(), admin.Reload(), Authorities(),
        Mint("trust", ["a.example"], leaf_spki()), Report(1, 1, 0.0, [], 0, []),
        Sign("trust", "ecdsa_secp256r1_sha256", bytes(32)), Open("module.so", Selector(label="tests"), PIN, 1, {}),
    ],
    ids=lambda body: type(body).__name__,
)  # fmt: skip
async def test_the_page_may_not_ask_for_more(signer: Signer, settings: SignerSettings, body: Any) -> None:
    """A page that is taken over resets no member, mints nothing, and reads no more than the page shows."""
    minted = signer.totals().value("hsmitm_mints_total")
    with pytest.raises(TryLaterError, match="closed the connection"):
        await client.ask(settings.run.socket(STATUS_SOCKET), status.CODEC, body, 10)
    assert signer.totals().value("hsmitm_mints_total") == minted


async def test_the_signer_is_seldom_asked(
    signer: Signer, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked, the signer makes two answers a second at most; the rest is refused at once."""
    made = 0
    totals = board.StatusBoard.totals

    def counted(self: board.StatusBoard) -> Any:
        nonlocal made
        made += 1
        return totals(self)

    monkeypatch.setattr(board.StatusBoard, "totals", counted)
    channels = [await _page(settings) for _ in range(monitors.MAX_CONNECTIONS)]
    begun, refused = time.monotonic(), 0
    for _ in range(50):
        for channel in channels:
            try:
                await _look(channel)
            except TryLaterError as error:
                assert "asked again within" in str(error)  # noqa: PT017
                refused += 1
    assert made <= 1 + (time.monotonic() - begun) / monitors.EVERY_S
    assert refused >= 150
    for channel in channels:
        channel.close()


async def test_a_crowd_makes_room(signer: Signer, settings: SignerSettings) -> None:
    """Connections beyond a few end the oldest: a page that was started again is answered whatever hangs around."""
    channels = [await _page(settings) for _ in range(200)]
    assert (await _look(channels[-1])).unready == "no worker listens yet"
    await until(lambda: sum(one.connected for one in channels) == monitors.MAX_CONNECTIONS, "the oldest are gone")
    assert channels[-1].connected
    for channel in channels:
        channel.close()


async def test_answers_that_are_not_read(
    signer: Signer, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that asks and does not read is cut off before its answers fill the signer."""
    monkeypatch.setattr(monitors, "EVERY_S", 0.0)
    monkeypatch.setattr(pressure, "UNREAD_S", 0.2)
    monkeypatch.setattr(pressure, "UNREAD_HIGH", 20_000)
    channel = await _page(settings)
    await _look(channel)
    (served,) = signer._monitors._answered
    assert channel._transport is not None
    channel._transport.pause_reading()
    calls = [asyncio.create_task(_look(channel)) for _ in range(500)]
    await until(lambda: not served.connected, "it is cut off")
    assert served._transport is None or served._transport.get_write_buffer_size() < 2_000_000
    channel.close()
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, HsmitmError | Seen)


async def test_an_answer_is_bounded(signer: Signer, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics that grew past an answer's bound are left out, and how many is told."""
    channel = await _page(settings)
    whole = await _look(channel)
    channel.close()
    monkeypatch.setattr(board, "MAX_FAMILIES", 2000)
    signer._monitors._fresh_until = 0.0
    channel = await _page(settings)
    cut = await _look(channel)
    channel.close()
    assert whole.omitted == 0
    assert 0 < len(cut.families) < len(whole.families)
    assert cut.omitted == len(whole.families) - len(cut.families)


def look_as_nobody(path: str) -> None:
    """In a child of root: become another user, and ask how things are; print what comes."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        print(type(asyncio.run(client.ask(Path(path), status.CODEC, Look(), 10))).__name__)
    except HsmitmError as error:
        print(f"{type(error).__name__}: {error}")


async def as_nobody(path: Path) -> str:
    """What another user gets at a socket."""
    run = f"import sys; from {__name__} import look_as_nobody; look_as_nobody(*sys.argv[1:])"
    argv = [sys.executable, "-c", run, str(path)]
    child = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    said, _ = await child.communicate()
    assert child.returncode == 0
    return said.decode().strip()


@pytest.fixture
def reachable() -> Iterator[RunDirectory]:
    """A run directory whose group is the other user's. pytest's own directories let nobody else in."""
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o711)
        yield RunDirectory(Path(outer) / "run", grp.getgrgid(NOBODY).gr_name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_page_of_another_user(settings: SignerSettings, reachable: RunDirectory) -> None:
    """The user whom the operator gave the page may ask how things are, and reaches neither of the other sockets."""
    own = structs.replace(settings, run=reachable, monitors=frozenset({NOBODY}))
    async with serving(own):
        assert await as_nobody(reachable.socket(STATUS_SOCKET)) == "Seen"
        assert "Permission denied" in await as_nobody(reachable.socket("admin.sock"))
        assert "Permission denied" in await as_nobody(reachable.socket("signer.sock"))
    async with serving(structs.replace(own, monitors=frozenset(), users=frozenset({NOBODY}))):
        assert "Permission denied" in await as_nobody(reachable.socket(STATUS_SOCKET))
