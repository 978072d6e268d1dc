"""The signer: the service that owns the members and decides what may be signed.

Workers may ask to mint and nothing else; the signer builds the certificate itself. The command line asks on a socket of
its own. Neither can have bytes of its own choice signed with a CA key.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge

from hsm import authority, pin, telemetry, wire
from hsm.authority import Issuer, LeafProfile
from hsm.channel import Channel
from hsm.endpoint import ADMIN_SOCKET, WORKER_SOCKET, Endpoint, RunDirectory
from hsm.errors import HsmitmError, MisconfiguredError, RefusedError, TryLaterError
from hsm.group import Group, Key
from hsm.lifecycle import State
from hsm.member import Member, MemberSettings
from hsm.uri import KeyURI
from hsm.workers import Workers

logger = logging.getLogger("hsmitm.signer")


class AuthoritySettings(Struct, frozen=True):
    """A CA: a PEM file (the CA first, then its issuers) and its key."""

    certificate: Path
    key: KeyURI


class SignerSettings(Struct, frozen=True, kw_only=True):
    """All that the signer needs to know. `users` are uids of workers beside our own; `state` remembers refused PINs."""

    members: list[MemberSettings]
    authorities: dict[wire.Authority, AuthoritySettings]
    profile: LeafProfile
    run: RunDirectory
    state: Path
    users: frozenset[int] = frozenset()


def load_issuer(settings: AuthoritySettings) -> Issuer:
    """The CA of `settings`. Raises MisconfiguredError, naming the file."""
    try:
        chain = x509.load_pem_x509_certificates(settings.certificate.read_bytes())
    except OSError as error:
        raise MisconfiguredError(f"cannot read the CA certificate {settings.certificate}: {error.strerror}") from error
    except ValueError as error:
        raise MisconfiguredError(f"{settings.certificate} holds no PEM certificate: {error}") from error
    try:
        return Issuer(chain, dt.datetime.now(dt.UTC))
    except MisconfiguredError as error:
        raise MisconfiguredError(f"{settings.certificate}: {error}") from error


class Signer:
    """The service. `open`, then it serves until `close`."""

    def __init__(self, settings: SignerSettings, prompted: Mapping[str, str] | None = None) -> None:
        """`prompted` are PINs that were asked for on a terminal, by member. Raises MisconfiguredError."""
        self._settings = settings
        self.registry = CollectorRegistry()
        self.issuers = {name: load_issuer(one) for name, one in settings.authorities.items()}
        keys = {
            name: Key(settings.authorities[name].key, issuer.key, issuer.scheme)
            for name, issuer in self.issuers.items()
        }
        self.group = Group({str(name): key for name, key in keys.items()}, self.registry)
        refusals = pin.Refusals(settings.state)
        uris = {str(name): one.key for name, one in settings.authorities.items()}
        self.group.members = [
            Member(one, uris, refusals, self.group.prove, (prompted or {}).get(one.name)) for one in settings.members
        ]
        self._refusals = refusals
        self._workers = Workers(self.registry)
        self._admins: set[Channel] = set()
        self._endpoints: list[Endpoint] = []
        self._runs: list[asyncio.Task[None]] = []
        self._lock = -1
        self._mints = Counter(
            "hsmitm_mints", "Leaf certificates asked for", ("authority", "result"), registry=self.registry
        )
        self._states = Gauge(
            "hsmitm_member_state", "1 for the state that a member is in", ("member", "state"), registry=self.registry
        )
        self._sessions = Gauge(
            "hsmitm_member_sessions", "Sessions of a member", ("member", "use"), registry=self.registry
        )
        self._starts = Gauge(
            "hsmitm_member_starts", "Starts of a member's process", ("member",), registry=self.registry
        )

    async def open(self) -> None:
        """Start the members, wait until each is up or known not to be, then listen.

        Raises MisconfiguredError where a key is served by no member for reasons that only an operator can mend; an HSM
        that merely cannot be reached is no such reason: it is tried again while we serve.
        """
        for name in (WORKER_SOCKET, ADMIN_SOCKET):
            self._settings.run.socket(name)  # refuses a path that is too long, before anybody logs in
        self._settings.run.prepare()
        self._refusals.prepare()
        self._lock = self._settings.run.lock("signer")
        self._runs = [asyncio.create_task(member.run()) for member in self.group.members]
        for member in self.group.members:
            await member.settled.wait()
        self._refuse_bad_world()
        run, users = self._settings.run, self._settings.users
        self._endpoints = [
            await Endpoint(run, WORKER_SOCKET, users, self._worker_channel).open(),
            await Endpoint(run, ADMIN_SOCKET, frozenset(), self._admin_channel).open(),
        ]

    def _refuse_bad_world(self) -> None:
        members = self.group.members
        mendable = [member for member in members if member.state in (State.DOWN, State.STARTING)]
        for name in self.group.keys:
            if self.group.proved_by(name) or mendable:
                continue
            problems = self.group.problems(name)
            if all(member.state is State.QUARANTINED for member in members):
                raise MisconfiguredError("; ".join(f"member {m.name}: {m.reason}" for m in members))
            raise MisconfiguredError(
                f"the forward-{name} key is on no member: " + "; ".join(f"{m}: {why}" for m, why in problems.items())
            )

    async def close(self) -> None:
        """Stop listening, let calls in flight end (at most a second), then end the members."""
        for endpoint in self._endpoints:
            await endpoint.close()
        until = time.monotonic() + 1
        while any(channel.serving for channel in self._workers.channels) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # once, at the end; an event would burden every call
        for channel in [*self._workers.channels, *self._admins]:
            channel.close()
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        for member in self.group.members:
            await member.stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # what workers may ask

    def _worker_channel(self, pid: int) -> Channel:
        channel = Channel(self._serve_worker, self._workers.leave)
        self._workers.join(channel, pid)
        return channel

    async def _serve_worker(self, channel: Channel, call: wire.Call) -> wire.Reply:
        match call.body:
            case wire.Mint():
                return await self._mint(self._workers.pid(channel), call.body, call.deadline)
            case wire.Authorities():
                return wire.Chains({name: _der(issuer.chain) for name, issuer in self.issuers.items()})
            case wire.Ready():
                for name in self.group.keys:
                    await self.group.wait_for_member(name, set(), call.deadline)
                return wire.Done()
            case wire.Report():
                self._workers.take(channel, call.body)
                return wire.Done()
        logger.warning("refused %s of a worker", type(call.body).__name__)
        raise RefusedError(f"a worker may not ask for {type(call.body).__name__}")

    async def _mint(self, pid: int, request: wire.Mint, deadline: float) -> wire.Minted:
        started = time.monotonic()
        try:
            issuer = self.issuers.get(request.authority)
            if issuer is None:
                raise RefusedError(f"no forward-{request.authority} CA is configured")
            now = dt.datetime.now(dt.UTC)
            serial = secrets.randbits(authority.SERIAL_BITS) | 1 << (authority.SERIAL_BITS - 1)
            approved = issuer.approve(request.names, request.spki, self._settings.profile, now, serial)
            signature = await self.group.sign(request.authority, approved.tbs, approved.digest, deadline, "mint")
        except HsmitmError as error:
            self._mints.labels(request.authority, type(error).__name__.removesuffix("Error")).inc()
            logger.warning(
                "not minted names=%s authority=%s worker=%d: %s", request.names[:5], request.authority, pid, error
            )
            raise
        self._mints.labels(request.authority, "minted").inc()
        logger.info(
            "minted names=%s authority=%s serial=%x worker=%d ms=%.1f",
            ",".join(request.names), request.authority, approved.serial, pid, 1000 * (time.monotonic() - started),
        )  # fmt: skip
        return wire.Minted(
            approved.certificate(signature), approved.not_before.timestamp(), approved.not_after.timestamp()
        )

    def check_ready(self) -> None:
        """Raise TryLaterError unless each CA's key is served by a member that is up."""
        for name in self.group.keys:
            if not self.group.proved_by(name):
                why = "; ".join(f"{member}: {problem}" for member, problem in self.group.problems(name).items())
                raise TryLaterError(f"no member of the HSM serves the forward-{name} key ({why})")

    # what the command line and the status page ask

    def _admin_channel(self, _pid: int) -> Channel:
        channel = Channel(self._serve_admin, self._admins.discard)
        self._admins.add(channel)
        return channel

    async def _serve_admin(self, _channel: Channel, call: wire.Call) -> wire.Reply:
        match call.body:
            case wire.Status():
                return self.status()
            case wire.Ready():
                self.check_ready()
                return wire.Done()
        raise RefusedError(f"the admin socket does not answer {type(call.body).__name__}")

    def totals(self) -> telemetry.Totals:
        """Counters of the signer, of all workers, and of workers that are gone."""
        for member in self.group.members:
            for state in State:
                self._states.labels(member.name, str(state)).set(member.state is state)
            self._sessions.labels(member.name, "busy").set(min(member.in_flight, member.sessions))
            self._sessions.labels(member.name, "total").set(member.sessions)
            self._starts.labels(member.name).set(member.starts)
        self._workers.set_gauges()
        totals = telemetry.Totals()
        totals.add(telemetry.collect(self.registry))
        self._workers.add_to(totals)
        return totals

    def status(self) -> wire.StatusReport:
        """The whole state, for `hsmitm status`."""
        totals = self.totals()
        return wire.StatusReport(
            members=[_member_status(member) for member in self.group.members],
            workers=self._workers.status(),
            listeners=self._workers.listeners(),
            certificates=[self._certificate_status(name, issuer) for name, issuer in self.issuers.items()],
            counters={
                "minted": totals.value("hsmitm_mints_total", result="minted"),
                "mint_errors": totals.value("hsmitm_mints_total") - totals.value("hsmitm_mints_total", result="minted"),
                "cache_hits": totals.value("hsmitm_leaf_cache_lookups_total", result="hit"),
                "cache_misses": totals.value("hsmitm_leaf_cache_lookups_total", result="miss"),
                "signatures": totals.value("hsmitm_signatures_total"),
                "signature_errors": totals.value("hsmitm_signature_errors_total"),
                "signature_seconds": totals.value("hsmitm_signature_seconds_sum"),
                "connections": totals.value("hsmitm_connections_total"),
                "handshake_failures": totals.value("hsmitm_handshake_failures_total"),
            },
        )

    def _certificate_status(self, name: str, issuer: Issuer) -> wire.CertificateStatus:
        certificate, key = issuer.certificate, issuer.key
        holders = [self.group.held[m.name][name] for m in self.group.members if m.name in self.group.held]
        kind = f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else f"P-{key.key_size}"
        return wire.CertificateStatus(
            authority=name,
            subject=certificate.subject.rfc4514_string(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
            key=str(self.group.keys[name].uri),
            key_type=kind,
            proved=self.group.proved_by(name),
            guarded=bool(holders) and all(found.guarded for found in holders),
            problems=self.group.problems(name),
        )


def _der(chain: list[x509.Certificate]) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]


def _member_status(member: Member) -> wire.MemberStatus:
    opened = member.opened
    return wire.MemberStatus(
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
    )
