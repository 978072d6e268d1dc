"""Facts that went through a record."""

from __future__ import annotations

import datetime

import msgspec
import pytest

from addons.records import record
from addons.records.facts import Decision, Facts
from addons.records.translation import to_facts, to_record
from tests.addons.records import examples


def warned() -> Facts:
    """One that a policy in warn mode would have bypassed, hours after it began, if its SNI were not a lie."""
    facts = examples.decrypted()
    facts.sni_proved = False
    facts.at += datetime.timedelta(hours=2)
    facts.decision = Decision("bank", "bypass", "careful", "rule 'bank' says bypass", enforced=False)
    return facts


@pytest.mark.parametrize(
    "facts", [examples.bare(), examples.decrypted(), warned()], ids=["bare", "decrypted", "warned"]
)
def test_a_record_gives_its_facts_back(facts: Facts) -> None:
    """What decided on a connection can be asked again, of the log alone."""
    again = to_facts(record.read(record.line(to_record(facts, facts.began + 5, worker=2))))
    again.began_monotonic = facts.began_monotonic  # a clock that means nothing elsewhere
    assert msgspec.structs.asdict(again) == msgspec.structs.asdict(facts)
