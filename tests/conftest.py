"""What every test may use, and two guards on the run itself.

A run of the whole suite that touched no HSM fails: a missing SoftHSM must not look like success. A run that follows one
which never reached its end says so: we load C libraries, and a crash of the test process would leave no other trace.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import settings

from hsm.wire.member import KeyType
from tests.softhsm import MODULE, Store, make_store

settings.register_profile("hsmitm", deadline=None)  # two busy cores are no property of the code
settings.load_profile("hsmitm")

_RUNNING = Path(__file__).parent / ".running"
_touched_hsm = False


def pytest_sessionstart(session: pytest.Session) -> None:
    """Leave a flag that only the end of the run removes."""
    if _RUNNING.exists() and not Path(f"/proc/{_RUNNING.read_text()}").exists():
        print(f"\nWARNING: the run before this one did not reach its end (process {_RUNNING.read_text()})")
    _RUNNING.write_text(str(os.getpid()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a whole run that executed no HSM test."""
    _RUNNING.unlink(missing_ok=True)
    whole = not session.config.args or session.config.args == session.config.getini("testpaths")
    selected = session.config.getoption("keyword") or session.config.getoption("markexpr")
    if whole and not selected and not session.config.option.collectonly and exitstatus == 0 and not _touched_hsm:
        print("\nERROR: no test used a partition")
        session.exitstatus = 1


@pytest.fixture(scope="session")
def softhsm_module() -> str:
    """The path of SoftHSM's library. Its absence is a failure, not a skip."""
    global _touched_hsm  # noqa: PLW0603
    assert MODULE, "SoftHSM is not installed: run ./dev setup"
    _touched_hsm = True
    return MODULE


@pytest.fixture(scope="session")
def store(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One partition with a key of each kind, for tests that only read it. Keys: rsa, p256, p384."""
    keys: dict[str, KeyType] = {"rsa": "rsa-2048", "p256": "p256", "p384": "p384"}
    return asyncio.run(make_store(tmp_path_factory.mktemp("store"), keys))
