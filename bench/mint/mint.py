"""The mint measurement: complete certificates per second, for new names and for names that the worker's cache knows.

A real signer with one member mints for one worker (`bench.mint.worker`), which goes the way of a worker from the
client's host name to the TLS connection that carries the certificate. The HSM's answer takes as long as is asked for.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from bench import checkout
from bench.mint.signer_alone import SignerAlone
from bench.mint.worker import Errand, Outcome, Settings
from bench.report.doubts import FULL, not_alone
from bench.report.percentiles import percentile
from bench.report.plot import Chart, Series
from bench.report.processes import cpu_s, difference, others_s
from bench.report.report import Progress, Report
from bench.report.versions import installed
from hsm.errors import MisconfiguredError

CACHED_KB = 30.0  # the target: a cache of 10,000 leaves costs a worker 300 MB at most
_LOOKUP_S = 0.3


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure: `seconds` cold and as many cached, for each latency of the HSM. `concurrency` mints at a time by
    a member with `sessions`; a cache of `entries` leaves, each with `names` names."""

    seconds: float
    latencies_ms: list[float]
    key_type: str
    sessions: int
    concurrency: int
    entries: int
    names: int
    seed: int


class Turn(Struct, frozen=True, kw_only=True):
    """Cold or cached with one latency of the HSM. `cpu_s` is by process; `signatures` counts what the member
    signed; `others_share` is how many cores other processes used."""

    kind: str
    latency_ms: float
    outcome: Outcome
    cpu_s: dict[str, float]
    signatures: int
    others_share: float

    @property
    def number(self) -> int:
        """How many complete certificates there were."""
        return len(self.outcome.latencies_ms)

    @property
    def per_s(self) -> float:
        """Certificates per second."""
        return self.number / self.outcome.seconds if self.outcome.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """The latency that `share` (0 to 1) of the certificates did not exceed."""
        return percentile(self.outcome.latencies_ms, share)

    def cpu_ms(self, role: str) -> float:
        """CPU time of a process for each certificate."""
        return 1000 * self.cpu_s.get(role, 0.0) / max(1, self.number)

    def shown(self) -> dict[str, str | float]:
        """As a line of the report's table."""
        return {
            "HSM ms": self.latency_ms,
            "certificates": self.kind,
            "per s": self.per_s,
            "p50 ms": self.percentile_ms(0.5),
            "p99 ms": self.percentile_ms(0.99),
            "max ms": self.percentile_ms(1),
            "signer CPU ms": round(self.cpu_ms("signer"), 3),
            "member CPU ms": round(self.cpu_ms("member"), 3),
            "worker CPU ms": round(self.cpu_ms("worker"), 3),
            "signs /cert": round(self.signatures / max(1, self.number), 2),
        }


async def mint(plan: Plan, progress: Progress) -> Report:
    """Measure. Raises MisconfiguredError where nothing runs."""
    checkout.require_for_latency(plan.latencies_ms)
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hsmitm-bench-") as directory:
        made = SignerAlone(
            Path(directory), key_type=plan.key_type, sessions=plan.sessions, delayed=any(plan.latencies_ms)
        )
        async with made as signer, _worker(plan, signer) as worker:
            measuring = _Measuring(plan, signer, worker, progress)
            filled, lookup, turns = await measuring.all()
    errors = [error for one in (filled, *(turn.outcome for turn in turns)) for error in one.errors]
    figures = _figures(turns) | {
        "cached_kb": filled.rss_kb_growth / max(1, len(filled.latencies_ms)),
        "lookups_per_s": lookup.lookups / lookup.seconds,
        "others_share_max": max(one.others_share for one in turns),
        "failed_requests": filled.failed + sum(one.outcome.failed for one in turns),
    }
    return Report(
        name="mint",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=plan.seed,
        configuration=structs.asdict(plan),
        figures=figures,
        errors=errors,
        detail={"versions": installed(), "filled": filled, "turns": turns},
        rows=[one.shown() for one in turns],
        notes=_doubts(turns, figures) + _left_out(plan),
        charts=_charts(turns),
    )


class _Worker:
    """The worker's process: one errand at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def run(self, errand: Errand) -> Outcome:
        """Send it, and wait for the answer. Raises MisconfiguredError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(errand) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise MisconfiguredError("the worker that asks for certificates has ended; what it said is above")
        return msgspec.json.decode(line, type=Outcome)


