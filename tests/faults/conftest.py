"""What every fault test uses: partitions that are made once, and groups that are fresh for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.rig.faulty_module import build
from tests.faults.rig import Rig, make_rig
from tests.hsm.members import make_stores
from tests.softhsm import Store


@pytest.fixture(scope="session")
def partitions(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """Three HSMs with the same partition and keys (trust: RSA-2048, untrust: P-256). Only read them; copy to change."""
    build(tmp_path_factory.mktemp("faulty-module"))
    return asyncio.run(make_stores(tmp_path_factory.mktemp("partitions")))


@pytest.fixture
async def rig(partitions: list[Store], tmp_path: Path) -> AsyncIterator[Rig]:
    """A group of two UP members on HSMs that fail on command."""
    async with make_rig(tmp_path, partitions[:2]) as made:
        yield made


@pytest.fixture
async def three(partitions: list[Store], tmp_path: Path) -> AsyncIterator[Rig]:
    """The same with three members."""
    async with make_rig(tmp_path, partitions) as made:
        yield made
