"""A worker's process: mitmproxy as a library with our addons, and a connection to the signer. Wiring only.

A worker for our own sites alone has no forward proxy: no CA, no leaf cache, no listener for it.

It loads no PKCS#11 module and sees no PIN; `tests/integration/test_privileges.py` looks into its memory for both.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mitmproxy import exceptions
from mitmproxy.master import Master
from prometheus_client import Counter

from addons import seam
from addons.edge.connecting.proxyserver import Proxyserver
from addons.edge.listeners.listeners import Listeners
from addons.edge.listeners.next_layer import NextLayer
from addons.edge.proving.probe import Probe
from addons.edge.proving.proof import Proof
from addons.edge.proving.trial import shake
from addons.edge.refusal import Refusals
from addons.edge.websocket import Turns
from addons.engine import stock_addons
from addons.engine.loop import WorkerLoop
from addons.engine.master import LeanMaster
from addons.forward.availability import Availability
from addons.forward.block import Block
from addons.forward.forward import Forward
from addons.forward.new_names import NewNames
from addons.pages.pages import Pages
from addons.policy.addon import PolicyAddon
from addons.policy.notices import Notices
from addons.policy.over_time import PolicyOverTime
from addons.policy.rules import Compiled
from addons.records.connection_log import ConnectionLog
from addons.records.metrics import Metrics
from addons.tls.handshake_timeout import HandshakeTimeout
from addons.upstream import own
from addons.upstream.tls import UpstreamTls
from hsm import reading
from hsm.errors import HsmitmError, MisconfiguredError
from hsm.wire import telemetry
from hsm.wire.client import SignerClient
from hsm.wire.worker import Report, Reported
from proxy.config import messages
from proxy.config.section import Address
from proxy.config.worker import WorkerConfig, load, policy_in
from proxy.config.worker import listeners as sites_in
from proxy.processes import limits, logs, record_file, supervised
from proxy.processes.line import Line
from proxy.processes.outgoing import Outgoing
from proxy.processes.record_file import RecordFile

if TYPE_CHECKING:
    from addons.inbound.over_time import InboundSites

logger = logging.getLogger("hsmitm.worker")

_REPORT_EVERY_S = 1.0
_DRAIN_POLL_S = 0.05
_FLUSH_S = 1.0
_STREAM_FROM = "64k"
"""Smaller bodies go on whole, with a known length."""


class Worker:
    """One worker: started once, drained once."""

    def __init__(
        self,
        config: WorkerConfig,
        index: int,
        listen: Address | None,
        inbound: list[Address],
        records: RecordFile | None = None,
    ) -> None:
        """The addresses are the configuration's, with the ports that the supervisor reserved. `records` is where the
        decryption log goes; None where there is none."""
        self._config = config
        self._index = index
        self._listen = listen
        self._inbound = inbound
        self._started = time.time()
        self._records = records
        self._metrics = Metrics()
        logs.count_in(self._metrics.registry)
        self._listeners = Listeners(config.limits, self._metrics.registry)
        self._availability = Availability()
        self._signer = SignerClient(config.signer)
        self._sites: InboundSites | None = None
        self._policy = PolicyAddon(
            config.policy, self._metrics.registry,
            away=lambda: self._availability.away(self._signer, config.proxy.mint_timeout_s),
        )  # fmt: skip
        self._notices = Notices()
        self._policies = PolicyOverTime(self._policy, self._read_policy, self._metrics.registry)
        self.leave = asyncio.Event()

    async def serve(self, ready_fd: int | None) -> None:
        """Listen, serve until `leave`, then let flows in progress end. Raises MisconfiguredError."""
        async with self._signer:
            if self._inbound:
                from addons.inbound.over_time import InboundSites  # noqa: PLC0415  # needs GnuTLS

                config = self._config
                self._sites = await InboundSites.start(
                    config.inbound, config.handshakes, self._signer, self._metrics.registry,
                    reread=lambda: sites_in(config.path),
                )  # fmt: skip
            master = self._master()
            running = asyncio.create_task(master.run())
            proxyserver = master.addons.get("proxyserver")
            await self._wait_until_listening(running, proxyserver)
            addresses = [self._listen] * (self._listen is not None) + self._inbound
            logger.info("worker %d listens on %s", self._index, ", ".join(map(str, addresses)))
            supervised.tell_ready(ready_fd)
            reporting = asyncio.create_task(self._report(proxyserver))
            await self.leave.wait()
            await self._drain(proxyserver)
            reporting.cancel()
            if self._sites is not None:
                await self._sites.close()
            master.shutdown()
            await running
            if self._records is not None:
                self._records.flush(_FLUSH_S)

    def reopen(self) -> None:
        """SIGHUP: files of logs were rotated. A reload is the signer's; it tells us what we need to know."""
        if self._records is not None:
            self._records.reopen()

    def _master(self) -> Master:
        section, mitmproxy = self._config.proxy, self._config.mitmproxy
        master = LeanMaster(stock_addons.LeanOptions(), asyncio.get_running_loop())
        watched = bool(mitmproxy.scripts or mitmproxy.options)
        seam.put_in(
            self._config.limits, watched=watched, streamed=mitmproxy.streamed, connect_s=section.connect_timeout_s
        )
        scripts = [str(self._config.base / script) for script in mitmproxy.scripts]
        for script in scripts:
            if not Path(script).is_file():
                raise MisconfiguredError(f"mitmproxy.scripts: there is no file {script}")
        chosen = stock_addons.choose(
            self._addons(), mitmproxy.options, instead=(Block(), Proxyserver()), scripts=bool(scripts),
            upstream=section.mode.startswith("upstream"),
            decision=NextLayer(self._config.limits, section.passing, self._metrics.registry),
        )  # fmt: skip
        try:
            master.addons.add(*chosen)
            master.options.update(
                mode=self._modes(),
                ssl_verify_upstream_trusted_ca=_for_openssl(self._config.upstream_ca),
            )
            if not scripts:  # options alone look at small bodies
                master.options.update(stream_large_bodies=_STREAM_FROM)
                stock_addons.trust_messages()
            stock_addons.set_options(master, mitmproxy.options)
            if scripts:
                if mitmproxy.stream is None:
                    logger.info("scripts get event streams, gRPC and what has no Content-Length as it comes; "
                                "[mitmproxy] stream says what else they get whole or as it comes")  # fmt: skip
                master.options.update(scripts=scripts)
        except exceptions.OptionsError as error:
            raise MisconfiguredError(f"mitmproxy refuses its options: {error}") from error
        return master

    def _addons(self) -> list[object]:
        section, limits, cache_entries = self._config.proxy, self._config.limits, self._config.cache_entries
        own.check(self._config.certificates)
        refusals = Refusals(self._metrics.registry)
        ours: list[object] = [
            record_file.connections(self._records, self._metrics.registry, self._index),
            self._metrics,
            ConnectionLog(),
            refusals,
            Turns(),
            self._listeners,
            *self._outgoing(refusals),
            self._policy,
            Pages(self._config.pages.contact, self._config.pages.html(self._config.base)),
        ]
        if self._sites is not None:
            ours.append(self._sites.addon)
        ours.append(UpstreamTls(section.tls_suites, self._config.base))
        if cache_entries is not None:
            ours.append(
                Forward(
                    self._signer,
                    self._metrics,
                    self._availability,
                    cache_entries=cache_entries,
                    mint_timeout_s=section.mint_timeout_s,
                    new_names=NewNames(limits.new_names_per_s, limits.new_names_burst, refusals),
                    suites=section.tls_suites,
                )
            )
        return [*ours, HandshakeTimeout(section.client_handshake_timeout_s, section.connect_timeout_s)]

    def _outgoing(self, refusals: Refusals) -> list[object]:
        made = Outgoing(self._config, [self._listen, *self._inbound], refusals, self._metrics.registry)
        probe = Probe(shake, self._listeners.cut, self._config.proxy.connect_timeout_s, self._metrics.registry)
        self._policy.prove = Proof(made.resolver.addresses, probe).prove
        return [*made.addons, probe]

    def _modes(self) -> list[str]:
        modes = [f"{self._config.proxy.mode}@{_place(self._listen)}"] if self._listen else []
        for number, (listener, address) in enumerate(zip(self._config.inbound, self._inbound, strict=True)):
            kind = "inboundtransparent" if listener.transparent else "inbound"
            modes.append(f"{kind}:{number}@{_place(address)}")
        return modes

    async def _read_policy(self) -> Compiled:
        """The policy as the file has it now; compiled beside the traffic."""
        path = self._config.path
        own.forget()  # what was renewed is read again
        return await asyncio.to_thread(policy_in, messages.read(path), path)

    async def _wait_until_listening(self, running: asyncio.Task[None], proxyserver: Proxyserver) -> None:
        while not proxyserver.is_running:
            if running.done():
                await running
            await asyncio.sleep(0.005)
        if not all(server.is_running for server in proxyserver.servers):
            raise MisconfiguredError("cannot listen on every address; the lines above say why")

    async def _report(self, proxyserver: Proxyserver) -> None:
        """Tell the signer of ourselves, each second; it is where status and metrics of all workers come together."""
        missed = Counter(
            "hsmitm_reports_missed", "Reports that the signer did not take", registry=self._metrics.registry
        )
        while True:
            report = Report(
                pid=os.getpid(),
                index=self._index,
                started=self._started,
                listeners=[str(Address(*address[:2])) for address in proxyserver.listen_addrs()],
                connections=self._metrics.connections,
                metrics=telemetry.collect(self._metrics.registry),
                full=self._listeners.full,
            )
            try:
                reply = await self._signer.call(report, _REPORT_EVERY_S)
                assert isinstance(reply, Reported)
                self._availability.hear(reply)
                await self._policies.hear(reply)
                if self._index == 1:  # for all of them
                    self._notices.look(self._policy.policy, datetime.now(UTC))
                if self._sites is not None:
                    await self._sites.hear(reply)
            except HsmitmError:
                missed.inc()
            await asyncio.sleep(_REPORT_EVERY_S)

    async def _drain(self, proxyserver: Proxyserver) -> None:
        """Stop listening, have clients ask somebody else from now on, and give flows in progress their time."""
        await proxyserver.servers.update([])
        await self._listeners.take_leave()
        until = time.monotonic() + self._config.proxy.grace_s
        while self._metrics.flows and time.monotonic() < until:  # noqa: ASYNC110  # once, at the end of a life
            await asyncio.sleep(_DRAIN_POLL_S)
        if self._metrics.flows:
            logger.warning("worker %d cuts %d flows that did not end in time", self._index, self._metrics.flows)


