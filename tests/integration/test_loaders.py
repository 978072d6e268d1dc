"""Every way into a vendor's library: each loads it in a process of its own, and initialises it once, for threads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.rig.quirks_module import QuirksModule
from tests.integration.harness import System, hsmitm
from tests.softhsm import MODULE, Store, make_store


class Watched:
    """A partition behind a module that counts how it is initialised."""

    def __init__(self, store: Store, directory: Path, *quirks: str) -> None:
        self._store = store
        self.directory = directory / "s"
        self.module = QuirksModule(directory / "quirks", *quirks)
        self._environment = store.environment | self.module.environment(MODULE)

    def run(self, *arguments: str) -> int:
        """Run a command to its end. How often the module was initialised by it."""
        before = self.module.calls("C_Initialize")
        done = hsmitm(*arguments, timeout_s=60, **self._environment)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "p11-kit" not in done.stderr
        return self.module.calls("C_Initialize") - before

    def init(self) -> int:
        """`hsmitm init` on the partition."""
        given = [item for name, value in self._environment.items() for item in ("--env", f"{name}={value}")]
        return self.run(
            "init", "--dir", str(self.directory), "--module", str(self.module.path), "--token", self._store.label,
            "--pin-file", str(self._store.pin_file), "--key-type", "p256", "--listen", "127.0.0.1:0",
            "--status-listen", "", "--yes", *given,
        )  # fmt: skip


@pytest.fixture
def partition(softhsm_module: str, tmp_path: Path) -> Store:
    """A partition with a key that nobody trusts."""
    return asyncio.run(make_store(tmp_path / "store", {"spare": "p256"}))


def test_each_loader_initialises_once(partition: Store, tmp_path: Path) -> None:
    """init, check, run, hsm reset, bench sign: one C_Initialize for each process, with locking for threads, and no
    C_Finalize."""
    watched = Watched(partition, tmp_path, "unlocked 0x5")
    toml = str(watched.directory / "hsmitm.toml")
    assert watched.init() == 1
    assert watched.run("check", "--config", toml) == 1
    bench = (
        "bench",
        "sign",
        "--key",
        "pkcs11:object=spare",
        "--seconds",
        "0.1",
        "--rounds",
        "1",
        "--sessions",
        "2",
        "--members",
        "1",
    )
    assert watched.run(*bench, "--config", toml) >= 1
    begun = watched.module.calls("C_Initialize")
    with System(watched.directory) as system:
        assert watched.module.calls("C_Initialize") == begun + 1
        assert watched.run("hsm", "reset", "--config", toml) == 1
        assert system.status().members[0].state == "up"
    assert watched.module.calls("C_Finalize") == watched.module.initialized_without_locking == 0


def test_a_module_with_another_list_for_each(partition: Store, tmp_path: Path) -> None:
    """A module that hands out a function list of its own to each who asks, as p11-kit does, is initialised its own way,
    once, and nothing is asked of a list that nobody uses."""
    watched = Watched(partition, tmp_path, "another_list", "serial")
    assert watched.init() == 1
    assert watched.run("check", "--config", str(watched.directory / "hsmitm.toml")) == 1
    assert watched.module.calls("C_Finalize") == 0
    assert watched.module.initialized_without_locking == 2
