"""Counters of what members did: signatures, failures, transitions."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from hsm.errors import HsmitmError
from hsm.wire.member import Signature

_EXECUTION = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
"""Seconds: P-256 in software at the low end, a network HSM in the middle, a hang at the high end."""


class MemberMetrics:
    """The counters, labelled by member. `purpose` is what a signature was for: mint, tls, proof, test; or
    decrypt, which is none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("member", "purpose")
        self._signatures = Counter("hsmitm_signatures", "Signatures verified and used", labels, registry=registry)
        self._errors = Counter(
            "hsmitm_signature_errors", "Signature requests that a member did not answer well",
            ("member", "purpose", "error"), registry=registry,
        )  # fmt: skip
        self._queued = Histogram(
            "hsmitm_signature_queue_seconds", "Time a request waited for a session of its member",
            labels, buckets=_EXECUTION, registry=registry,
        )  # fmt: skip
        self._executed = Histogram(
            "hsmitm_signature_seconds", "Time the PKCS#11 module took to sign", labels, buckets=_EXECUTION,
            registry=registry,
        )  # fmt: skip
        self._transitions = Counter(
            "hsmitm_member_transitions", "Changes of a member's state", ("member", "before", "after"), registry=registry
        )
        self._group_transitions = Counter(
            "hsmitm_group_transitions", "Changes of the group's state", ("before", "after"), registry=registry
        )
        self._retries = Counter(
            "hsmitm_signature_retries", "Attempts after a failed one", ("step",), registry=registry
        )  # fmt: skip
        self._sessions = Counter(
            "hsmitm_sessions_replaced", "Sessions that a member found lost and replaced", ("member",), registry=registry
        )
        self._signed: dict[tuple[str, str], tuple[Counter, Histogram, Histogram]] = {}

    def signed(self, member: str, purpose: str, answer: Signature) -> None:
        """A signature that verified, with the times that its answer tells, in seconds."""
        labels = member, purpose
        if labels not in self._signed:  # `labels()` takes a lock and checks: three times are 3 % of the signer's work
            self._signed[labels] = (
                self._signatures.labels(*labels), self._queued.labels(*labels), self._executed.labels(*labels),
            )  # fmt: skip
        signatures, queued, executed = self._signed[labels]
        signatures.inc()
        queued.observe(answer.queued_s)
        executed.observe(answer.executed_s)

    def decrypted(self, member: str) -> None:
        """A ciphertext was answered, whether its padding was right or not."""
        self._signatures.labels(member, "decrypt").inc()

    def failed(self, member: str, purpose: str, error: HsmitmError) -> None:
        """A request that the member did not answer well."""
        self._errors.labels(member, purpose, type(error).__name__.removesuffix("Error")).inc()

    def moved(self, member: str, before: str, after: str) -> None:
        """A member changed its state."""
        self._transitions.labels(member, before, after).inc()

    def group_moved(self, before: str, after: str) -> None:
        """The group changed its state."""
        self._group_transitions.labels(before, after).inc()

    def retried(self, step: str) -> None:
        """A request is tried again."""
        self._retries.labels(step).inc()

    def replaced(self, member: str, sessions: int) -> None:
        """Sessions were replaced inside a member process."""
        self._sessions.labels(member).inc(sessions)
