"""Start signer, workers and status page, watch them, start them again, end them in order. Holds no key, signs nothing.

`hsmitm run` supervises a signer, workers and the status page; `hsmitm proxy` workers alone, with the signer elsewhere
on the machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

from hsm.errors import MisconfiguredError
from proxy import listening
from proxy.config.file import Config
from proxy.config.section import Address
from proxy.processes import environment, limits, logs, notify, quarters, rights, status_page
from proxy.processes.child import Child
from proxy.processes.files import Desk
from proxy.processes.guard import Guard

logger = logging.getLogger("hsmitm.supervisor")

_ORPHANS_LEAVE_S = 3.0
"""Beside the grace period: how long processes of a supervisor that was killed may take to make room for ours."""
_SIGNER_STOP_S = 5.0
_LOOK_S = 0.5


class _Addresses(NamedTuple):
    """Where workers listen, with the ports that were reserved."""

    listen: Address | None
    inbound: list[Address]


class Supervisor:
    """All children of one `hsmitm run` or `hsmitm proxy`."""

    def __init__(self, config: Config, pins: dict[str, str], *, with_signer: bool) -> None:
        """`pins` are those that a prompt got, by member; the signer alone is told."""
        self._config = config
        self._pins = pins
        self._with_signer = with_signer
        self._leave = asyncio.Event()
        self._children: list[Child] = []
        self._running: list[asyncio.Task[None]] = []
        self._guard = Guard(config.run, config.path)
        self._desk = Desk(config.path)
        self._given = environment.of_worker(os.environ, config.file.run.worker_environment, config.secret_variables)
        self._quarters = quarters.choose(config, self._given, with_signer=with_signer)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises MisconfiguredError where a child cannot boot."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._with_signer:
            self._config.run.prepare()
        with self._guard.hold(), ExitStack() as reservations:
            addresses = await self._reserve(reservations)
            watching = asyncio.create_task(self._watch())
            try:
                await self._start_all(addresses)
                await self._until_end()
            finally:
                notify.tell("STOPPING=1")
                await self._stop_all()
                watching.cancel()
                self._desk.close()

    async def _watch(self) -> None:
        """See that no child hangs, and tell the service manager that we do not.

        Only time in which we ran ourselves counts: after a pause of the whole machine everybody is as late as we are.
        """
        before = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            for one in self._children:
                one.watch(seen_s(before, now))
            before = now

    def _reload(self) -> None:
        """SIGHUP: the signer reads the configuration again, and tells the workers if there is anything for them. They
        open the decryption log anew."""
        signers = [one for one in self._children if one.name == "signer"]
        for one in self._children:
            if one.name == "signer" or one.name.startswith("worker"):
                one.send(signal.SIGHUP)
        if not signers:
            logger.info("reload: the decryption log is opened anew; for all else send SIGHUP to the signer")

    async def _reserve(self, reservations: ExitStack) -> _Addresses:
        """Our addresses. Orphans of a killed supervisor are told to leave, and waited for."""
        until = time.monotonic() + self._config.file.proxy.grace_s + _ORPHANS_LEAVE_S
        while True:
            try:
                with ExitStack() as taken:
                    listen = self._reserved(self._config.listen, taken) if self._config.listen else None
                    inbound = [self._reserved(one, taken) for one in self._config.inbound]
                    if self._with_signer:
                        os.close(self._config.run.lock("signer"))
                    reservations.enter_context(taken.pop_all())
            except MisconfiguredError:
                if time.monotonic() > until or not self._guard.dismiss():
                    raise
                await asyncio.sleep(0.1)
            else:
                return _Addresses(listen, inbound)

    def _reserved(self, address: Address, keep: ExitStack) -> Address:
        held, found = listening.reserve(address, self._quarters.cage.uid)
        keep.enter_context(held)
        return found

    async def _start_all(self, addresses: _Addresses) -> None:
        logger.log(logging.INFO if self._quarters.strong else logging.WARNING, "workers: %s", self._quarters.words)
        if self._with_signer:
            await self._start([self._signer()])
        workers = [self._worker(index, addresses) for index in range(1, self._config.workers + 1)]
        await self._start([*workers, *self._status_page()])
        if not self._leave.is_set():
            count = f"{self._config.workers} worker" + ("s" if self._config.workers > 1 else "")
            serving = [f"{self._config.file.proxy.mode} proxy on {addresses.listen}"] if addresses.listen else []
            serving += [f"inbound on {one}" for one in addresses.inbound]
            logger.info("ready: %s, %s", ", ".join(serving), count)
            notify.tell("READY=1")
            self._running.append(asyncio.create_task(notify.keep_alive()))

    async def _start(self, children: list[Child]) -> None:
        """Start and wait until each is ready, or one cannot boot, or we are told to leave."""
        self._children += children
        self._running += [asyncio.create_task(one.run()) for one in children]
        leaving = asyncio.create_task(self._leave.wait())
        all_ready = asyncio.create_task(_all_ready(children))
        ends: list[asyncio.Future[Any]] = [all_ready, leaving, *(one.ended_for_good for one in children)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        all_ready.cancel()
        self._raise_failure()

    async def _until_end(self) -> None:
        leaving = asyncio.create_task(self._leave.wait())
        ends: list[asyncio.Future[Any]] = [leaving, *(one.ended_for_good for one in self._children)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        self._raise_failure()

    def _raise_failure(self) -> None:
        for one in self._children:
            if one.ended_for_good.done():
                hint = f". {self._quarters.hint}" if one.name.startswith("worker") else ""
                raise MisconfiguredError(f"{one.name} cannot start; the line above says why{hint}")

    async def _stop_all(self) -> None:
        """Workers first, all at once, with their grace period; then the signer that they may still ask."""
        if self._children:
            logger.info("stopping")
        workers = [one for one in self._children if one.name != "signer"]
        patience = self._config.file.proxy.grace_s + _ORPHANS_LEAVE_S
        await asyncio.gather(*(one.stop(patience) for one in workers))
        await asyncio.gather(*(one.stop(_SIGNER_STOP_S) for one in self._children if one.name == "signer"))
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _signer(self) -> Child:
        argv = [sys.executable, "-P", "-m", "proxy.main", "signer", "--config", str(self._config.path)]
        if self._quarters.user:
            argv += ["--workers-as", self._quarters.user]
        run = self._config.file.run
        return Child("signer", argv, environment.of_signer(os.environ), json.dumps(self._pins), run.hang_timeout_s)

    def _status_page(self) -> list[Child]:
        wanted = self._with_signer and self._config.status_listen and not self._config.status_elsewhere
        if not wanted:
            return []
        given = environment.of_worker(os.environ, [], self._config.secret_variables)
        cage = quarters.of_page(self._config, given, self._quarters.cage)
        hang_s = self._config.file.run.hang_timeout_s
        return [status_page.made(self._config.path, cage, environment=given, hang_s=hang_s, desk=self._desk)]

    def _worker(self, index: int, addresses: _Addresses) -> Child:
        argv = [
            sys.executable,
            "-P",
            "-m",
            "proxy.processes.worker",
            "--config",
            str(self._config.path),
            "--index",
            str(index),
        ]
        if addresses.listen:
            argv += ["--listen", str(addresses.listen)]
        for one in addresses.inbound:
            argv += ["--inbound", str(one)]
        argv = self._quarters.cage.command(argv)
        hang_s = self._config.file.run.hang_timeout_s
        return Child(f"worker {index}", argv, self._given, hang_s=hang_s, desk=self._desk)


def seen_s(before: float, now: float) -> float:
    """How much of the time between two looks the supervisor itself ran in, in seconds."""
    return min(now - before, 2 * _LOOK_S)


async def _all_ready(children: list[Child]) -> None:
    for one in children:
        await one.ready.wait()


def run(config: Config, pins: dict[str, str], *, with_signer: bool) -> None:
    """Supervise in this process until told to stop. Raises MisconfiguredError."""
    logs.configure(config.file.log.level, "hsmitm")
    limits.no_core()  # a prompted PIN is here, decrypted traffic in the workers
    limits.raise_descriptors()
    rights.seal()

    async def supervise() -> None:
        await Supervisor(config, pins, with_signer=with_signer).run()

    asyncio.run(supervise())
