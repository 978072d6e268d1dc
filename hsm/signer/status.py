"""What the signer tells of itself: gauges, counters of all processes as one, the report of `hsmitm status`, and what
the status page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from prometheus_client import CollectorRegistry, Gauge

from hsm.certificates.issuer import Issuer
from hsm.errors import HsmitmError
from hsm.group.group import Group
from hsm.group.states import GroupState
from hsm.member.member import Member
from hsm.member.states import State
from hsm.signer.inbound import InboundService
from hsm.signer.settings import SignerSettings
from hsm.signer.workers import Workers
from hsm.wire import telemetry
from hsm.wire.admin import CertificateStatus, GroupStatus, MemberStatus, StatusReport
from hsm.wire.status import MAX_FAMILIES, Seen
from hsm.wire.worker import Authority


class StatusBoard:
    """Reads group, workers and inbound service; changes none of them."""

    def __init__(
        self,
        registry: CollectorRegistry,
        group: Group,
        workers: Workers,
        inbound: InboundService,
        issuers: Mapping[Authority, Issuer],
    ) -> None:
        """`registry` has the signer's own counters, and gets the gauges of members and group."""
        self._registry = registry
        self._group = group
        self._workers = workers
        self._inbound = inbound
        self._issuers = issuers
        self._states = Gauge(
            "hsmitm_member_state", "1 for the state that a member is in", ("member", "state"), registry=registry
        )
        self._sessions = Gauge("hsmitm_member_sessions", "Sessions of a member", ("member", "use"), registry=registry)
        self._starts = Gauge("hsmitm_member_starts", "Starts of a member's process", ("member",), registry=registry)
        self._refused = Gauge(
            "hsmitm_inbound_sites_refused",
            "1 for each site with a certificate whose key no member can serve: without another its clients are refused",
            ("site",), registry=registry,
        )  # fmt: skip
        self._group_states = Gauge(
            "hsmitm_group_state", "1 for the state that the members together are in", ("state",), registry=registry
        )

    def totals(self) -> telemetry.Totals:
        """Counters of the signer, of all workers, and of workers that are gone."""
        self._set_gauges()
        totals = telemetry.Totals()
        totals.add(telemetry.collect(self._registry))
        self._workers.add_to(totals)
        return totals

    def _set_gauges(self) -> None:
        self._states.clear()
        self._sessions.clear()
        self._starts.clear()
        for group_state in GroupState:
            self._group_states.labels(str(group_state)).set(self._group.state is group_state)
        for member in self._group.members:
            for state in State:
                self._states.labels(member.name, str(state)).set(member.state is state)
            self._sessions.labels(member.name, "busy").set(min(member.in_flight, member.sessions))
            self._sessions.labels(member.name, "total").set(member.sessions)
            self._starts.labels(member.name).set(member.starts)
        self._refused.clear()
        for site in self._inbound.refused_sites():
            self._refused.labels(site).set(1)
        self._workers.set_gauges()

    def seen(self, check_ready: Callable[[], None]) -> Seen:
        """What the status page shows. `check_ready` raises what keeps the signer from signing."""
        unready = "" if self._workers.listeners() else "no worker listens yet"
        if self._workers.full:
            unready = "every worker has as many connections as it may"
        try:
            check_ready()
        except HsmitmError as error:
            unready = str(error)
        families, size, left = [], 0, self.totals().families()
        for family in left:
            size += len(msgspec.msgpack.encode(family))
            if size > MAX_FAMILIES:
                break
            families.append(family)
        return Seen(unready, families, len(left) - len(families))

    def report(self, settings: SignerSettings) -> StatusReport:
        """The whole state; `settings` are those in force."""
        return StatusReport(
            members=[self._member(member) for member in self._group.members],
            workers=self._workers.status(),
            listeners=self._workers.listeners(),
            certificates=list(self._certificates()),
            counters=_counters(self.totals()),
            group=GroupStatus(
                name=settings.group,
                state=str(self._group.state),
                since=self._group.since,
                high_availability=bool(settings.group),
                auto_recovery_retry=self._group.failover.auto_recovery_retry,
                unavailable=settings.unavailable,
                waiting=self._group.waiting,
            ),
        )

    def _certificates(self) -> Iterator[CertificateStatus]:
        for name, issuer in self._issuers.items():
            yield self._certificate("forward", name, name, issuer.certificate)
        for site in self._inbound.sites.sites:
            yield self._certificate("inbound", site.name, site.key, site.chain[0])

    def _certificate(
        self, kind: Literal["forward", "inbound"], name: str, key_name: str, certificate: x509.Certificate
    ) -> CertificateStatus:
        key = self._group.keys[key_name]
        size = key.public.key_size
        holders = [member.found[key_name] for member in self._group.members if key_name in member.found]
        return CertificateStatus(
            authority=name if kind == "forward" else f"inbound {name}",
            subject=certificate.subject.rfc4514_string(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
            key=str(key.uri),
            key_type=f"RSA-{size}" if isinstance(key.public, rsa.RSAPublicKey) else f"P-{size}",
            proved=self._group.proved_by(key_name),
            guarded=bool(holders) and all(found.guarded for found in holders),
            problems=self._group.problems(key_name) | self._inbound.decryption_problems(key_name),
            kind=kind,
            name=name,
            refused=self._inbound.refused(key_name),
        )

    def _member(self, member: Member) -> MemberStatus:
        opened = member.opened
        keys = {key.title if key.inbound else name: key for name, key in self._group.keys_for(member.name).items()}
        served = {title: key for title, key in keys.items() if member.serves(key.name)}
        return MemberStatus(
            name=member.name,
            state=str(member.state),
            since=member.since,
            reason=member.reason,
            module=member.settings.module,
            module_version=opened.module_version if opened else "",
            partition=opened.partition if opened else None,
            sessions_busy=min(member.in_flight, member.sessions),
            sessions_total=member.sessions,
            starts=member.starts,
            pid=member.pid,
            last_error=member.last_error,
            last_error_at=member.last_error_at,
            attempts=member.attempts,
            next_attempt=member.next_attempt,
            latency_ms=1000 * member.latency_s,
            keys={title: member.problem(key.name) for title, key in keys.items()},
            schemes={
                title: [one.name for one in key.schemes if one.name in member.schemes(key.name)]
                for title, key in served.items()
            },
            lacking={title: lacks for title, key in served.items() if (lacks := member.lacks(key.name))},
        )


def _counters(totals: telemetry.Totals) -> dict[str, float]:
    """What `hsmitm status` lists: sums over all processes."""
    return {
        "minted": totals.value("hsmitm_mints_total", result="minted"),
        "mint_errors": totals.value("hsmitm_mints_total") - totals.value("hsmitm_mints_total", result="minted"),
        "cache_hits": totals.value("hsmitm_leaf_cache_lookups_total", result="hit"),
        "cache_misses": totals.value("hsmitm_leaf_cache_lookups_total", result="miss"),
        "signatures": totals.value("hsmitm_signatures_total") - totals.value("hsmitm_signatures_total", purpose="test"),
        "test_signatures": totals.value("hsmitm_signatures_total", purpose="test"),
        "signature_errors": totals.value("hsmitm_signature_errors_total"),
        "signature_seconds": totals.value("hsmitm_signature_seconds_sum"),
        "connections": totals.value("hsmitm_connections_total"),
        "handshake_failures": totals.value("hsmitm_handshake_failures_total"),
        "inbound_handshakes": totals.value("hsmitm_inbound_handshakes_total", result="full"),
        "inbound_resumed": totals.value("hsmitm_inbound_handshakes_total", result="resumed"),
        "inbound_failed": totals.value("hsmitm_inbound_handshakes_total", result="failed"),
        "inbound_waiting": totals.value("hsmitm_inbound_steps"),
        "refused_requests": totals.value("hsmitm_refused_requests_total"),
    }
