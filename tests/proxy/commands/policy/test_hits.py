"""`hsmitm policy hits`: which rules are used, and which never were."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from addons.policy.hits import Hits
from addons.records.facts import Decision
from hsm.errors import TryLaterError
from hsm.wire.telemetry import collect
from proxy.commands.policy.hits import counted, lines
from proxy.config.worker import load
from tests.proxy.commands.policy.drafts import BANK, told, written


def test_unused_rules_come_first(tmp_path: Path) -> None:
    """An operator who tidies up sees first what nobody has needed, then what was needed longest ago."""
    policy = load(written(tmp_path, BANK)).policy
    registry = CollectorRegistry()
    counting = Hits(registry)
    counting.show(policy)
    for decision in (Decision("bank", "bypass"), Decision("gone", "block"), Decision("bank", "bypass")):
        counting.count(decision)
    found = counted(collect(registry), policy)
    assert [(one.rule, one.place, one.count, one.actions) for one in found.rules] == [
        ("lab", 2, 0, {}),
        ("gone", 0, 1, {"block": 1}),
        ("bank", 1, 2, {"bypass": 2}),
    ]
    assert [bool(one.last) for one in found.rules] == [False, True, True]
    first, second, third = lines(found)
    assert first.split() == ["lab", "0", "never", "unused", "rule", "2"]
    assert second.endswith("1 block  not in the file")
    assert third.endswith("2 bypass  rule 1")


def test_while_nothing_runs(tmp_path: Path) -> None:
    """Where no hsmitm runs nothing is counted, and that is what is said."""
    with pytest.raises(TryLaterError, match=r"nothing is known of hits: the signer is not there .* while hsmitm runs"):
        told("hits", "--config", str(written(tmp_path)))
