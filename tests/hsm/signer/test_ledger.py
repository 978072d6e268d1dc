"""What the signer believes of a worker's numbers."""

from __future__ import annotations

import math

import pytest

from hsm.signer.ledger import OTHER, RETIRED_SERIES, Ledger
from hsm.wire.measures import MEASURES, Measure
from hsm.wire.telemetry import Totals
from hsm.wire.worker import Family

MOST = MEASURES["hsmitm_requests"].most


def requests(value: float) -> Family:
    """A counter without labels."""
    return Family("hsmitm_requests", "counter", "", [("hsmitm_requests_total", {}, value)])


def refusals(*kinds: str, value: float = 1.0) -> Family:
    """A counter with a label."""
    return Family(
        "hsmitm_edge_refused", "", "", [("hsmitm_edge_refused_total", {"class": kind}, value) for kind in kinds]
    )


def opened(value: float) -> Family:
    """A gauge."""
    return Family("hsmitm_connections_open", "gauge", "", [("hsmitm_connections_open", {}, value)])


def shown(ledger: Ledger, *, gone: bool = False) -> list[Family]:
    """What the signer adds up of it."""
    totals = Totals()
    ledger.add_to(totals, gone=gone)
    return totals.families()


def values(ledger: Ledger, *, gone: bool = False) -> dict[str, float]:
    """What it shows, by the sample's name and its labels' values."""
    return {
        " ".join([sample, *labels.values()]): value
        for family in shown(ledger, gone=gone)
        for sample, labels, value in family.samples
    }


def test_counters_grow() -> None:
    """What a worker of ours reports is taken as it stands, with the list's own help and kind."""
    ledger = Ledger(0.0)
    assert ledger.take([requests(3), refusals("idle"), opened(2)], 0) == {}
    assert ledger.take([requests(5), refusals("idle", value=4), opened(1)], 1) == {}
    assert values(ledger) == {
        "hsmitm_requests_total": 5,
        "hsmitm_edge_refused_total idle": 4,
        "hsmitm_connections_open": 1,
    }
    assert values(ledger, gone=True) == {"hsmitm_requests_total": 5, "hsmitm_edge_refused_total idle": 4}
    assert {one.help for one in shown(ledger)} == {
        MEASURES[name].help for name in ("hsmitm_requests", "hsmitm_edge_refused", "hsmitm_connections_open")
    }


@pytest.mark.parametrize(
    ("family", "why"),
    [
        (requests(2), "backwards"),
        (requests(-999_999_980), "absurd"),
        (requests(math.nan), "absurd"),
        (requests(math.inf), "absurd"),
        (requests(3 + 12 * MOST), "absurd"),
        (requests(1e300), "absurd"),
        (opened(-1), "absurd"),
        (opened(math.nan), "absurd"),
        (opened(1e9), "absurd"),
        (Family("made_up", "counter", "", [("made_up_total", {}, 1.0)]), "unknown metric"),
        (Family("hsmitm_mints", "counter", "", [("hsmitm_mints_total", {"result": "minted"}, 9.0)]), "unknown metric"),
        (Family("hsmitm_requests", "counter", "", [("hsmitm_mints_total", {}, 9.0)]), "unknown metric"),
        (Family("hsmitm_requests", "counter", "", [("hsmitm_requests_total", {"x": "y"}, 9.0)]), "unknown label"),
        (refusals("a\nb"), "unknown label"),
        (Family("hsmitm_requests", "counter", "", [("hsmitm_requests_total", {}, 4.0)] * 9999), "too many"),
    ],
)
def test_what_is_not_believed(family: Family, why: str) -> None:
    """Counters do not go back, nothing is negative, no number or not counted by a machine; names, kinds and labels are
    the list's. What was believed before stays."""
    ledger = Ledger(0.0)
    assert ledger.take([requests(3)], 0) == {}
    assert ledger.take([family], 1) == {why: 1}
    assert values(ledger) == {"hsmitm_requests_total": 3}


def test_what_it_may_have_counted_before() -> None:
    """A worker that is older than the signer may have counted since it was started, and not more."""
    for age_s, value, refused in ((0, 11, True), (0, 9, False), (3600, 3605, False), (3600, 3611, True)):
        assert bool(Ledger(age_s).take([requests(value * MOST)], 0)) is refused


