"""The fixed list of what workers report, beside what they make."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hsm.wire import telemetry
from hsm.wire.measures import MEASURES, Measure

_ROOT = Path(__file__).parents[3]
_KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "Summary": "summary", "Info": "info"}


def _made() -> Iterator[tuple[str, str, str, str, tuple[str, ...]]]:
    """Of each metric that a worker's code makes: the place, name, kind, help and labels."""
    for path in [*_ROOT.glob("addons/**/*.py"), _ROOT / "proxy/processes/worker.py"]:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _KINDS:
                words = [ast.literal_eval(one) for one in call.args if not isinstance(one, ast.Name)]
                if not words or not isinstance(words[0], str):
                    continue  # a collections.Counter
                labels = next((tuple(one) for one in words[2:] if isinstance(one, tuple | list)), ())
                yield str(path.relative_to(_ROOT)), words[0], _KINDS[call.func.id], words[1], labels


def test_the_list_has_what_workers_make() -> None:
    """Each metric of a worker is in `hsm.wire.measures.MEASURES`, as it is made: the signer would not take it else."""
    found = {name: (place, kind, text, labels) for place, name, kind, text, labels in _made()}
    assert len(found) > 8
    for name, (place, kind, text, labels) in found.items():
        assert name in MEASURES, f"{place} makes {name}: add it to MEASURES of hsm/wire/measures.py, with its labels"
        listed = MEASURES[name]
        assert (listed.kind, listed.help, tuple(listed.labels)) == (kind, text, labels), f"{name} of {place}"


CLOSED = Measure("counter", "Closed", {"side": frozenset({"client", "server"})})
HISTOGRAM = Measure("histogram", "Waits", {"side": frozenset({"client", "server"})})


@pytest.mark.parametrize(
    ("measure", "sample", "labels", "allowed"),
    [
        (CLOSED, "x_total", {"side": "client"}, True),
        (CLOSED, "x_total", {"side": "other"}, False),
        (CLOSED, "x_total", {}, False),
        (CLOSED, "x_total", {"side": "client", "more": "1"}, False),
        (CLOSED, "x_total", {"le": "1"}, False),
        (HISTOGRAM, "x_bucket", {"side": "client", "le": "+Inf"}, True),
        (HISTOGRAM, "x_bucket", {"side": "client", "le": "0.5"}, True),
        (HISTOGRAM, "x_bucket", {"side": "client", "le": "much"}, False),
        (HISTOGRAM, "x_bucket", {"side": "client"}, False),
        (HISTOGRAM, "x_count", {"side": "client", "le": "1"}, False),
        (HISTOGRAM, "x_sum", {"side": "client"}, True),
        (MEASURES["hsmitm_inbound_handshakes"], "x_total", {"site": "a" * 253, "result": "full"}, True),
        (MEASURES["hsmitm_inbound_handshakes"], "x_total", {"site": "a" * 254, "result": "full"}, False),
        (MEASURES["hsmitm_inbound_handshakes"], "x_total", {"site": "a\nb", "result": "full"}, False),
        (MEASURES["hsmitm_inbound_handshakes"], "x_total", {"site": "", "result": "full"}, False),
        (MEASURES["hsmitm_edge_refused"], "x_total", {"class": "a" * 65}, False),
        (MEASURES["hsmitm_requests"], "x_total", {}, True),
    ],
)
def test_labels(measure: Measure, sample: str, labels: dict[str, str], allowed: bool) -> None:
    """A label has a value of its list, or a short one in plain characters; no label is missing, none more."""
    assert measure.allows(sample, labels) is allowed


def test_samples_are_prometheus() -> None:
    """What the library makes of each kind of metric is what the list expects of it."""
    registry = CollectorRegistry()
    Counter("a", "A", registry=registry).inc()
    Gauge("b", "B", registry=registry).set(1)
    Histogram("c", "C", registry=registry).observe(1)
    for family in telemetry.collect(registry):
        kind = {"a": "counter", "b": "gauge", "c": "histogram"}[family.name]
        listed = Measure(kind, "")  # type: ignore[arg-type]
        assert {name for name, _, _ in family.samples} == set(listed.samples(family.name))
        assert all(listed.allows(name, labels) for name, labels, _ in family.samples)
