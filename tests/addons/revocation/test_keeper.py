"""addons/revocation/keeper.py: what a worker asks of the signer, and what it does without an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from addons.revocation import keeper
from addons.revocation.keeper import Keeper
from hsm.wire.client import SignerClient
from hsm.wire.worker import FindStaple, KeepStaple, StapleFound
from tests.addons.revocation.stapled import CA
from tests.hsm.staple_host import StapleHost, digest_of
from tests.waiting import until

LEAF = CA.leaf("http://ocsp.example")
SHOP = digest_of(LEAF)


async def test_found_and_kept(tmp_path: Path) -> None:
    """What one worker hands in another one finds."""
    host = StapleHost(tmp_path, LEAF)
    async with host.listening(), host.worker() as client:
        told = Keeper(client)
        told.known = True
        assert await told.find(SHOP, b"", 0) == StapleFound(b"", "yours")
        await told.keep(SHOP, b"response")
        assert await told.find(SHOP, b"", 0, fetches=False) == StapleFound(b"response", "kept")
    assert host.asked == [
        FindStaple(SHOP, b"", 0), KeepStaple(SHOP, b"response"), FindStaple(SHOP, b"", 0, fetches=False),
    ]  # fmt: skip


async def test_signer_of_before(tmp_path: Path) -> None:
    """A signer that does not know the question is not asked: it would end the connection, again and again."""
    host = StapleHost(tmp_path, LEAF)
    async with host.listening(), host.worker() as client:
        told = Keeper(client)
        assert await told.find(SHOP, b"", 0) is None
        await told.keep(SHOP, b"response")
    assert host.asked == []


async def test_signer_away(tmp_path: Path) -> None:
    """A signer that is away is not waited for."""
    host = StapleHost(tmp_path, LEAF)
    async with SignerClient(host.socket) as client:
        told = Keeper(client)
        told.known = True
        async with asyncio.timeout(1):
            assert await told.find(SHOP, b"", 0) is None
        async with host.listening():
            await until(lambda: client.connected, "a connection")
            assert await told.find(SHOP, b"", 0) is not None
        await until(lambda: not client.connected, "it is gone")
        async with asyncio.timeout(1):
            await told.keep(SHOP, b"response")
    assert len(host.asked) == 1


async def test_no_good_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer that refuses or does not answer has nothing for us, and that is no error."""
    monkeypatch.setattr(keeper, "_TIMEOUT_S", 0.2)
    host = StapleHost(tmp_path)
    async with host.listening(), host.worker() as client:
        told = Keeper(client)
        told.known = True
        assert await told.find(SHOP, b"", 0) is None
        await told.keep(SHOP, b"response")
        host.hangs = True
        assert await told.find(SHOP, b"", 0) is None
        await told.keep(SHOP, b"response")
    assert len(host.asked) == 4
