"""Counters of several processes as one. No I/O.

A worker sends its registry's samples to the signer with each report; the signer adds those that it believes
(`hsm.wire.measures`, `hsm.signer.ledger`) up for `/metrics`. Not
prometheus_client's multiprocess mode: that needs a directory of memory-mapped files which every worker may write and
the signer reads, and workers may be another user's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from hsm.wire.worker import Family

SampleKey = tuple[str, tuple[tuple[str, str], ...]]


def collect(registry: CollectorRegistry) -> list[Family]:
    """Every sample of `registry`, ready for the wire."""
    families = []
    for metric in registry.collect():
        samples = [(s.name, dict(s.labels), float(s.value)) for s in metric.samples if not s.name.endswith("_created")]
        families.append(Family(metric.name, metric.type, metric.documentation, samples))
    return families


class Totals:
    """Families added up sample by sample."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str, dict[SampleKey, float]]] = {}

    def add(self, families: Iterable[Family]) -> None:
        """Add each sample of `families` to what there is of it."""
        for family in families:
            _, _, values = self._families.setdefault(family.name, (family.kind, family.help, {}))
            for name, labels, value in family.samples:
                key = (name, tuple(sorted(labels.items())))
                values[key] = values.get(key, 0.0) + value

    def add_sums(
        self, name: str, kind: str, text: str, sums: Mapping[SampleKey, float], *, greatest: bool = False
    ) -> None:
        """Add to the family `name`, whose labels stand in the same order each time; of each sample there is the sum, or
        the `greatest` value."""
        _, _, values = self._families.setdefault(name, (kind, text, {}))
        for key, value in sums.items():
            before = values.get(key, 0.0)
            values[key] = max(before, value) if greatest else before + value

    def value(self, sample: str, **labels: str) -> float:
        """The sum of the samples of this name whose labels include `labels`."""
        wanted = labels.items()
        return sum(
            value
            for _, _, values in self._families.values()
            for (name, found), value in values.items()
            if name == sample and wanted <= dict(found).items()
        )

    def families(self) -> list[Family]:
        """What was added, as families again."""
        return [
            Family(name, kind, text, [(sample, dict(labels), value) for (sample, labels), value in values.items()])
            for name, (kind, text, values) in self._families.items()
        ]


class FamilyCollector(Collector):
    """Shows families as metrics of a prometheus_client registry."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """The families, as prometheus_client wants them."""
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric
