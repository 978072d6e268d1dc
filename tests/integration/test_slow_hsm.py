"""A card that makes one signature at a time, 140 ms each: what `init` writes for it, what `check` says, and a run."""

from __future__ import annotations

import asyncio
import re

import pytest

from bench.rig.faulty_module import FaultyModule
from proxy.config.file import load
from proxy.demo.origin import OriginCA
from tests.integration.ha_system import Visits
from tests.integration.harness import OriginThread, System, hsmitm
from tests.softhsm import MODULE, Store, make_store

pytestmark = pytest.mark.alone

CARD = "C_Sign serial 140"


@pytest.fixture(scope="module")
def card(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, FaultyModule]:
    """The partition of an empty card."""
    directory = tmp_path_factory.mktemp("card")
    module = FaultyModule(directory / "faults")
    module.rules(CARD)
    return asyncio.run(make_store(directory / "store", {}, label="card")), module


@pytest.fixture(scope="module")
def system(card: tuple[Store, FaultyModule], origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> System:
    """What `init` makes on the card; not started."""
    store, module = card
    directory = tmp_path_factory.mktemp("system")
    environment = store.environment | module.environment(MODULE)
    done = hsmitm(
        "init", "--dir", str(directory), "--module", str(module.path), "--token", store.label, "--yes",
        "--pin-file", str(store.pin_file), "--listen", "127.0.0.1:0", "--status-listen", "",
        *(word for name, value in environment.items() for word in ("--env", f"{name}={value}")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"a signature takes 1[4-9]\d ms alone; 8 at once take .*: it signs one at a time", done.stdout)
    made = System(directory)
    (directory / "origin-ca.pem").write_text(origin_ca.pem)
    made.edit(
        workers="1", upstream_ca='"origin-ca.pem"', allow_destinations='["127.0.0.0/8"]',
        worker_environment='["LD_PRELOAD"]',
    )  # fmt: skip
    return made


def test_init_writes_what_fits(system: System) -> None:
    """The configuration of a card has two sessions, and time for a line of requests."""
    file = load(system.toml).file
    assert file.hsm.members[0].sessions == 2
    assert file.hsm.request_budget_ms >= 3500


def test_check_measures(system: System) -> None:
    """An operator reads what a signature takes and how many are made at a time; what cannot work is wrong, what is
    tight is a warning, each with what to set."""
    done = hsmitm("check", "--config", str(system.toml))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^ok +member hsm1: a signature takes 1\d\d ms alone; .* one at a time", done.stdout, re.MULTILINE)
    assert "WARN   member" not in done.stdout
    text = system.toml.read_text().replace("connect_timeout_s = 10.0", "connect_timeout_s = 20.0")
    tight = system.directory / "tight.toml"
    tight.write_text(
        text.replace("sessions = 2", "sessions = 8").replace("\nmint_timeout_s = 5.0", "\nmint_timeout_s = 1")
    )
    said = hsmitm("check", "--config", str(tight)).stdout
    assert "more sessions than 2 are of no use to it" in said
    assert re.search(r"^WARN +member hsm1: 8 new names at once take .* s, .*set proxy.mint_timeout_s = ", said, re.M)
    assert re.search(r"^WARN +hsm.request_budget_ms: \d+ is longer than a client waits", said, re.M)
    assert re.search(r"^WARN +proxy.client_handshake_timeout_s: 30 is shorter than what", said, re.M)
    tight.write_text(text.replace("\nmint_timeout_s = 5.0", "\nmint_timeout_s = 0.1"))
    done = hsmitm("check", "--config", str(tight))
    assert done.returncode != 0
    assert re.search(r"^WRONG +member hsm1: a signature takes .* s, .*set proxy.mint_timeout_s = ", done.stdout, re.M)


def test_every_new_host_is_served(system: System, origin: OriginThread) -> None:
    """Eight clients with new hosts on a card, each after its turn: 24 of 24 connections are served, and the card is
    neither doubted nor started again."""
    with system:
        with Visits(system, origin.port, clients=8) as visits:
            visits.more(24)
        assert visits.failed == []
        (member,) = system.status().members
        assert (member.state, member.starts) == ("up", 1)
        assert " suspect: " not in system.log
        said = hsmitm("check", "--config", str(system.toml)).stdout
        assert "is not measured while hsmitm uses it" in said
