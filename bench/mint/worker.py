"""A worker that only mints: a process of its own, `python -m bench.mint.worker`.

It is a worker's event loop, mitmproxy's options and our `Forward` with its cache and the connection to the signer; no
network. A client's connection is made up, and `Forward.tls_start_client` is called for it as mitmproxy calls it: what
comes back is a TLS connection that carries a complete certificate, ready for the handshake. That step is what is
timed, cold and cached alike. It takes errands from its standard input, one JSON value on a line, and answers each.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography import x509
from mitmproxy import options
from msgspec import Struct, field
from OpenSSL import crypto

from addons.engine import stock_addons
from addons.engine.loop import WorkerLoop
from addons.engine.master import LeanMaster
from addons.forward.availability import Availability
from addons.forward.forward import Forward
from addons.forward.known import Known
from addons.forward.leaf_cache import Leaf, LeafCache, LeafKey
from addons.records.metrics import Metrics
from addons.tls.refusal import Refusal
from addons.upstream.tls import UpstreamTls
from bench.mint.made_up_clients import Clients
from bench.report.processes import memory
from hsm.wire.client import SignerClient

_TIMEOUT_S = 30.0
"""Longer than a worker gives a client: a slow answer is a latency here, not an error."""
_WARM_UP = 64
_CHECKED = 50
_YIELD_EVERY = 100


class Settings(Struct, frozen=True, kw_only=True):
    """`entries` is the cache's limit. Each leaf has `names` names: its host, and those of the server's certificate.
    `ca` is the PEM file that minted leaves are checked with; `socket` is the signer's."""

    socket: str
    ca: str
    entries: int
    names: int
    seed: int


class Errand(Struct, frozen=True):
    """fill: `amount` new leaves into the cache. cold: new ones for `amount` seconds. cached: leaves of the cache for
    `amount` seconds. lookup: the cache alone, without the TLS connection. `concurrency` is for mints."""

    what: Literal["fill", "cold", "cached", "lookup"]
    amount: float
    concurrency: int = 1


