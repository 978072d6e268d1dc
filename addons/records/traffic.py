"""Counters of connections that have ended: failures by class, bytes, TLS versions and groups by leg. In dictionaries of
our own: four of prometheus_client's counters for each connection would cost more than its record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from addons.records.facts import Facts, Leg

_Counted = dict[tuple[str, str], int]
"""By leg, or side, and what is counted."""
_NONE = "none"


class Traffic(Collector):
    """What `Connections` tells of each connection that has ended."""

    def __init__(self) -> None:
        self._failures: _Counted = defaultdict(int)
        self._bytes: _Counted = defaultdict(int)
        self._versions: _Counted = defaultdict(int)
        self._groups: _Counted = defaultdict(int)

    def ended(self, facts: Facts) -> None:
        """Count a connection."""
        if facts.failure is not None:
            self._failures[facts.failure.side, facts.failure.kind] += 1
        self._leg("client", facts.client_leg)
        self._leg("server", facts.server_leg)

    def _leg(self, name: str, leg: Leg) -> None:
        self._bytes[name, "in"] += leg.bytes_in
        self._bytes[name, "out"] += leg.bytes_out
        if leg.version:
            self._versions[name, leg.version] += 1
            self._groups[name, leg.group or _NONE] += 1

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        yield _family("hsmitm_tls_versions", "Connections that ended, by the TLS version of a leg", ("leg", "version"),
                      self._versions)  # fmt: skip
        yield _family("hsmitm_tls_groups", "Connections that ended, by the group of a leg's key exchange",
                      ("leg", "group"), self._groups)  # fmt: skip
        yield _family("hsmitm_bytes", "Bytes on the wire of connections that ended, from a leg's peer and to it",
                      ("leg", "direction"), self._bytes)  # fmt: skip
        yield _family("hsmitm_tls_failures", "Connections that failed, by class", ("side", "class"), self._failures)


def _family(name: str, text: str, labels: tuple[str, str], counted: _Counted) -> CounterMetricFamily:
    made = CounterMetricFamily(name, text, labels=labels)
    for values, number in counted.items():
        made.add_metric(values, number)
    return made
