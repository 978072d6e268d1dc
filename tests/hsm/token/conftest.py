"""What several files of this room use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.softhsm import Store, make_store


@pytest.fixture
async def own_store(softhsm_module: str, tmp_path: Path) -> Store:
    """A partition that a test may change, with the key 'p256'."""
    return await make_store(tmp_path / "store", {"p256": "p256"})
