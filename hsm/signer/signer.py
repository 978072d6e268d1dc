"""The signer: the service that owns the members and decides what may be signed.

Workers may ask to mint: the signer builds the certificate itself. And they may use inbound keys (`hsm.signer.inbound`).
The command line asks on a socket of its own. Neither can have bytes of its own choice signed with a CA key.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Coroutine, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry, Gauge

from hsm.certificates.issuer import load_issuer, refuse_unfit, spkis_of
from hsm.errors import HsmitmError, MisconfiguredError, TryLaterError
from hsm.group.group import Group
from hsm.secrets.refusals import Refusals
from hsm.signer.admission import Admission
from hsm.signer.inbound import InboundService
from hsm.signer.members import Members, keys_of
from hsm.signer.minting import Minting
from hsm.signer.monitors import Monitors
from hsm.signer.quotas import Allowance
from hsm.signer.records import Records
from hsm.signer.reload import Reloading, Reread
from hsm.signer.settings import SignerSettings
from hsm.signer.sites import load_sites
from hsm.signer.staples import KeptStaples
from hsm.signer.status import StatusBoard
from hsm.signer.workers import WorkerChannel, Workers
from hsm.wire import admin, census, telemetry, worker
from hsm.wire.admin import Admit, Info, InfoReport, Reload, Reset, Status, StatusReport, Told
from hsm.wire.channel import Channel
from hsm.wire.endpoint import Endpoint
from hsm.wire.frames import Call, Done, Ready
from hsm.wire.pressure import Intake
from hsm.wire.run_directory import ADMIN_SOCKET, STATUS_SOCKET, WORKER_SOCKET
from hsm.wire.worker import (
    Authorities,
    Chains,
    FindStaple,
    InboundKeys,
    KeepStaple,
    Mint,
    Report,
    Reported,
    TlsDecrypt,
    TlsSign,
)

AdminChannel = Channel[admin.Request, admin.Reply]

_INFO_TIMEOUT_S = 5.0


class Signer:
    """The door: `open`, then it serves until `close`. Who may ask for what, on which socket, is decided here; each
    answer is made by the part whose business it is."""

    def __init__(
        self,
        settings: SignerSettings,
        prompted: Mapping[str, str] | None = None,
        reread: Reread | None = None,
        records: Records | None = None,
    ) -> None:
        """`prompted` are PINs that were asked for on a terminal, by member. `reread` gives the settings as the
        configuration has them now. `records` are of leaves; the log without. Raises MisconfiguredError."""
        if not settings.authorities and not settings.inbound:
            raise MisconfiguredError("there is neither a CA ([forward.trust]) nor an inbound site: nothing to sign")
        self.registry = registry = CollectorRegistry()
        self.issuers = {name: load_issuer(one.certificate) for name, one in settings.authorities.items()}
        refuse_unfit(self.issuers.items())
        cas = spkis_of(self.issuers.values())
        names = [one.name for one in settings.members]
        sites = load_sites(settings.inbound, cas, names, anywhere=bool(settings.group))
        self.group = Group(keys_of(settings, self.issuers) | dict(sites.keys), registry, settings.failover)
        self.group.outage_grace_s = settings.outage_grace_s
        self._refusals = Refusals(settings.state)
        self._members = Members(self.group, self._refusals, dict(prompted or {}))
        self._members.make(settings.members)
        self._workers = Workers(registry)
        self._allowance = Allowance(settings.quotas, registry, self._workers.name)
        self.inbound = InboundService(self.group, sites, cas, settings.state, self._allowance)
        self._minting = Minting(
            self.issuers, self.group, settings.profile, self._allowance, registry, records or Records()
        )
        self._board = StatusBoard(registry, self.group, self._workers, self.inbound, self.issuers)
        self._monitors = Monitors(lambda: self._board.seen(self.check_ready))
        self._staples = KeptStaples(settings.state)
        self._reloading = Reloading(
            settings, reread, cas, self.group, self._members, self.inbound, self._staples, self._allowance
        )
        self._reload_failed = Gauge(
            "hsmitm_config_reload_failed", "1 where the last reload found a wrong file, and changed nothing",
            registry=registry,
        )  # fmt: skip
        self._admins: dict[AdminChannel, int] = {}
        self._admission: Admission[AdminChannel] = Admission(settings.run)
        self._endpoints: list[Endpoint] = []
        self._changes: set[asyncio.Task[list[str]]] = set()
        self._intake = Intake()
        self._lock = -1

    async def open(self) -> None:
        """Start the members, wait until each is up or known not to be, then listen.

        Raises MisconfiguredError where a key is served by no member for reasons that only an operator can mend; an HSM
        that merely cannot be reached is no such reason: it is tried again while we serve.
        """
        settings = self._reloading.settings
        for name in (WORKER_SOCKET, ADMIN_SOCKET, STATUS_SOCKET):
            settings.run.socket(name)  # refuses a path that is too long, before anybody logs in
        settings.run.prepare()
        self._refusals.prepare()
        self._lock = settings.run.lock("signer")
        self._staples.take(self.inbound.sites)
        self._members.start(self.group.members)
        await self._members.settled()
        self._members.refuse_bad_world()
        self._members.tell_of_the_missing()
        self.inbound.tell()
        self._endpoints = [
            await Endpoint(
                settings.run, WORKER_SOCKET, settings.users, self._worker_channel, census.WORKERS,
                self._workers.turn_away,
            ).open(),
            await Endpoint(
                settings.run, ADMIN_SOCKET, frozenset(), self._admin_channel, census.COMMANDS,
                before=self._admission.publish,
            ).open(),
            await Endpoint(settings.run, STATUS_SOCKET, settings.monitors, self._monitors.join, census.MONITORS).open(),
        ]  # fmt: skip

    async def close(self) -> None:
        """Stop listening, let calls in flight end (at most a second), then end the members."""
        for endpoint in self._endpoints:
            await endpoint.close()
        self._admission.close()
        until = time.monotonic() + 1
        while self._workers.served and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # once, at the end; an event would burden every call
        self._workers.close()
        for channel in self._admins:
            channel.close()
        self._monitors.close()
        self._members.cancel()
        for change in self._changes:
            change.cancel()
        self.inbound.close()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await self._members.stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # what workers may ask

    def _worker_channel(self, pid: int) -> WorkerChannel:
        channel = WorkerChannel(worker.CODEC, self._serve_worker, self._workers.leave, intake=self._intake)
        self._workers.join(channel, pid)
        return channel

    async def _serve_worker(self, channel: WorkerChannel, call: Call[worker.Request]) -> worker.Reply:
        match call.body:
            case Mint():
                return await self._minting.mint(self._workers.pid(channel), call.body, call.deadline)
            case Authorities():
                known = self.issuers if call.body.several else self.issuers.keys() & {"trust", "untrust"}
                return Chains({name: _der(self.issuers[name].chain) for name in known})
            case TlsSign() | TlsDecrypt() | InboundKeys():
                refuse = functools.partial(self._workers.refuse, channel, call.body)
                return await self.inbound.serve(self._workers.pid(channel), call.body, call.deadline, refuse)
            case FindStaple() | KeepStaple():
                refuse = functools.partial(self._workers.refuse, channel, call.body)
                return self._staples.serve(channel, self._workers.pid(channel), call.body, refuse)
            case Ready():
                for name in self.group.authorities:
                    await self.group.wait_for_member(name, call.deadline, self._workers.pid(channel))
                return Done()
            case Report():
                samples = sum(len(family.samples) for family in call.body.metrics)
                self._allowance.report(self._workers.pid(channel), samples)
                self._workers.take(channel, call.body)
                return Reported(
                    self.group.in_service(),
                    self._reloading.settings.unavailable,
                    self.inbound.terms,
                    self.inbound.configuration,
                )

    def check_ready(self) -> None:
        """Raise TryLaterError unless each CA's key, or where there is no CA any inbound key, is served by a member."""
        group = self.group
        unserved = [name for name in group.authorities or group.keys if not group.proved_by(name)]
        if unserved and (group.authorities or len(unserved) == len(group.keys)):
            why = "; ".join(f"{member}: {problem}" for member, problem in group.problems(unserved[0]).items())
            raise TryLaterError(f"no member of the HSM serves the {group.keys[unserved[0]].title} ({why})")

    # what the command line asks

    def _admin_channel(self, pid: int) -> AdminChannel:
        channel = AdminChannel(admin.CODEC, self._serve_admin, self._admin_left)
        self._admins[channel] = pid
        return channel

    def _admin_left(self, channel: AdminChannel) -> None:
        self._admins.pop(channel, None)
        self._admission.forget(channel)

    async def _serve_admin(self, channel: AdminChannel, call: Call[admin.Request]) -> admin.Reply:
        if isinstance(call.body, Admit):
            self._admission.admit(channel, call.body)
            return Done()
        self._admission.check(channel, self._admins.get(channel, 0))
        match call.body:
            case Status():
                return self.status()
            case Ready():
                self.check_ready()
                return Done()
            case Info():
                return await self._info()
            case Reset():
                return Told.of(await self._finish(self.group.reset(call.body.member)))
            case Reload():
                return Told.of(await self._finish(self.reload()))

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
        """`Reloading.reload`: what can change is taken over, the rest is named. In lines, what was done."""
        try:
            lines = await self._reloading.reload()
        except MisconfiguredError:
            self._reload_failed.set(1)
            raise
        self._reload_failed.set(0)
        return lines

    def totals(self) -> telemetry.Totals:
        """Counters of the signer, of all workers, and of workers that are gone."""
        return self._board.totals()

    def status(self) -> StatusReport:
        """The whole state, for `hsmitm status`."""
        return self._board.report(self._reloading.settings)


def _der(chain: list[x509.Certificate]) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]