@asynccontextmanager
async def _worker(plan: Plan, signer: SignerAlone) -> AsyncIterator[_Worker]:
    settings = Settings(
        socket=str(signer.socket), ca=str(signer.ca), entries=plan.entries, names=plan.names, seed=plan.seed
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "bench.mint.worker", msgspec.json.encode(settings).decode(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 28,  # it tells every latency
    )  # fmt: skip
    try:
        yield _Worker(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends when there are no more errands
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Measuring:
    """The errands, in their order."""

    def __init__(self, plan: Plan, signer: SignerAlone, worker: _Worker, progress: Progress) -> None:
        self._plan, self._signer, self._worker, self._progress = plan, signer, worker, progress
        self._roles = signer.roles | {worker.pid: "worker"}
        self._steps, self._done = 2 + 2 * len(plan.latencies_ms), 0

    async def all(self) -> tuple[Outcome, Outcome, list[Turn]]:
        """Fill the cache, for its memory; ask the cache alone; then cold and cached with each latency."""
        plan, turns = self._plan, []
        self._tell(f"minting {plan.entries} leaves for the cache")
        filled = await self._worker.run(Errand("fill", plan.entries, plan.concurrency))
        self._tell("looking up in the cache alone")
        lookup = await self._worker.run(Errand("lookup", _LOOKUP_S))
        for latency_ms in plan.latencies_ms:
            self._signer.delay(latency_ms)
            for errand in (Errand("cold", plan.seconds, plan.concurrency), Errand("cached", plan.seconds)):
                self._tell(f"{errand.what}, {latency_ms:g} ms")
                turns.append(await self._turn(errand, latency_ms))
        return filled, lookup, turns

    async def _turn(self, errand: Errand, latency_ms: float) -> Turn:
        pids = list(self._roles)
        signed = await self._signer.signatures()
        used, others, begin = cpu_s(pids), others_s(pids), time.monotonic()
        outcome = await self._worker.run(errand)
        by_process = difference(used, cpu_s(pids))
        others_share = max(0.0, others_s(pids) - others) / (time.monotonic() - begin)
        return Turn(
            kind=errand.what,
            latency_ms=latency_ms,
            outcome=outcome,
            cpu_s={role: sum(one for pid, one in by_process.items() if self._roles[pid] == role)
                   for role in set(self._roles.values())},
            signatures=await self._signer.signatures() - signed,
            others_share=others_share,
        )  # fmt: skip

    def _tell(self, text: str) -> None:
        self._progress(text, self._done / self._steps)
        self._done += 1


def _figures(turns: list[Turn]) -> dict[str, float]:
    """The first latency's without a suffix; the others' with theirs."""
    figures: dict[str, float] = {}
    for one in turns:
        suffix = "" if one.latency_ms == turns[0].latency_ms else f"_{one.latency_ms:g}ms"
        figures[f"{one.kind}_per_s{suffix}"] = one.per_s
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            figures[f"{one.kind}_{name}_ms{suffix}"] = one.percentile_ms(share)
        if one.kind == "cold":
            figures |= {f"{role}_cpu_ms{suffix}": one.cpu_ms(role) for role in ("signer", "member", "worker")}
            figures[f"signatures_per_mint{suffix}"] = one.signatures / max(1, one.number)
    return figures


def _left_out(plan: Plan) -> list[str]:
    if checkout.here() or any(plan.latencies_ms):
        return []
    return [f"an HSM that is far away was not measured: {checkout.needed(command='mint')}"]


def _doubts(turns: list[Turn], figures: dict[str, float]) -> list[str]:
    """Where something else than the HSM's way may have been measured, and where a target is missed."""
    full = [
        f"the {role} used {share:.0%} of a core ({one.latency_ms:g} ms): it has one, and is the limit of cold_per_s"
        for one in turns
        if one.kind == "cold"
        for role, used in one.cpu_s.items()
        if (share := used / max(one.outcome.seconds, 1e-9)) > FULL
    ]
    busy = not_alone(figures["others_share_max"], "hsmitm may be better than this")
    large = f"a cached certificate takes {figures['cached_kb']:.1f} kB; the target is {CACHED_KB:g}"
    return full + busy + [large] * (figures["cached_kb"] > CACHED_KB)


def _charts(turns: list[Turn]) -> list[Chart]:
    """Cold and cached are a hundred times apart with a slow HSM: a panel for each."""
    charts = []
    for kind, title in (("cold", "Names never seen before"), ("cached", "Names that the cache knows")):
        ours = [one for one in turns if one.kind == kind]
        series = Series(kind, [f"{one.latency_ms:g} ms" for one in ours], [one.per_s for one in ours])
        charts.append(Chart(title, "what the HSM's answer takes longer", "complete certificates per second",
                            [series], kind="bar"))  # fmt: skip
    return charts
