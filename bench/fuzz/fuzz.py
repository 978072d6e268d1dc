"""Clients that do wrong, by the ten thousand, against a worker with sites of our own: is anybody else disturbed?

What is watched meanwhile: that the worker lives on, what it holds (memory, descriptors, threads), what it logs, and how
long a client that does nothing wrong waits for its answers.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

from msgspec import Struct, structs, to_builtins

from bench.fuzz import client_flights
from bench.fuzz.bystander import Bystander, Errand, Seen
from bench.fuzz.fuzzer import Fuzzer, Target
from bench.report.percentiles import percentile
from bench.report.plot import Chart, Series
from bench.report.processes import memory
from bench.report.report import Progress, Report
from bench.rig.inbound_system import InboundSystem
from bench.rig.plain_origin import BODY, PlainOrigin
from proxy.demo.origin import OriginCA

LATENCY_LIMIT_MS = 1000.0
"""The longest that a client that does nothing wrong may wait, with an HSM that is near."""
_SESSIONS = 8
_SAMPLES = 50
_SETTLED_S = 20.0
_DESCRIPTORS = 4
"""More than at the start: sessions with the signer and mitmproxy's own files come and go."""
_HARMLESS = "GnuTLS internal error"
"""What GnuTLS says of a few kinds of nonsense from a client."""
_BAD_WORDS = ("Traceback", "has crashed", "internal error", "killed by signal")


class Held(Struct, frozen=True):
    """What a process holds now."""

    rss_kb: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Held:
        """Raises OSError where there is no such process."""
        here = Path(f"/proc/{pid}")
        descriptors, threads = (sum(1 for _ in (here / each).iterdir()) for each in ("fd", "task"))
        return cls(memory([pid]).rss_kb, descriptors, threads)


class Sample(Struct, frozen=True):
    """What the worker held when so many cases had run."""

    cases: int
    held: Held


