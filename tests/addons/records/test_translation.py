"""Facts that went through a record."""

from __future__ import annotations

import msgspec
import pytest

from addons.records import record
from addons.records.facts import Facts
from addons.records.translation import to_facts, to_record
from tests.addons.records import examples


@pytest.mark.parametrize("facts", [examples.bare(), examples.decrypted()], ids=["bare", "decrypted"])
def test_a_record_gives_its_facts_back(facts: Facts) -> None:
    """What decided on a connection can be asked again, of the log alone."""
    again = to_facts(record.read(record.line(to_record(facts, facts.began + 5, worker=2))))
    again.began_monotonic = facts.began_monotonic  # a clock that means nothing elsewhere
    assert msgspec.structs.asdict(again) == msgspec.structs.asdict(facts)
