"""Which connections there is a record of."""

from __future__ import annotations

import pytest

from addons.records import record
from addons.records.decryption_log import DecryptionLog
from addons.records.facts import Decision, Event
from tests.addons.records import examples


@pytest.mark.parametrize(
    ("log", "events"),
    [
        ("all", {"decrypted", "bypassed", "blocked", "failed", "plain", "passed"}),
        ("failures", {"blocked", "failed"}),
        ("none", set()),
    ],
)
def test_a_rule_says_what_is_recorded(log: str, events: set[Event]) -> None:
    """`log = "failures"` of a rule leaves out what went well, "none" all; what is left out is counted."""
    lines: list[bytes] = []
    told = DecryptionLog(lines.append, 4)
    for event in ("decrypted", "bypassed", "blocked", "failed", "plain", "passed"):
        facts = examples.decrypted()
        facts.event = event
        facts.decision = Decision("a-rule", "decrypt", log=log)
        told.ended(facts)
    made = [record.read(line) for line in lines]
    assert {one.event.action for one in made} == events
    assert {one.hsmitm.worker for one in made} <= {4}
    assert told.withheld == 6 - len(events)


def test_a_connection_without_a_decision_is_recorded() -> None:
    """One that ended before anything could be decided."""
    lines: list[bytes] = []
    DecryptionLog(lines.append, 1).ended(examples.bare())
    assert len(lines) == 1
