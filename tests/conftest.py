"""What every test may use, and two guards on the run itself.

A run of the whole suite that touched no HSM fails: a missing SoftHSM must not look like success. A run that follows one
which never reached its end says so: we load C libraries, and a crash of the test process would leave no other trace.

Under pytest-xdist the tests run in workers, each a session of its own, and a controller runs none: the workers tell it
what they touched, and it alone judges the run. A worker's crash needs no guard: xdist fails the test that it was in.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from hsm.wire.member import KeyType
from tests.softhsm import MODULE, Store, make_store

settings.register_profile("hsmitm", deadline=None)  # two busy cores are no property of the code
settings.load_profile("hsmitm")

_RUNNING = Path(__file__).parent / ".runs"
_PARTS = ("", "not alone and not modules", "alone", "modules")
"""What -m may say of a run that must touch an HSM: nothing, or one of the three parts of `./dev test`."""
_touched_hsm = False


def _is_worker(session: pytest.Session) -> bool:
    return hasattr(session.config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Leave a flag that only the end of the run removes: the number of this process, since several may run at once."""
    if _is_worker(session):
        return
    _RUNNING.mkdir(exist_ok=True)
    for flag in _RUNNING.iterdir():
        if not Path(f"/proc/{flag.name}").exists():
            print(f"\nWARNING: a run before this one did not reach its end (process {flag.name})")
            flag.unlink(missing_ok=True)
    (_RUNNING / str(os.getpid())).touch()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from an xdist worker at its end. One that has crashed says nothing."""
    global _touched_hsm  # noqa: PLW0603
    _touched_hsm |= getattr(node, "workeroutput", {}).get("touched_hsm", False)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a whole run, or one part of it, that executed no HSM test."""
    if _is_worker(session):
        session.config.workeroutput["touched_hsm"] = _touched_hsm
        return
    (_RUNNING / str(os.getpid())).unlink(missing_ok=True)
    whole = not session.config.args or session.config.args == session.config.getini("testpaths")
    selected = session.config.option.keyword or session.config.option.markexpr not in _PARTS
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
