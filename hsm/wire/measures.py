"""What a worker may report of itself: the fixed list of its metrics, with their types and labels. No I/O.

A metric that a worker counts is declared here, beside the line that makes it: what is not in the list the signer does
not take, so that a worker which is taken over cannot make up names, labels or kinds, nor fill anybody's memory with
them. Help texts are those of the list. `tests/hsm/wire/test_measures.py` compares it with what workers make.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Kind = Literal["counter", "gauge", "histogram"]

_PLAIN = re.compile(r"[ -~]{1,64}")
_HOST = re.compile(r"[ -~]{1,253}")
"""What a label may say where its values are no closed list: printable ASCII."""

Values = frozenset[str] | re.Pattern[str]


class Measure(Struct, frozen=True):
    """One metric. For each label: the values that it may have.

    `series` is how many sets of values one worker may have, `most` what a gauge may say, or a counter grow in a second.
    Of several workers' values the sum is shown, or the `greatest`; a gauge that is `kept` outlives its worker.
    """

    kind: Kind
    help: str
    labels: Mapping[str, Values] = {}
    series: int = 64
    most: float = 1e6
    greatest: bool = False
    kept: bool = False

    @property
    def grows(self) -> bool:
        """Whether it never goes back."""
        return self.kind != "gauge" or self.kept

    def samples(self, name: str) -> tuple[str, ...]:
        """The names of its samples, as in Prometheus' text format."""
        if self.kind == "histogram":
            return f"{name}_bucket", f"{name}_count", f"{name}_sum"
        return (f"{name}_total",) if self.kind == "counter" else (name,)

    def allows(self, sample: str, labels: Mapping[str, str]) -> bool:
        """Whether a sample of it may have these labels."""
        bucket = self.kind == "histogram" and sample.endswith("_bucket")
        if len(labels) != len(self.labels) + bucket:
            return False
        return all(
            _fits(self.labels[name], value) if name in self.labels else bucket and name == "le" and _is_bound(value)
            for name, value in labels.items()
        )


def _fits(values: Values, value: str) -> bool:
    return value in values if isinstance(values, frozenset) else values.fullmatch(value) is not None


def _is_bound(value: str) -> bool:
    try:
        return len(value) <= 24 and float(value) >= 0
    except ValueError:
        return False


def _one_of(*values: str) -> frozenset[str]:
    return frozenset(values)


_SITES = 3 * 1024
_LEGS = _one_of("client", "server")
_RULES = 8 * 1024
_TIME = 1e10
"""Seconds since the epoch, some centuries."""

MEASURES: dict[str, Measure] = {
    "hsmitm_connections": Measure("counter", "Client connections accepted"),
    "hsmitm_connections_open": Measure("gauge", "Client connections open now"),
    "hsmitm_connections_limit": Measure("gauge", "Client connections that there may be"),
    "hsmitm_connections_servers": Measure("gauge", "Connections to servers open now"),
    "hsmitm_connections_idle": Measure(
        "counter", "Client connections closed for being idle: before a request, between, within", {"phase": _PLAIN}
    ),
    "hsmitm_handshake_failures": Measure(
        "counter", "TLS handshakes that failed, towards clients and servers",
        {"side": _one_of("client", "server"), "class": _PLAIN},
    ),
    "hsmitm_upstream_connect_errors": Measure("counter", "Servers that could not be connected to"),
    "hsmitm_leaf_cache_lookups": Measure(
        "counter", "Look-ups of a leaf: hit, joined (another's mint in flight), miss",
        {"result": _one_of("hit", "joined", "miss")},
    ),
    "hsmitm_leaf_cache_entries": Measure("gauge", "Leaves kept"),
    "hsmitm_requests": Measure("counter", "HTTP requests"),
    "hsmitm_streams_passed": Measure("counter", "Streams passed on that are neither TLS nor HTTP"),
    "hsmitm_edge_refused": Measure("counter", "What was refused at the edge, by class", {"class": _PLAIN}),
    "hsmitm_inbound_handshakes": Measure(
        "counter", "Handshakes with clients of our sites: full, resumed or failed",
        {"site": _HOST, "result": _one_of("full", "resumed", "failed")}, series=_SITES,
    ),
    "hsmitm_inbound_refused": Measure(
        "counter", "Clients that got an alert before or instead of a handshake", {"reason": _PLAIN}
    ),
    "hsmitm_inbound_steps": Measure("gauge", "Handshake steps that run or wait for a thread"),
    "hsmitm_policy_version": Measure("gauge", "Workers with this version of the policy", {"version": _PLAIN}),
    "hsmitm_policy_reload_failed": Measure("gauge", "Workers that go on with an older policy than they were to read"),
    "hsmitm_policy_decisions": Measure(
        "counter", "Decisions on connections and plain requests, by rule and action",
        {"rule": _PLAIN, "action": _one_of("decrypt", "bypass", "block")}, series=_RULES,
    ),
    "hsmitm_policy_last_hit_timestamp_seconds": Measure(
        "gauge", "When a rule decided last, in seconds since the epoch",
        {"rule": _PLAIN}, series=_RULES, most=_TIME, greatest=True, kept=True,
    ),
    "hsmitm_policy_expires_timestamp_seconds": Measure(
        "gauge", "When a rule, or an accepted certificate, ends",
        {"kind": _one_of("rule", "accept"), "name": _HOST}, series=_RULES, most=_TIME, greatest=True,
    ),
    "hsmitm_probes": Measure(
        "counter", "Servers asked for their certificate before, or beside, a bypass, by what was found",
        {"result": _one_of("good", "refused", "unreached")},
    ),
    "hsmitm_certificate_questions": Measure(
        "counter", "Questions to those whom servers' certificates name",
        {"of": _one_of("status", "issuer"), "result": _one_of("answered", "silent", "not-asked")},
    ),
    "hsmitm_log_lines_dropped": Measure("counter", "Log lines that nobody read in time"),
    "hsmitm_log_lines_held_back": Measure("counter", "Log lines of a kind that were too many"),
    "hsmitm_decryption_records_written": Measure("counter", "Records of the decryption log that were written"),
    "hsmitm_decryption_records_dropped": Measure(
        "counter", "Records that no room was left for, or the disk did not take"
    ),
    "hsmitm_decryption_records_lost": Measure("counter", "Connections that ended with a worker that was killed"),
    "hsmitm_decryption_records_withheld": Measure("counter", "Records that a rule's log does without"),
    "hsmitm_tls_versions": Measure(
        "counter", "Connections that ended, by the TLS version of a leg", {"leg": _LEGS, "version": _PLAIN}
    ),
    "hsmitm_tls_groups": Measure(
        "counter", "Connections that ended, by the group of a leg's key exchange", {"leg": _LEGS, "group": _PLAIN}
    ),
    "hsmitm_tls_failures": Measure("counter", "Connections that failed, by class", {"side": _LEGS, "class": _PLAIN}),
    "hsmitm_bytes": Measure(
        "counter", "Bytes on the wire of connections that ended, from a leg's peer and to it",
        {"leg": _LEGS, "direction": _one_of("in", "out")}, most=1e12,
    ),
    "hsmitm_reports_missed": Measure("counter", "Reports that the signer did not take"),
}  # fmt: skip
"""By name, as prometheus_client has it: a counter's without `_total`."""
