"""What tests of the bench's servers and clients share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.rig.plain_origin import PlainOrigin
from tests.bench.front import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Nothing runs but the origin."""
    async with PlainOrigin() as origin:
        yield Rig(tmp_path, origin)