class KeptOrigin(PlainOrigin):
    """The plain origin, which here keeps its connections: one client of the measurement keeps its own."""

    async def __aenter__(self) -> Self:
        """Listen on the loopback address, on a port of the kernel's choice."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    @staticmethod
    async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
        writer.close()


async def inbound_fuzz(
    number: int, seed: int, *, first: int, clients: int, hsm_latency_ms: float, progress: Progress
) -> Report:
    """Run `number` cases from the case `first` on, with each C_Sign taking `hsm_latency_ms` longer."""
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmitm-bench-")))
        ca = OriginCA()
        (directory / "site-ca.pem").write_text(ca.pem)
        plain = await stack.enter_async_context(KeptOrigin())
        system = await stack.enter_async_context(
            InboundSystem(directory, plain=plain, site_ca=ca, sessions=_SESSIONS, seed=seed)
        )
        for module in system.modules.values():
            module.latency(hsm_latency_ms)
        target = Target(system.inbound, [one.host for one in system.sites])
        progress("recording clients", 0.0)
        sessions = await client_flights.recorded(target.address, target.hosts)
        watched = _Watched(system, Fuzzer(target, sessions, seed, clients), number, progress)
        fuzzing = time.monotonic()
        async with Bystander(Errand(target.address, target.hosts, str(directory / "site-ca.pem"))) as bystander:
            await watched.run(first)
            fuzzing = time.monotonic() - fuzzing
            seen = await bystander.stop()
        await watched.settle(len(sessions) + 1 + len(seen.new_ms))
    outcomes = watched.fuzzer.outcomes.most_common()
    errors = watched.errors + _disturbed(seen, *limits_ms(clients, hsm_latency_ms))
    ran = sum(watched.fuzzer.outcomes.values())
    return Report(
        name="inbound-fuzz",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=seed,
        configuration={
            "number": number,
            "first": first,
            "clients": clients,
            "hsm_latency_ms": hsm_latency_ms,
            "flights": [s.client for s in sessions],
        },
        figures={"cases": ran, "failed_requests": len(errors), "per_s": ran / fuzzing}
        | watched.figures()
        | _times(seen),
        errors=errors,
        rows=[{"outcome": name, "cases": count, "share": count / ran} for name, count in outcomes],
        notes=[f"{one} is not installed: none of its flights were spoiled" for one in client_flights.missing()],
        detail={
            "samples": [{"cases": one.cases} | structs.asdict(one.held) for one in watched.samples],
            "bystander": to_builtins(seen),
            "recent": [to_builtins(one) for one in watched.fuzzer.recent] if errors else [],
            "counters": watched.counters,
        },
        charts=[_memory(watched.samples), *_waits(seen)],
    )


class _Watched:
    """The fuzzer at work, and the worker under it."""

    def __init__(self, system: InboundSystem, fuzzer: Fuzzer, number: int, progress: Progress) -> None:
        self.fuzzer = fuzzer
        self.samples: list[Sample] = []
        self.errors: list[str] = []
        self.counters: dict[str, float] = {}
        self._system, self._number, self._progress = system, number, progress
        self._pid = 0

    async def run(self, first: int) -> None:
        """All cases, or as many as the worker survives."""
        (worker,) = (await self._system.status()).workers
        self._pid = worker.pid
        every = max(1, self._number // _SAMPLES)
        self._keep(Held.of(self._pid))

        def done(count: int) -> None:
            if count % every == 0 and not self.fuzzer.stopped:
                self._sample(first + count)
                self._progress(f"{count} cases", count / self._number)

        await self.fuzzer.run(first, self._number, done)

    def _keep(self, held: Held) -> None:
        self.samples.append(Sample(sum(self.fuzzer.outcomes.values()), held))

    def _sample(self, number: int) -> None:
        try:
            self._keep(Held.of(self._pid))
        except OSError:
            self.fuzzer.stopped = True
            numbers = sorted(one.number for one in self.fuzzer.recent)
            self.errors.append(f"the worker was gone at case {number}; it was one of {numbers} (bytes: detail.recent)")

    async def settle(self, others: int) -> None:
        """Wait until the worker has let go of everything; what it does not let go of is an error. `others` are the
        connections that were none of the fuzzer's: a report that knows of fewer than all is an old one."""
        until = time.monotonic() + _SETTLED_S
        made = sum(self.fuzzer.outcomes.values()) + others
        start = self.samples[0].held
        while True:
            report = await self._system.status()
            self.counters = report.counters
            pids = [one.pid for one in report.workers]
            if pids != [self._pid]:
                self.errors.append(f"the worker was {self._pid}, now there are {pids}")
                break
            now = Held.of(self._pid)
            waiting, known = self.counters["inbound_waiting"], self.counters["connections"]
            if known >= made and not waiting and now.descriptors <= start.descriptors + _DESCRIPTORS:
                self._keep(now)
                break
            if time.monotonic() > until:
                known_of = f"{known:g} of {made} connections, {waiting:g} handshakes go on"
                self.errors.append(f"{_SETTLED_S:g} s later: {known_of}, {start} became {now}")
                break
            await asyncio.sleep(0.1)  # another process's doing
        self.errors += self.fuzzer.failures
        log = (self._system.directory / "run.log").read_text(errors="replace").splitlines()
        self.errors += [
            f"log: {line}" for line in log if any(word in line.replace(_HARMLESS, "") for word in _BAD_WORDS)
        ]
        if refused := self.counters.get("refused_requests"):
            self.errors.append(f"the signer refused {refused:g} requests")

    def figures(self) -> dict[str, float]:
        """What the worker holds more at the end. Memory counts from a tenth of the cases on: threads, and what
        libraries keep for each, come first."""
        warm, last, start = (self.samples[place].held for place in (len(self.samples) // 10, -1, 0))
        return {
            "rss_start_kb": start.rss_kb,
            "rss_warm_kb": warm.rss_kb,
            "rss_end_kb": last.rss_kb,
            "rss_growth_kb": last.rss_kb - warm.rss_kb,
            "descriptors_growth": last.descriptors - start.descriptors,
            "threads_growth": last.threads - start.threads,
            "handshakes": self.counters.get("inbound_handshakes", 0.0),
            "handshakes_failed": self.counters.get("inbound_failed", 0.0),
            "signature_errors": self.counters.get("signature_errors", 0.0),
        }


def _times(seen: Seen) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, values in (("kept", seen.kept_ms), ("new", seen.new_ms)):
        if values:
            figures |= {
                f"{name}_requests": len(values),
                f"{name}_p50_ms": percentile(values, 0.5),
                f"{name}_p99_ms": percentile(values, 0.99),
                f"{name}_max_ms": max(values),
            }
    return figures


def _memory(samples: Sequence[Sample]) -> Chart:
    """What the worker holds, over the cases."""
    resident = Series("worker", [one.cases for one in samples], [one.held.rss_kb / 1024 for one in samples])
    return Chart("The worker's memory", "cases", "resident memory, MB", [resident])


def _waits(seen: Seen) -> list[Chart]:
    """How long the client that does nothing wrong waits; none where it was never served."""
    names = ["p50", "p99", "max"]
    series = [
        Series(name, names, [percentile(values, 0.5), percentile(values, 0.99), max(values)])
        for name, values in (("kept connection", seen.kept_ms), ("new connections", seen.new_ms))
        if values
    ]
    chart = Chart("A client that does nothing wrong", "requests", "ms to the answer", series, kind="bar")
    return [chart] if series else []


def limits_ms(clients: int, hsm_latency_ms: float) -> tuple[float, float]:
    """How long the client that does nothing wrong may wait, in ms: on its kept connection, where nothing is signed, and
    on a new one, whose signature may stand behind one of each of the `clients`."""
    return LATENCY_LIMIT_MS, LATENCY_LIMIT_MS + hsm_latency_ms * math.ceil((clients + 1) / _SESSIONS)


def _disturbed(seen: Seen, kept_limit_ms: float, new_limit_ms: float) -> list[str]:
    late = [
        f"{name}: {len(slow)} of {len(values)} took more than {limit_ms:g} ms, at most {max(slow):.0f}"
        for name, values, limit_ms in (
            ("kept connection", seen.kept_ms, kept_limit_ms),
            ("new connections", seen.new_ms, new_limit_ms),
        )
        if (slow := [one for one in values if one > limit_ms])
    ]
    none = [] if seen.kept_ms and seen.new_ms else ["the client that did nothing wrong was never served"]
    return seen.errors + late + none