class Outcome(Struct, kw_only=True):
    """`latencies_ms` are of each that succeeded. `rss_kb_growth` is what this process holds now and did not before."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    lookups: int = 0
    cpu_s: float = 0.0
    rss_kb_growth: int = 0
    checked: int = 0
    errors: list[str] = field(default_factory=list)
    failed: int = 0


class MintWorker:
    """Forward, and the clients that are made up for it."""

    def __init__(self, settings: Settings, signer: SignerClient) -> None:
        """In a running event loop."""
        self._settings = settings
        self._forward = Forward(
            signer, Metrics(), Availability(), cache_entries=settings.entries, mint_timeout_s=_TIMEOUT_S
        )
        made = options.Options()
        master = LeanMaster(made, asyncio.get_running_loop())
        master.addons.add(*stock_addons.choose([self._forward, UpstreamTls()], {}, scripts=False, upstream=False))
        self._ca = x509.load_pem_x509_certificate(Path(settings.ca).read_bytes())
        self._clients = Clients(made, settings.names)
        self._numbers = itertools.count()
        self._minted: list[str] = []
        self._chance = random.Random(settings.seed)  # noqa: S311
        self._refusals: list[str] = []
        refusing = logging.getLogger("hsmitm.forward")
        refusing.addHandler(_Listing(self._refusals))
        refusing.propagate = False

    async def run(self, errand: Errand) -> Outcome:
        """One errand, and what came of it."""
        outcome, self._refusals[:] = Outcome(), []
        held, used, begin = self._held(errand), time.process_time(), time.monotonic()
        samples: list[tuple[str, Any]] = []
        match errand.what:
            case "fill":
                hosts = self._new_hosts(round(errand.amount), float("inf"))
                await self._mint(hosts, errand.concurrency, outcome, samples)
            case "cold":
                hosts = self._new_hosts(sys.maxsize, begin + errand.amount)
                await self._mint(hosts, errand.concurrency, outcome, samples)
            case "cached":
                await self._cached(begin + errand.amount, outcome, samples)
            case "lookup":
                await self._lookup(errand.amount, outcome)
        outcome.seconds = outcome.seconds or time.monotonic() - begin
        outcome.cpu_s = time.process_time() - used
        outcome.rss_kb_growth = self._held(errand) - held
        outcome.errors += self._refusals
        self._check(samples, outcome)
        return outcome

    @staticmethod
    def _held(errand: Errand) -> int:
        """Resident kB, garbage not counted; only where it is the question."""
        if errand.what != "fill":
            return 0
        gc.collect()
        return memory([os.getpid()]).rss_kb

    def _new_hosts(self, number: int, until: float) -> Any:
        for one in itertools.islice(self._numbers, number):
            if time.monotonic() >= until:
                return
            yield f"host-{self._settings.seed}-{one:07}.bench.test"

    async def _mint(self, hosts: Any, concurrency: int, outcome: Outcome, samples: list[tuple[str, Any]]) -> None:
        async def client() -> None:
            for host in hosts:
                if await self._present(host, outcome, samples):
                    self._minted.append(host)

        await asyncio.gather(*(client() for _ in range(concurrency)))

    async def _cached(self, until: float, outcome: Outcome, samples: list[tuple[str, Any]]) -> None:
        # The newer half: which leaves were evicted at the edge depends on the order in which mints ended.
        known = self._minted[-max(1, self._settings.entries // 2) :]
        for number in itertools.count():
            if time.monotonic() >= until:
                break
            await self._present(self._chance.choice(known), outcome, samples)
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        # One after another, without a wait: the seconds are those of the step, not of making clients up.
        outcome.seconds = sum(outcome.latencies_ms) / 1000

    async def _present(self, host: str, outcome: Outcome, samples: list[tuple[str, Any]]) -> bool:
        """One client that asks for `host`; whether it got its certificate."""
        data = self._clients.arrived(host)
        client = data.context.client
        self._forward._facts[client.id] = Known(verified=True)  # noqa: SLF001  # as its server's handshake would
        begin = time.perf_counter()
        if (waiting := self._forward.tls_start_client(data)) is not None:
            await waiting
        took_ms = 1000 * (time.perf_counter() - begin)
        self._forward.client_disconnected(client)
        given: Any = data.ssl_conn
        if given is None or isinstance(given, Refusal):
            outcome.failed += 1
            return False
        outcome.latencies_ms.append(took_ms)
        if len(samples) < _CHECKED:
            samples.append((host, given))
        return True

    def _check(self, samples: list[tuple[str, Any]], outcome: Outcome) -> None:
        """A few of the certificates: by the CA, and for the host."""
        for host, conn in samples:
            found = conn.get_certificate(as_cryptography=True)
            carried = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            try:
                found.verify_directly_issued_by(self._ca)
                if host not in carried.get_values_for_type(x509.DNSName):
                    raise ValueError("the host is not among its names")
            except Exception as error:  # noqa: BLE001  # whatever is wrong with a certificate is an error to report
                outcome.failed += 1
                outcome.errors.append(f"the certificate for {host} is bad: {error or type(error).__name__}")
        outcome.checked = len(samples)

    async def _lookup(self, seconds: float, outcome: Outcome) -> None:
        """The same code on a cache of as many leaves, as Forward asks it: is it there? then give it."""
        entries = self._settings.entries
        kept = Leaf(crypto.X509.from_cryptography(self._ca), time.time() + 86400, time.time() + 80000)
        cache = LeafCache(_giving(kept), entries, Metrics().count_lookup)
        keys = [LeafKey("trust", "p256", (f"host-{number}.bench.test",)) for number in range(entries)]
        for key in keys:
            await cache.leaf(key)
        chosen = self._chance.choices(keys, k=1000)
        begin = time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:
            for key in chosen:
                if key in cache:
                    await cache.leaf(key)
            outcome.lookups += len(chosen)
        outcome.seconds = elapsed


def _giving(kept: Leaf) -> Any:
    async def mint(_key: LeafKey) -> Leaf:
        return kept

    return mint


class _Listing(logging.Handler):
    """Forward tells in its log why a client got no certificate."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._told) < _CHECKED:
            self._told.append(record.getMessage())


async def _serve(settings: Settings) -> None:
    """Errand after errand, until the standard input ends."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # as mitmproxy's master does while it runs
    async with SignerClient(Path(settings.socket)) as signer:
        worker = MintWorker(settings, signer)
        await worker.run(Errand("fill", _WARM_UP))
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            outcome = await worker.run(msgspec.json.decode(line, type=Errand))
            sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: WorkerLoop(_TIMEOUT_S)) as runner:
        runner.run(_serve(msgspec.json.decode(sys.argv[1], type=Settings)))
