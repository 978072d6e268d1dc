"""How often each rule has decided, in the worker's registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from addons.policy import hits
from addons.policy.hits import Hits
from addons.records.facts import Decision


def test_rules_are_counted_by_name_up_to_a_bound() -> None:
    """Reloads may bring rules and rules: beyond a bound new ones are counted as others, and known ones go on."""
    registry = CollectorRegistry()
    counted = Hits(registry)
    for life in range(2):
        for number in range(hits._MOST + 10):
            counted.count(Decision(f"rule-{number}", "block"))
        first = {"rule": "rule-0", "action": "block"}
        assert registry.get_sample_value("hsmitm_policy_decisions_total", first) == life + 1
    others = {"rule": "other", "action": "block"}
    assert registry.get_sample_value("hsmitm_policy_decisions_total", others) == 20
    assert registry.get_sample_value("hsmitm_policy_last_hit_timestamp_seconds", {"rule": "other"})
