"""When an attack has succeeded, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from bench.edge.bystander import Wait
from bench.edge.target import Seen
from bench.edge.verdict import Verdict, Waits, figures

QUIET = Waits.of([Wait("kept", 0.0, 5.0), Wait("new", 0.0, 40.0)])
HELD = Verdict(
    name="ping", point="B.2", seen=Seen({"GOAWAY ENHANCE_YOUR_CALM": 7, "closed": 1}), before=QUIET, during=QUIET,
    growth_mb={"worker 1": 3.0, "signer": 1.0}, descriptors=2, log_lines_per_s=4.0, longest_line=200,
    metrics=["refused_total"], lines=["refused"], page=True,
)  # fmt: skip


def test_held() -> None:
    """Nothing passed, nobody waited, nothing grew: hsmitm held, and the attacker's view is told with its counts."""
    assert HELD.reasons == []
    assert HELD.shown()["held"] == "yes"
    assert HELD.sentence() == "ping (B.2): The attacker saw: GOAWAY ENHANCE_YOUR_CALM (7), closed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seen": Seen(passed=["1 byte first"])}, "passed: 1 byte first"),
        ({"seen": Seen(broke=["trailers"])}, "did not work: trailers"),
        ({"during": Waits.of([Wait("kept", 0.0, 400.0)])}, "another client waited 360 ms longer (kept)"),
        ({"during": Waits.of([Wait("new", 0.0, 1.0, "reset")])}, "1 of another client's 1 requests failed"),
        ({"growth_mb": {"signer": 65.0, "worker 1": 63.0}}, "signer +65 MB"),
        ({"log_lines_per_s": 101.0}, "101 lines of log a second"),
        ({"longest_line": 5000}, "a line of 5000 bytes"),
        ({"page": False}, "the status page did not answer"),
        ({"status": False}, "'hsmitm status' did not answer"),
        ({"ended": "worker 1 was ended at 1501 MB"}, "worker 1 was ended at 1501 MB"),
    ],
)
def test_succeeded(change: dict[str, Any], reason: str) -> None:
    """Each way in which an attack succeeds is seen by itself, and told."""
    found = structs.replace(HELD, **change)
    assert found.reasons == [reason]
    assert found.shown()["held"] == "NO"
    assert f"SUCCEEDED: {reason}. " in found.sentence()


def test_trouble() -> None:
    """A fault of the measurement is neither a success of the attack nor hsmitm's merit."""
    found = structs.replace(HELD, trouble="the attacker did not end")
    assert found.reasons == []
    assert found.shown()["held"] == "?"
    assert "TROUBLE: the attacker did not end" in found.sentence()
    assert figures([found])["failed_requests"] == 1


def test_figures() -> None:
    """The figures are the worst of all attacks, and sums of what passed and failed."""
    worse = structs.replace(
        HELD, seen=Seen(passed=["a", "b"], broke=["c"]), during=Waits.of([Wait("kept", 0.0, 540.0, "reset")]),
        growth_mb={"signer": 700.0}, log_lines_per_s=9.0, metrics=[], lines=[],
    )  # fmt: skip
    assert figures([HELD, worse]) == {
        "attacks": 2, "attacks_succeeded": 1, "uninspected": 2, "broken": 1, "bystander_added_max_ms": 500.0,
        "bystander_failed_requests": 1, "memory_growth_max_mb": 700.0, "log_lines_per_s_max": 9.0,
        "not_in_metrics": 1, "not_in_log": 1, "failed_requests": 1,
    }  # fmt: skip
