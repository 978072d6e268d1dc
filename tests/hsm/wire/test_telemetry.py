"""Counters of several processes as one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hsm.wire.telemetry import FamilyCollector, Totals, collect
from hsm.wire.worker import Family

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def worker(hits: dict[str, float], open_connections: float, waits_s: list[float]) -> CollectorRegistry:
    """A worker's registry with one metric of each kind that workers have."""
    registry = CollectorRegistry()
    counter = Counter("hits", "Requests", ("kind",), registry=registry)
    for kind, count in hits.items():
        counter.labels(kind).inc(count)
    Gauge("open_connections", "Connections", registry=registry).set(open_connections)
    histogram = Histogram("wait_seconds", "Waits", ("to",), buckets=(0.1, 1), registry=registry)
    for wait in waits_s:
        histogram.labels("hsm").observe(wait)
    return registry


def shown(families: list[Family]) -> Samples:
    """The samples that a Prometheus server would read of `families`."""
    registry = CollectorRegistry()
    registry.register(FamilyCollector(families))
    return scraped(registry)


def scraped(registry: CollectorRegistry) -> Samples:
    """The samples that a Prometheus server would read of `registry`, without times of creation."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def summed(*registries: CollectorRegistry) -> Totals:
    """Totals over what each worker reports."""
    totals = Totals()
    for registry in registries:
        totals.add(collect(registry))
    return totals


def test_one_process_is_shown_as_itself() -> None:
    """The detour over the signer changes no sample, name, label, kind or help of a single worker."""
    registry = worker({"a": 1, 'quo"ted\n': 2}, 3, [0.05, 5])
    Summary("sizes", "Sizes", registry=registry).observe(7)
    Info("build", "Build", registry=registry).info({"version": "1"})
    assert shown(collect(registry)) == scraped(registry)
    there = CollectorRegistry()
    there.register(FamilyCollector(collect(registry)))
    without_created = "\n".join(
        line for line in generate_latest(registry).decode().splitlines() if "_created" not in line
    )
    assert generate_latest(there).decode().splitlines() == without_created.splitlines()


def test_sums_sample_by_sample() -> None:
    """Two workers' samples add up where name and labels agree; a label that only one has is kept."""
    totals = summed(worker({"a": 1, "b": 2}, 3, [0.05]), worker({"b": 40, "c": 5}, 4, [0.5, 5]))
    assert shown(totals.families()) == {
        ("hits_total", (("kind", "a"),)): 1,
        ("hits_total", (("kind", "b"),)): 42,
        ("hits_total", (("kind", "c"),)): 5,
        ("open_connections", ()): 7,
        ("wait_seconds_bucket", (("le", "0.1"), ("to", "hsm"))): 1,
        ("wait_seconds_bucket", (("le", "1.0"), ("to", "hsm"))): 2,
        ("wait_seconds_bucket", (("le", "+Inf"), ("to", "hsm"))): 3,
        ("wait_seconds_count", (("to", "hsm"),)): 3,
        ("wait_seconds_sum", (("to", "hsm"),)): pytest.approx(5.55),
    }


COUNTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000).map(float), min_size=1)
WORKERS = st.builds(worker, COUNTS, st.integers(0, 9).map(float), st.lists(st.sampled_from([0.0, 0.5, 2.0])))


@given(st.lists(WORKERS, min_size=1, max_size=4), st.randoms())
def test_totals_do_not_depend_on_the_order_of_reports(workers: list[CollectorRegistry], random: Random) -> None:
    """Whichever worker reports first, the signer shows the same sums, and each is the sum over the workers."""
    expected: Samples = {}
    for one in workers:
        for key, value in scraped(one).items():
            expected[key] = expected.get(key, 0) + value
    assert shown(summed(*workers).families()) == expected
    random.shuffle(workers)
    assert shown(summed(*workers).families()) == expected


def test_histogram_buckets_stay_cumulative() -> None:
    """The sum of two histograms is the histogram that one process would have had."""
    apart = summed(worker({}, 0, [0.05, 0.5]), worker({}, 0, [0.5, 5, 50]))
    together = scraped(worker({}, 0, [0.05, 0.5, 0.5, 5, 50]))
    assert shown(apart.families()) == pytest.approx(together)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda totals: totals.value("hits_total"), 48),
        (lambda totals: totals.value("hits_total", kind="b"), 42),
        (lambda totals: totals.value("hits_total", kind="z"), 0),
        (lambda totals: totals.value("hits_total", colour="b"), 0),
        (lambda totals: totals.value("hits"), 0),
        (lambda totals: totals.value("wait_seconds_bucket", to="hsm", le="1.0"), 2),
        (lambda totals: totals.value("wait_seconds_count", to="hsm"), 3),
        (lambda totals: totals.value("nothing_of_ours"), 0),
    ],
)
def test_value(value: Callable[[Totals], float], expected: float) -> None:
    """`status` reads one sum, over all labels or over those it names; what nobody counted is zero."""
    assert value(summed(worker({"a": 1, "b": 2}, 3, [0.05]), worker({"b": 40, "c": 5}, 4, [0.5, 5]))) == expected


def test_times_of_creation_are_not_added_up() -> None:
    """prometheus_client's `_created` samples are times; a sum of them would mean nothing."""
    registry = worker({"a": 1}, 0, [0.05])
    assert any(sample.name == "hits_created" for metric in registry.collect() for sample in metric.samples)
    names = {name for family in collect(registry) for name, _, _ in family.samples}
    assert names == {"hits_total", "open_connections", "wait_seconds_bucket", "wait_seconds_count", "wait_seconds_sum"}
