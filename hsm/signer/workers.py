"""The workers that are connected, what they report, and what those that are gone have counted."""

from __future__ import annotations

import collections
import logging
import time

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge

from hsm.errors import RefusedError
from hsm.signer.ledger import Ledger
from hsm.wire import telemetry
from hsm.wire.admin import ListenerStatus, WorkerStatus
from hsm.wire.channel import Channel
from hsm.wire.worker import MAX_WORKERS, Reply, Report, Request

logger = logging.getLogger("hsmitm.workers")

_CLOCK_S = 60.0

_SILENT_S = 5.0
"""A worker reports each second. One that has not for so long hangs, and is none that serves."""

WorkerChannel = Channel[Request, Reply]


class _Worker(Struct):
    """A connection: the process id that the kernel gives for it, and its last report."""

    pid: int
    report: Report | None = None
    ledger: Ledger | None = None
    heard: float = 0.0

    @property
    def reports(self) -> bool:
        """Whether it still does, so that it can be counted on."""
        return self.report is not None and time.monotonic() - self.heard < _SILENT_S


class Workers:
    """Every connection on the workers' socket."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry` gets the gauges of who is connected."""
        self._connected: dict[WorkerChannel, _Worker] = {}
        self._retired = Ledger(0.0)
        self._gone: dict[int, _Worker] = {}
        """The last of each index whose connection ended: retired when another process takes its place."""
        self._number = Gauge("hsmitm_workers", "Workers connected to the signer", registry=registry)
        self._up = Gauge("hsmitm_worker_up", "1 for each worker that reports", ("worker",), registry=registry)
        self._refused = Counter(
            "hsmitm_refused_requests", "Requests that no worker may make", ("request",), registry=registry
        )
        self._disbelieved = Counter(
            "hsmitm_reported_refused", "Numbers of workers' reports that were not believed", ("worker", "why"),
            registry=registry,
        )  # fmt: skip
        self._ended = Counter(
            "hsmitm_worker_connections_ended", "Connections of workers refused or ended, by the bound exceeded",
            ("bound",), registry=registry,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._connected)

    @property
    def served(self) -> bool:
        """Whether a call of one of them is being answered."""
        return any(channel.serving for channel in self._connected)

    def close(self) -> None:
        """End their connections: the signer leaves."""
        for channel in self._connected:
            channel.close()

    def join(self, channel: WorkerChannel, pid: int) -> None:
        """A process has connected."""
        self._connected[channel] = _Worker(pid)

    def leave(self, channel: WorkerChannel) -> None:
        """Its connection has ended; what it counted stays."""
        gone = self._connected.pop(channel)
        if channel.spoilt:  # no worker of ours says such a thing: it is broken, or taken over
            self._refused.labels("unknown").inc()
            logger.warning("refused worker process %d, which sent what no worker may: %s", gone.pid, channel.spoilt)
        if channel.exceeded:
            self._ended.labels(channel.exceeded).inc()
        if gone.report is not None:
            before = self._gone.get(gone.report.index)
            if before is not None and before.ledger is not None:
                self._retired.fold(before.ledger)
            self._gone[gone.report.index] = gone

    def turn_away(self, why: str) -> None:
        """A connection was not admitted: another "user"'s, or one beyond a "limit"."""
        self._ended.labels(why).inc()

    def pid(self, channel: WorkerChannel) -> int:
        """The process at the other end."""
        return self._connected[channel].pid

    def name(self, pid: int) -> str:
        """What a process is called in metrics: the index that it reports, or "unknown"."""
        return next(
            (str(one.report.index) for one in self._connected.values() if one.pid == pid and one.report), "unknown"
        )

    def refuse(self, channel: WorkerChannel, request: Request, why: str) -> RefusedError:
        """Note a request that no worker of ours makes: a worker is broken, or taken over. The error to answer with.

        `why` says what was asked, and nothing of the bytes to sign or to decrypt.
        """
        what = type(request).__name__
        self._refused.labels(what).inc()
        logger.warning("refused %s of worker process %d: %s", what, self.pid(channel), why)
        return RefusedError(why)

    def take(self, channel: WorkerChannel, report: Report) -> None:
        """Note what it reports. Raises RefusedError for an index that it cannot have: a process has one for its life,
        and no other has the same; and for a time to come."""
        worker, now = self._connected[channel], time.monotonic()
        if not 0 <= report.index <= MAX_WORKERS:
            raise RefusedError(f"a worker of index {report.index}; they go up to {MAX_WORKERS}")
        if not report.started <= time.time() + _CLOCK_S:
            raise RefusedError("a worker that will be started some day")
        for one in self._connected.values():  # one that hangs is being replaced
            if one.reports and one.report and (one.pid == worker.pid) != (one.report.index == report.index):
                raise RefusedError(f"worker process {worker.pid} is not of index {report.index}: that is another's")
        if worker.ledger is None:
            worker.ledger = self._ledger(worker.pid, report)
        for why, number in worker.ledger.take(report.metrics, now - (worker.heard or now)).items():
            self._disbelieved.labels(str(report.index), why).inc(number)
        worker.report, worker.heard = report, now

    def _ledger(self, pid: int, report: Report) -> Ledger:
        """Where only its connection was lost it still counts what it counted."""
        gone = self._gone.get(report.index)
        if gone is not None and gone.report is not None and gone.ledger is not None:
            same = (gone.pid, gone.report.started) == (pid, report.started)
            if same:
                del self._gone[report.index]
                return gone.ledger
        # It may have counted before this signer was started, but not before the machine was.
        return Ledger(min(max(0.0, time.time() - report.started), time.clock_gettime(time.CLOCK_BOOTTIME)))

    def _reports(self) -> list[tuple[int, Report]]:
        """Of workers that go on reporting."""
        return [(one.pid, one.report) for one in self._connected.values() if one.report is not None and one.reports]

    def set_gauges(self) -> None:
        """Bring the gauges up to date, before they are collected."""
        self._number.set(len(self._connected))
        self._up.clear()
        for _, report in self._reports():
            self._up.labels(str(report.index)).set(1)

    def add_to(self, totals: telemetry.Totals) -> None:
        """Add what all workers counted, those that are gone too."""
        self._retired.add_to(totals, gone=True)
        for gone in self._gone.values():
            if gone.ledger is not None:
                gone.ledger.add_to(totals, gone=True)
        for one in self._connected.values():
            if one.ledger is not None:
                one.ledger.add_to(totals)

    @property
    def full(self) -> bool:
        """Whether each of them turns clients away."""
        reports = self._reports()
        return bool(reports) and all(report.full for _, report in reports)

    def status(self) -> list[WorkerStatus]:
        """Those that report, by index."""
        found = [WorkerStatus(one.index, pid, one.started, one.connections) for pid, one in self._reports()]
        return sorted(found, key=lambda worker: worker.index)

    def listeners(self) -> list[ListenerStatus]:
        """Each address that a worker listens on, and how many do."""
        addresses = collections.Counter(address for _, report in self._reports() for address in report.listeners)
        return [ListenerStatus(address, number) for address, number in sorted(addresses.items())]
