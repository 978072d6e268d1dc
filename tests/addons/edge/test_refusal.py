"""What the edge refuses is counted by its class, and told without what a peer may put into a log."""

from __future__ import annotations

import logging

import pytest
from mitmproxy.test import tflow
from prometheus_client import CollectorRegistry

from addons.edge.refusal import CLASSES, EdgeRefusal, Refusals
from proxy.processes.log_rates import Rates


def test_each_class_is_a_metric_before_anything_is_refused() -> None:
    """An alert on a class works from the first scrape on: its counter is there and 0."""
    registry = CollectorRegistry()
    Refusals(registry)
    assert [registry.get_sample_value("hsmitm_edge_refused_total", {"class": one}) for one in CLASSES] == [0] * len(
        CLASSES
    )


def test_a_refusal_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """An operator reads who was refused, as what, and what it was about, at a bounded length."""
    registry = CollectorRegistry()
    with caplog.at_level(logging.WARNING, "hsmitm.edge"):
        Refusals(registry).edge_refused(EdgeRefusal(tflow.tclient_conn(), "not-tls", "x" * 100_000))
    assert registry.get_sample_value("hsmitm_edge_refused_total", {"class": "not-tls"}) == 1
    (line,) = caplog.messages
    assert line.startswith("client 127.0.0.1:22 refused (not-tls): xxx")
    assert len(line) < 300


def test_a_flood_of_one_class_hides_none_of_another(caplog: pytest.LogCaptureFixture) -> None:
    """A client that is refused a hundred times a second leaves room for the line about another kind of refusal."""
    refusals, rates = Refusals(CollectorRegistry()), Rates()
    with caplog.at_level(logging.WARNING, "hsmitm.edge"):
        for _ in range(50):
            refusals.edge_refused(EdgeRefusal(tflow.tclient_conn(), "malformed-request", "a tab"))
        refusals.edge_refused(EdgeRefusal(tflow.tclient_conn(), "oversized-head", "too much"))
    passed = [one.getMessage() for one in caplog.records if rates.passes(one, 1.0)]
    assert len(passed) == 11
    assert "(oversized-head)" in passed[-1]