def test_made_up_labels_are_bounded() -> None:
    """A worker that makes up label values gets so many kept, in one report or in many, and is told of the others."""
    ledger, most = Ledger(0.0), MEASURES["hsmitm_edge_refused"].series
    assert ledger.take([refusals(*(f"class-{number}" for number in range(100)))], 0) == {"too many": 100 - most}
    for number in range(1000):
        ledger.take([refusals(f"another-{number}")], 1)
    assert len(values(ledger)) == most
    assert ledger.take([refusals("class-0", value=2)], 1) == {}, "those that are known go on"
    assert ledger.take([requests(1), requests(2)], 1) == {"too many": 1}, "each metric once"


def test_the_dead_are_folded() -> None:
    """However many workers come and go with made-up labels, what is kept of them is bounded, and sums never fall."""
    retired, most = Ledger(0.0), MEASURES["hsmitm_edge_refused"].series
    for life in range(20):
        ledger = Ledger(0.0)
        ledger.take([requests(5), opened(7), refusals(*(f"class-{life}-{number}" for number in range(most)))], 0)
        retired.fold(ledger)
    shown = values(retired, gone=True)
    assert shown["hsmitm_requests_total"] == 100
    assert len(shown) == RETIRED_SERIES * most + 2
    assert sum(value for name, value in shown.items() if "refused" in name) == 20 * most
    assert shown[f"hsmitm_edge_refused_total {OTHER}"] == (20 - RETIRED_SERIES) * most


def test_labels_in_any_order() -> None:
    """A worker that tells the same labels in another order, now and then, has one series of them."""
    ledger = Ledger(0.0)
    for number, names in enumerate((("side", "class"), ("class", "side")), 1):
        labels = {name: {"side": "client", "class": "closed"}[name] for name in names}
        family = Family("hsmitm_handshake_failures", "", "", [("hsmitm_handshake_failures_total", labels, number)])
        assert ledger.take([family], 1) == {}
    assert values(ledger) == {"hsmitm_handshake_failures_total client closed": 2}
    back = Family("hsmitm_handshake_failures", "", "", [("hsmitm_handshake_failures_total", labels, 1)])
    assert ledger.take([back], 1) == {"backwards": 1}


def test_gauges_come_anew() -> None:
    """A gauge that a worker reports no more is not shown any more."""
    ledger = Ledger(0.0)
    ledger.take([opened(3)], 0)
    ledger.take([], 1)
    assert values(ledger) == {}


def test_histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A histogram's buckets, count and sum are taken as its counters are."""
    monkeypatch.setitem(MEASURES, "hsmitm_waits", Measure("histogram", "Waits"))
    samples = [
        ("hsmitm_waits_bucket", {"le": "+Inf"}, 2.0),
        ("hsmitm_waits_count", {}, 2.0),
        ("hsmitm_waits_sum", {}, 0.5),
    ]
    ledger = Ledger(0.0)
    assert ledger.take([Family("hsmitm_waits", "gauge", "", samples)], 0) == {}
    assert [one.kind for one in shown(ledger, gone=True)] == ["histogram"]
    assert values(ledger) == {"hsmitm_waits_bucket +Inf": 2, "hsmitm_waits_count": 2, "hsmitm_waits_sum": 0.5}


def test_the_last_of_all_workers_counts() -> None:
    """When a rule decided last is the newest that any worker has told, those that are gone among them."""
    name, totals, retired = "hsmitm_policy_last_hit_timestamp_seconds", Totals(), Ledger(0.0)
    for at in (1.7e9, 1.6e9):
        ledger = Ledger(0.0)
        assert ledger.take([Family(name, "gauge", "", [(name, {"rule": "games"}, at)])], 0) == {}
        assert ledger.take([Family(name, "gauge", "", [(name, {"rule": "games"}, at - 1)])], 1) == {"backwards": 1}
        retired.fold(ledger)
        ledger.add_to(totals)
    assert totals.value(name, rule="games") == 1.7e9
    assert values(retired, gone=True) == {f"{name} games": 1.7e9}
    assert ledger.take([Family(name, "gauge", "", [(name, {"rule": "games"}, 1e300)])], 1) == {"absurd": 1}
