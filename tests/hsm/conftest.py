"""What tests of members and signers share."""

from __future__ import annotations

import pytest

from hsm.member import MemberProcess


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments of all member processes that are started from here on: each of them can try a PIN once."""
    environments: list[dict[str, str]] = []
    spawn = MemberProcess.spawn

    async def counted(environment: dict[str, str]) -> MemberProcess:
        environments.append(environment)
        return await spawn(environment)

    monkeypatch.setattr(MemberProcess, "spawn", counted)
    return environments
