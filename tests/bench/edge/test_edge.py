"""The edge measurement as a whole, on real processes, with attacks that take a moment."""

from __future__ import annotations

import sys

import pytest

from bench.edge import edge as measuring
from bench.edge.edge import Plan, edge
from bench.edge.sites import OTHERS
from bench.edge.table import ATTACKS, found
from bench.rig import h2load
from hsm.errors import MisconfiguredError


def plan(*names: str) -> Plan:
    """Short ones."""
    return Plan(
        seconds=0.5, attacks=[found(name) for name in names], command=[sys.executable, "-P", "-m", "proxy.main"], seed=7
    )


@pytest.mark.alone
async def test_smoke(softhsm_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attack meets a running hsmitm, every variant has its outcome, and the client beside it is served: by the
    proxy on a kept connection and on new ones, for new names, and by our own site."""
    monkeypatch.setattr(measuring, "_QUIET_S", 1.0)
    monkeypatch.setattr(measuring, "NEW_HOSTS", 500)
    report = await edge(plan("nothing", "other-site", "signer-garbage"), lambda _text, _share: None)
    assert report.errors == []
    nothing, other, garbage = report.detail["attacks"]
    assert report.figures["attacks"] == 3
    assert nothing["seen"]["outcomes"] == {}
    assert nothing["seen"]["passed"] == []
    assert nothing["during"]["failed"] == 0, nothing["during"]["errors"]
    assert nothing["before"]["number"] > 30
    assert {"worker 1", "signer"} <= set(nothing["growth_mb"])
    told = {outcome.rpartition(":")[0] for outcome in other["seen"]["outcomes"]}
    assert set(OTHERS) <= told
    assert garbage["seen"]["sent_mb"] > 0, "the signer's socket was not reached"
    assert len([note for note in report.notes if "The attacker saw" in note]) == 3


async def test_programs_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server of the measurement is missing, the message says what to install."""
    monkeypatch.setattr(h2load, "PROGRAMS", ("no-such-nghttpd",))
    with pytest.raises(MisconfiguredError, match="apt-get install nghttp2-client nghttp2-server"):
        await edge(plan("nothing"), lambda _text, _share: None)


def test_the_table() -> None:
    """Every point of the edge has its attacks, and no name stands for two."""
    names = [one.name for one in ATTACKS]
    assert len(set(names)) == len(names)
    points = {point for one in ATTACKS for point in one.point.split(", ")}
    wanted = {"A.1", "A.2", "A.3", "A.4", "A.5", *(f"B.{number}" for number in range(1, 11)), "D", "E.2"}
    assert points >= wanted
