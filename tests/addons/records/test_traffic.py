"""What is counted of connections that have ended."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from addons.records.traffic import Traffic
from hsm.wire.measures import MEASURES
from tests.addons.records import examples


def _shown(traffic: Traffic) -> str:
    registry = CollectorRegistry()
    registry.register(traffic)
    return generate_latest(registry).decode()


def test_both_legs_are_counted() -> None:
    """Versions, groups and bytes of each leg, and failures by class."""
    traffic = Traffic()
    for facts in (examples.decrypted(), examples.decrypted(), examples.bare()):
        traffic.ended(facts)
    shown = _shown(traffic)
    for line in (
        'hsmitm_tls_versions_total{leg="client",version="TLSv1.3"} 2.0',
        'hsmitm_tls_versions_total{leg="server",version="TLSv1.2"} 2.0',
        'hsmitm_tls_groups_total{group="x25519",leg="server"} 2.0',
        'hsmitm_bytes_total{direction="out",leg="server"} 3800.0',
        'hsmitm_tls_failures_total{class="client-closed",side="client"} 1.0',
    ):
        assert line in shown


def test_a_key_exchange_without_a_group_is_counted_as_none() -> None:
    """RSA's own, of TLS 1.2."""
    traffic, facts = Traffic(), examples.decrypted()
    facts.server_leg.group = ""
    traffic.ended(facts)
    assert 'hsmitm_tls_groups_total{group="none",leg="server"} 1.0' in _shown(traffic)


def test_the_signer_takes_all_of_it() -> None:
    """What a worker counts is in the list of what it may report, with the same help."""
    registry = CollectorRegistry()
    traffic = Traffic()
    traffic.ended(examples.decrypted())
    traffic.ended(examples.bare())
    registry.register(traffic)
    for family in registry.collect():
        listed = MEASURES[family.name]
        assert (listed.kind, listed.help) == (family.type, family.documentation)
        for sample in family.samples:
            assert listed.allows(sample.name, sample.labels), sample