def _for_openssl(roots: Path | None) -> str | None:
    return str(reading.for_libraries(roots)) if roots else None


def _place(address: Address) -> str:
    """As mitmproxy's modes have it: the last colon ends the host, which has no brackets."""
    return f"{address.host}:{address.port}"


async def _serve(config: WorkerConfig, arguments: argparse.Namespace, line: Line | None) -> None:
    listen = Address.parse(arguments.listen) if arguments.listen else None
    inbound = [Address.parse(one) for one in arguments.inbound]
    records = record_file.of(config.decryption_log, config.base, line)
    worker = Worker(config, arguments.index, listen, inbound, records)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.leave.set)
    loop.add_signal_handler(signal.SIGHUP, worker.reopen)
    if arguments.supervised:
        await supervised.begin(arguments.ready_fd)
    await worker.serve(arguments.ready_fd)


def main() -> int:
    """Entry point: `python -m proxy.processes.worker`, started by the supervisor."""
    parser = argparse.ArgumentParser(prog="hsmitm worker")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--listen")
    parser.add_argument("--inbound", action="append", default=[])
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--files-fd", type=int)
    arguments = parser.parse_args()
    line = Line(arguments.files_fd) if arguments.files_fd is not None else None
    if line is not None:
        reading.use(line.ask)
    try:
        config = load(arguments.config)
        logs.configure(config.log.level, f"worker-{arguments.index}")
        limits.raise_descriptors()
        loop = WorkerLoop(config.proxy.connect_timeout_s)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_serve(config, arguments, line))
    except MisconfiguredError as error:
        logger.error("%s", error)  # noqa: TRY400  # an operator's sentence, no traceback
        return supervised.EX_CONFIG
    except SystemExit:  # mitmproxy's errorcheck: something was logged as an error before serving began
        logger.error("mitmproxy could not start; the lines above say why")  # noqa: TRY400
        return supervised.EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
