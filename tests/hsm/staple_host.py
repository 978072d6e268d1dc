"""The signer's keeping of OCSP responses on a real socket, with a clock of the test's and without an HSM."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry

from hsm.signer.settings import InboundSettings
from hsm.signer.sites import Sites, load_sites
from hsm.signer.staples import KeptStaples
from hsm.signer.workers import WorkerChannel, Workers
from hsm.uri import KeyURI
from hsm.wire.client import SignerClient
from hsm.wire.frames import Call, Done
from hsm.wire.worker import CODEC, FindStaple, InboundKeys, InboundTerms, KeepStaple, Reply, Request
from tests.waiting import until


def digest_of(leaf: x509.Certificate) -> bytes:
    """What the certificate is called on the wire."""
    return leaf.fingerprint(hashes.SHA256())


def sites_with(directory: Path, leaves: Sequence[x509.Certificate]) -> Sites:
    """A site for each certificate."""
    settings = []
    for number, leaf in enumerate(leaves):
        path = directory / f"site-{number}.pem"
        path.write_bytes(leaf.public_bytes(Encoding.PEM))
        settings.append(InboundSettings(f"site-{number}", path, KeyURI(object="site")))
    return load_sites(settings, (), ["m"], anywhere=True)


class StapleHost:
    """A signer that keeps responses and can nothing else. `asked` is what workers said; `now` is what its clock says,
    seconds, or another `clock` does."""

    def __init__(self, directory: Path, *leaves: x509.Certificate) -> None:
        self.directory = directory
        self.now = 1000.0
        self.clock: Callable[[], float] = lambda: self.now
        self.asked: list[Request] = []
        self.registry = CollectorRegistry()
        self.answer: Reply | None = None
        """Said to everything, where a test puts something here."""
        self.hangs = False
        self._workers = Workers(self.registry)
        self.restart(*leaves)

    def restart(self, *leaves: x509.Certificate) -> None:
        """As a signer that is started again with these sites: it knows what is on disk."""
        self.kept = KeptStaples(self.directory / "state", self._seconds)
        self.kept.take(sites_with(self.directory, leaves))

    def _seconds(self) -> float:
        return self.clock()

    def file(self, leaf: x509.Certificate) -> Path:
        """Where the response for it is kept."""
        return self.directory / "state" / "staples" / f"{digest_of(leaf).hex()}.der"

    def refused(self, request: str) -> float:
        """How many requests of this kind were refused."""
        return self.registry.get_sample_value("hsmitm_refused_requests_total", {"request": request}) or 0

    async def serve(self, channel: WorkerChannel, call: Call[Request]) -> Reply:
        """Answer a worker."""
        self.asked.append(call.body)
        if self.hangs:
            await asyncio.Event().wait()
        if self.answer is not None:
            return self.answer
        match call.body:
            case FindStaple() | KeepStaple():
                refuse = functools.partial(self._workers.refuse, channel, call.body)
                return self.kept.serve(channel, self._workers.pid(channel), call.body, refuse)
            case InboundKeys():
                return InboundTerms({}, bytes(64), 1, keeps_staples=True)
            case _:
                return Done()

    def accept(self) -> WorkerChannel:
        """A worker's connection."""
        channel = WorkerChannel(CODEC, self.serve, self._workers.leave)
        self._workers.join(channel, 4711)
        return channel

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / "signer.sock"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve."""
        server = await asyncio.get_running_loop().create_unix_server(self.accept, str(self.socket))
        try:
            yield
        finally:
            server.close()
            self._workers.close()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[SignerClient]:
        """A worker's connection to it."""
        async with SignerClient(self.socket) as client:
            await until(lambda: client.connected, "a connection")
            yield client
