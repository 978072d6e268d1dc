"""The signer: the service that owns the members and decides what may be signed.

Workers may ask to mint: the signer builds the certificate itself. And they may use inbound keys (`hsm.signer.inbound`).
The command line asks on a socket of its own. Neither can have bytes of its own choice signed with a CA key.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs
from prometheus_client import CollectorRegistry, Counter, Gauge

from hsm.certificates.files import spki_of
from hsm.certificates.issuer import Issuer, load_issuer
from hsm.certificates.leaf import SERIAL_BITS
from hsm.errors import HsmitmError, MisconfiguredError, RefusedError, TryLaterError
from hsm.group.group import Group
from hsm.group.states import GroupState
from hsm.member.key import Key
from hsm.member.member import Member
from hsm.member.settings import MemberSettings
from hsm.member.states import State
from hsm.secrets.refusals import Refusals
from hsm.signer.inbound import InboundService
from hsm.signer.settings import SignerSettings
from hsm.signer.sites import Sites, load_sites
from hsm.signer.workers import WorkerChannel, Workers
from hsm.wire import admin, telemetry, worker
from hsm.wire.admin import (
    CertificateStatus,
    GroupStatus,
    Info,
    InfoReport,
    MemberStatus,
    Reload,
    Reset,
    Status,
    StatusReport,
    Told,
)
from hsm.wire.channel import Channel
from hsm.wire.endpoint import Endpoint
from hsm.wire.frames import Call, Done, Ready
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET
from hsm.wire.worker import (
    Authorities,
    Authority,
    Chains,
    InboundKeys,
    Mint,
    Minted,
    Report,
    Reported,
    TlsDecrypt,
    TlsSign,
)

AdminChannel = Channel[admin.Request, admin.Reply]

logger = logging.getLogger("hsmitm.signer")

_SLOW_START_S = 2.0
"""How long the start waits for members that are not needed to serve every key."""
_INFO_TIMEOUT_S = 5.0
_AT_START = {
    "group": "[hsm] high_availability or group",
    "authorities": "[forward.trust] or [forward.untrust]",
    "holders": "[forward.trust] or [forward.untrust]",
    "profile": "[forward] leaf_days",
    "run": "[run]",
    "state": "[run]",
    "users": "[run]",
}
"""Settings that are read once, and where the configuration has them."""


class Signer:
    """The service. `open`, then it serves until `close`."""

    def __init__(
        self,
        settings: SignerSettings,
        prompted: Mapping[str, str] | None = None,
        reread: Callable[[], SignerSettings] | None = None,
    ) -> None:
        """`prompted` are PINs that were asked for on a terminal, by member. `reread` gives the settings as the
        configuration has them now. Raises MisconfiguredError."""
        self._settings = settings
        self._prompted = dict(prompted or {})
        self._reread = reread
        if not settings.authorities and not settings.inbound:
            raise MisconfiguredError("there is neither a CA ([forward.trust]) nor an inbound site: nothing to sign")
        self.registry = CollectorRegistry()
        self.issuers = {name: load_issuer(one.certificate) for name, one in settings.authorities.items()}
        sites = self._load_sites(settings)
        self.group = Group(keys_of(settings, self.issuers) | dict(sites.keys), self.registry, settings.failover)
        self.inbound = InboundService(self.group, sites, spkis_of(self.issuers))
        self.group.outage_grace_s = settings.outage_grace_s
        refusals = Refusals(settings.state)
        self._refusals = refusals
        self.group.members = [self._member(one) for one in settings.members]
        self._workers = Workers(self.registry)
        self._admins: set[AdminChannel] = set()
        self._endpoints: list[Endpoint] = []
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._reloading = asyncio.Lock()
        self._changes: set[asyncio.Task[list[str]]] = set()
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
        self._group_states = Gauge(
            "hsmitm_group_state", "1 for the state that the members together are in", ("state",), registry=self.registry
        )

    def _load_sites(self, settings: SignerSettings) -> Sites:
        names = [one.name for one in settings.members]
        return load_sites(settings.inbound, spkis_of(self.issuers), names, anywhere=bool(self._settings.group))

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
        for member in self.group.members:
            self._run(member)
        await self._settled()
        self._refuse_bad_world()
        run, users = self._settings.run, self._settings.users
        self._endpoints = [
            await Endpoint(run, WORKER_SOCKET, users, self._worker_channel).open(),
            await Endpoint(run, ADMIN_SOCKET, frozenset(), self._admin_channel).open(),
        ]

    def _member(self, settings: MemberSettings) -> Member:
        keys = self.group.keys_for(settings.name)
        return Member(settings, keys, self._refusals, self.group, self._prompted.get(settings.name))

    def _run(self, member: Member) -> None:
        self._runs[member.name] = asyncio.create_task(member.run())

    async def _settled(self) -> None:
        """Until every member is in service or known not to be; a member that takes long is not waited for once each
        key is served by another."""
        settling = {asyncio.create_task(member.settled.wait()) for member in self.group.members}
        until = time.monotonic() + _SLOW_START_S
        while settling:
            served = all(self.group.proved_by(name) for name in self.group.keys)
            left = max(0.0, until - time.monotonic()) if served else None
            done, settling = await asyncio.wait(settling, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
        for task in settling:
            task.cancel()

    def _refuse_bad_world(self) -> None:
        for name in self.group.keys:
            members = self.group.holders(name)
            mendable = any(member.state in (State.DOWN, State.STARTING) for member in members)
            if self.group.proved_by(name) or mendable:
                continue
            problems = self.group.problems(name)
            if all(member.state is State.QUARANTINED for member in self.group.members):
                raise MisconfiguredError("; ".join(f"member {m.name}: {m.reason}" for m in members))
            raise MisconfiguredError(
                f"the {self.group.keys[name].title} is on no member: "
                + "; ".join(f"{m}: {why}" for m, why in problems.items())
            )

    async def close(self) -> None:
        """Stop listening, let calls in flight end (at most a second), then end the members."""
        for endpoint in self._endpoints:
            await endpoint.close()
        until = time.monotonic() + 1
        while self._workers.served and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # once, at the end; an event would burden every call
        self._workers.close()
        for channel in self._admins:
            channel.close()
        for task in self._runs.values():
            task.cancel()
        for change in self._changes:
            change.cancel()
        self.inbound.close()
        await asyncio.gather(*self._runs.values(), *self._changes, return_exceptions=True)
        await asyncio.gather(*(member.stop() for member in self.group.members))
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # what workers may ask

    def _worker_channel(self, pid: int) -> WorkerChannel:
        channel = WorkerChannel(worker.CODEC, self._serve_worker, self._workers.leave)
        self._workers.join(channel, pid)
        return channel

    async def _serve_worker(self, channel: WorkerChannel, call: Call[worker.Request]) -> worker.Reply:
        match call.body:
            case Mint():
                return await self._mint(self._workers.pid(channel), call.body, call.deadline)
            case Authorities():
                return Chains({name: _der(issuer.chain) for name, issuer in self.issuers.items()})
            case TlsSign() | TlsDecrypt() | InboundKeys():
                refuse = functools.partial(self._workers.refuse, channel, call.body)
                return await self.inbound.serve(call.body, call.deadline, refuse)
            case Ready():
                for name in self.group.authorities:
                    await self.group.wait_for_member(name, call.deadline)
                return Done()
            case Report():
                self._workers.take(channel, call.body)
                return Reported(self.group.in_service(), self._settings.unavailable, self.inbound.generation)

    async def _mint(self, pid: int, request: Mint, deadline: float) -> Minted:
        started = time.monotonic()
        try:
            issuer = self.issuers.get(request.authority)
            if issuer is None:
                raise RefusedError(f"no forward-{request.authority} CA is configured")
            now = dt.datetime.now(dt.UTC)
            serial = secrets.randbits(SERIAL_BITS) | 1 << (SERIAL_BITS - 1)
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
        return Minted(approved.certificate(signature), approved.not_before.timestamp(), approved.not_after.timestamp())

    def check_ready(self) -> None:
        """Raise TryLaterError unless each CA's key, or where there is no CA any inbound key, is served by a member."""
        group = self.group
        unserved = [name for name in group.authorities or group.keys if not group.proved_by(name)]
        if unserved and (group.authorities or len(unserved) == len(group.keys)):
            why = "; ".join(f"{member}: {problem}" for member, problem in group.problems(unserved[0]).items())
            raise TryLaterError(f"no member of the HSM serves the {group.keys[unserved[0]].title} ({why})")

    # what the command line and the status page ask

    def _admin_channel(self, _pid: int) -> AdminChannel:
        channel = AdminChannel(admin.CODEC, self._serve_admin, self._admins.discard)
        self._admins.add(channel)
        return channel

    async def _serve_admin(self, _channel: AdminChannel, call: Call[admin.Request]) -> admin.Reply:
        match call.body:
            case Status():
                return self.status()
            case Ready():
                self.check_ready()
                return Done()
            case Info():
                return await self._info()
            case Reset():
                return Told(await self._finish(self.group.reset(call.body.member)))
            case Reload():
                return Told(await self._finish(self.reload()))

    async def _finish(self, change: Coroutine[None, None, list[str]]) -> list[str]:
        """A change is made to its end, also when the command line that asked for it is gone."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _info(self) -> InfoReport:
        modules, problems = {}, {}
        for member in self.group.members:
            try:
                modules[member.name] = await member.inspect(time.monotonic() + _INFO_TIMEOUT_S)
            except HsmitmError as error:
                problems[member.name] = str(error)
        return InfoReport(modules, problems)

    async def reload(self) -> list[str]:
        """Take over what changed in the configuration and can change at runtime: members, their sessions, retry counts,
        times, what happens without a member, and inbound sites. In lines, what was done.

        Raises MisconfiguredError, with nothing changed, where the new configuration is wrong.
        """
        if self._reread is None:
            raise RefusedError("this signer has no configuration to read again")
        async with self._reloading:
            new = self._reread()
            sites = self._load_sites(new)
            self._refuse_prompts(new)
            self.inbound.expect(sites)
            lines = await self._reload_members(new)
            lines += self.inbound.take(sites, await self.group.learn())
            group, old = self.group, self._settings
            if new.failover != old.failover or new.outage_grace_s != old.outage_grace_s:
                group.failover, group.outage_grace_s = new.failover, new.outage_grace_s
                lines.append(f"[hsm] now: auto_recovery_retry {new.failover.auto_recovery_retry}, "
                             f"attempt_timeout_ms {1000 * new.failover.attempt_timeout_s:.0f}, "
                             f"request_budget_ms {1000 * new.failover.budget_s:.0f}, "
                             f"keep_alive_s {new.failover.keep_alive_s:g}")  # fmt: skip
            if new.unavailable != old.unavailable:
                lines.append(f"[hsm] now: unavailable {new.unavailable}")
            changeable = structs.replace(
                old, members=new.members, failover=new.failover, unavailable=new.unavailable,
                outage_grace_s=new.outage_grace_s, inbound=new.inbound, for_workers=new.for_workers,
            )  # fmt: skip
            if new.for_workers != old.for_workers:
                lines.append("[[inbound]] changed: each worker takes it over with its next report, within seconds")
            stale = {where for name, where in _AT_START.items() if getattr(new, name) != getattr(changeable, name)}
            stale |= {where for where, text in new.at_start.items() if text != old.at_start.get(where)}
            lines += [f"{where} changed, and takes effect when hsmitm is started again" for where in sorted(stale)]
            self._settings = changeable
            for line in lines:
                logger.info("reload: %s", line)
            return lines or ["nothing changed"]

    def _refuse_prompts(self, new: SignerSettings) -> None:
        present = {member.name for member in self.group.members}
        for one in new.members:
            if one.name not in present and one.pin.prompt:
                raise MisconfiguredError(f"member {one.name}: a PIN from a prompt needs a start on a terminal")

    async def _reload_members(self, new: SignerSettings) -> list[str]:
        lines: list[str] = []
        wanted = {one.name: one for one in new.members}
        present = {member.name: member for member in self.group.members}
        added = [self._member(one) for name, one in wanted.items() if name not in present]
        self.group.members = [*self.group.members, *added]
        for member in added:
            self._run(member)
        for member in added:
            await member.settled.wait()
            lines.append(f"member {member.name} added: {member.state}, {member.reason}")
        for name, member in present.items():
            if name in wanted and (wanted[name] != member.settings or member.state is State.QUARANTINED):
                try:
                    lines.append(f"member {name}: {await self.group.change(member, wanted[name])}")
                except HsmitmError as error:
                    lines.append(f"member {name}: not changed: {error}")
        for name in [one for one in present if one not in wanted]:
            await self._remove(present[name])
            lines.append(f"member {name} removed")
        return lines

    async def _remove(self, member: Member) -> None:
        await member.stop(drain=True)
        task = self._runs.pop(member.name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await member.stop()
        self.group.members = [one for one in self.group.members if one is not member]
        self.group.changed(member)

    def totals(self) -> telemetry.Totals:
        """Counters of the signer, of all workers, and of workers that are gone."""
        self._states.clear()
        self._sessions.clear()
        self._starts.clear()
        for group_state in GroupState:
            self._group_states.labels(str(group_state)).set(self.group.state is group_state)
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

    def status(self) -> StatusReport:
        """The whole state, for `hsmitm status`."""
        totals = self.totals()
        return StatusReport(
            members=[self._member_status(member) for member in self.group.members],
            workers=self._workers.status(),
            listeners=self._workers.listeners(),
            certificates=[
                *(self._certificate_status(name, name, issuer.certificate) for name, issuer in self.issuers.items()),
                *(
                    self._certificate_status(f"inbound {site.name}", site.key, site.chain[0])
                    for site in self.inbound.sites.sites
                ),
            ],
            counters={
                "minted": totals.value("hsmitm_mints_total", result="minted"),
                "mint_errors": totals.value("hsmitm_mints_total") - totals.value("hsmitm_mints_total", result="minted"),
                "cache_hits": totals.value("hsmitm_leaf_cache_lookups_total", result="hit"),
                "cache_misses": totals.value("hsmitm_leaf_cache_lookups_total", result="miss"),
                "signatures": totals.value("hsmitm_signatures_total")
                - totals.value("hsmitm_signatures_total", purpose="test"),
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
            },
            group=GroupStatus(
                name=self._settings.group,
                state=str(self.group.state),
                since=self.group.since,
                high_availability=bool(self._settings.group),
                auto_recovery_retry=self.group.failover.auto_recovery_retry,
                unavailable=self._settings.unavailable,
                waiting=self.group.waiting,
            ),
        )

    def _certificate_status(self, title: str, name: str, certificate: x509.Certificate) -> CertificateStatus:
        key = self.group.keys[name].public
        holders = [member.found[name] for member in self.group.members if name in member.found]
        kind = f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else f"P-{key.key_size}"
        return CertificateStatus(
            authority=title,
            subject=certificate.subject.rfc4514_string(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
            key=str(self.group.keys[name].uri),
            key_type=kind,
            proved=self.group.proved_by(name),
            guarded=bool(holders) and all(found.guarded for found in holders),
            problems=self.group.problems(name) | self.inbound.decryption_problems(name),
        )

    def _member_status(self, member: Member) -> MemberStatus:
        opened = member.opened
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
            keys={
                key.title if key.inbound else name: member.problem(name)
                for name, key in self.group.keys_for(member.name).items()
            },
        )


def keys_of(settings: SignerSettings, issuers: Mapping[Authority, Issuer]) -> dict[str, Key]:
    """The keys that members hold. In an HA group the URI's place is no matter: each member has a partition of its own,
    and the public key tells. Otherwise a key is the business of the one member whose partition the URI names."""
    keys = {}
    for name, issuer in issuers.items():
        stated = settings.authorities[name].key
        if settings.group:
            keys[str(name)] = Key(name, stated.anywhere(), issuer.key, issuer.scheme)
        else:
            holders = (
                frozenset({settings.holders[name]})
                if name in settings.holders
                else frozenset(one.name for one in settings.members)
            )
            keys[str(name)] = Key(name, stated, issuer.key, issuer.scheme, holders)
    return keys


def spkis_of(issuers: Mapping[Authority, Issuer]) -> frozenset[bytes]:
    """The public keys (DER SPKI) of the CAs and of those above them: no inbound site may have one."""
    public = [certificate.public_key() for issuer in issuers.values() for certificate in issuer.chain]
    return frozenset(spki_of(key) for key in public if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey))


def _der(chain: list[x509.Certificate]) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]
