"""How often each rule has decided, when it did last, and which rules end soon: counted in the worker's registry."""

from __future__ import annotations

import datetime as dt
import time

from prometheus_client import CollectorRegistry, Counter, Gauge

from addons.policy.rules import Compiled
from addons.records.facts import Decision

_OTHER = "other"
_MOST = 4096
"""Rules that are counted by name in the life of a worker; reloads may bring others and others."""


class Hits:
    """The counters of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter(
            "hsmitm_policy_decisions", "Decisions on connections and plain requests, by rule and action",
            ("rule", "action"), registry=registry,
        )  # fmt: skip
        self._last = Gauge(
            "hsmitm_policy_last_hit_timestamp_seconds", "When a rule decided last, in seconds since the epoch",
            ("rule",), registry=registry,
        )  # fmt: skip
        self._ends = Gauge(
            "hsmitm_policy_expires_timestamp_seconds", "When a rule, or an accepted certificate, ends",
            ("kind", "name"), registry=registry,
        )  # fmt: skip
        self._versions = Gauge(
            "hsmitm_policy_version", "Workers with this version of the policy", ("version",), registry=registry
        )
        self._names: set[str] = set()
        self._counted: dict[tuple[str, str], tuple[Counter, Gauge]] = {}

    def count(self, decision: Decision) -> None:
        """One decision that holds."""
        counted = self._counted.get((decision.rule, decision.action))
        if counted is None:
            counted = self._begin(decision)
        counted[0].inc()
        counted[1].set(time.time())

    def _begin(self, decision: Decision) -> tuple[Counter, Gauge]:
        rule = decision.rule
        if rule not in self._names and len(self._names) >= _MOST:
            rule = _OTHER  # whose samples are kept, and not who they are of
            return self._decisions.labels(rule, decision.action), self._last.labels(rule)
        self._names.add(rule)
        counted = self._decisions.labels(rule, decision.action), self._last.labels(rule)
        self._counted[rule, decision.action] = counted
        return counted

    def show(self, policy: Compiled) -> None:
        """The ends of what is in force; a rule that has none has no sample."""
        self._versions.clear()
        self._versions.labels(policy.version).set(1)
        self._ends.clear()
        for rule in policy.settings.rules[:_MOST]:
            if rule.expires is not None:
                self._ends.labels("rule", rule.name).set(_end(rule.expires))
        for accept in policy.accepts[:_MOST]:
            self._ends.labels("accept", accept.host).set(_end(accept.expires))


def _end(day: dt.date) -> float:
    """The end of the last day on which it holds (UTC)."""
    return dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC).timestamp()
