"""OCSP responses of a host with several workers: one asks the responder, all staple, and a restart asks nobody."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.errors import RefusedError
from hsm.wire.client import ask
from hsm.wire.frames import Done
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import CODEC, MAX_STAPLE, FindStaple, KeepStaple, Reply, Request
from tests.addons.revocation.ocsp_responder import Authority, Responder, der, respond_with, responding
from tests.integration.inbound_system import InboundSystem
from tests.waiting import wait_until

WORKERS = 3
SITE = "shop.example.com"
CA = Authority()


class Shop:
    """A site whose certificate names the responder."""

    def __init__(self, directory: Path, responder: Responder) -> None:
        self.responder = responder
        self.system = InboundSystem.make_inbound(directory, workers=str(WORKERS))
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.system.import_key("shop", self._key)
        self.leaf, self.good = self.certify("chain.pem")
        self.system.listener()
        self.system.site(SITE, keys=["shop"], certificates=["chain.pem"], upstream="http://127.0.0.1:9", ocsp="fetch")

    def certify(self, file: str) -> tuple[x509.Certificate, bytes]:
        """Write a new certificate with its chain, and have the responder know it: the certificate and its response."""
        leaf = CA.leaf(self.responder.url, key=self._key)
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, CA.certificate))
        (self.system.directory / file).write_bytes(chain)
        good = CA.respond(leaf)
        self.responder.answer = respond_with(good)
        return leaf, good

    @property
    def digest(self) -> bytes:
        """What its certificate is called on the wire."""
        return hashlib.sha256(der(self.leaf)).digest()

    @property
    def file(self) -> Path:
        """Where its response is kept."""
        return self.system.directory / "state" / "staples" / f"{self.digest.hex()}.der"

    def workers_that(self, got: str) -> list[str]:
        """Names of the workers that say so of their response, one for each time."""
        return re.findall(rf"(worker-\d).*OCSP response {got}", self.system.log)

    def wait_until_all_staple(self, again: int = 0) -> None:
        """Each worker has its response, and `again` of them for the second time."""
        wait_until(lambda: len(self.workers_that("(?:fetched|taken over)")) == WORKERS + again, self.system.log, 40)
        assert self.connections() == [True] * 16

    def connections(self) -> list[bool]:
        """Of as many connections, which the kernel spreads over the workers, whether each got the response."""
        return [self.is_stapled() for _ in range(16)]

    def is_stapled(self) -> bool:
        """Whether a new connection gets a response. Raises ConnectionError where nobody listens."""
        said = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.system.port}", "-servername", SITE, "-status"],
            input="", capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        if "Connection refused" in said.stderr:
            raise ConnectionError(said.stderr)
        assert "BEGIN CERTIFICATE" in said.stdout, said.stderr
        return "OCSP Response Status: successful" in said.stdout

    def say(self, body: Request) -> Reply:
        """As a worker that was taken over."""
        return asyncio.run(ask(self.system.config.run.socket(WORKER_SOCKET), CODEC, body, 5))

    def asking(self) -> int:
        """The worker that has a connection to the responder; 0 for none."""
        port = int(self.responder.url.split(":")[2].partition("/")[0])
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"}
        for pid in self.system.pids("proxy.processes.worker"):
            if any(str(one.readlink()) in sockets for one in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
        return 0


@pytest.fixture
def shop(softhsm_module: str, tmp_path: Path) -> Iterator[Shop]:
    """One that is not started yet."""
    with responding() as responder:
        yield Shop(tmp_path / "s", responder)


def test_one_request_for_all_workers_and_none_after_a_restart(shop: Shop) -> None:
    """However many workers there are, the responder is asked once; and while that response is good, a hsmitm that was
    started again asks nobody and staples it from its first connection on."""
    with shop.system:
        shop.wait_until_all_staple()
        assert len(shop.workers_that("fetched from")) == 1
        assert len(shop.responder.asked) == 1
        assert shop.file.read_bytes() == shop.good
        assert shop.file.stat().st_mode & 0o777 == 0o600
        (worker, *_) = shop.system.pids("proxy.processes.worker")
        os.kill(worker, signal.SIGKILL)
        shop.wait_until_all_staple(again=1)
    shop.system.start(wait=False)
    try:
        assert wait_until(lambda: _first(shop), "a first connection", 30) == ["stapled"]
        shop.wait_until_all_staple(again=1 + WORKERS)
    finally:
        shop.system.stop()
    assert len(shop.responder.asked) == 1
    assert len(shop.workers_that("taken over from the signer")) == 2 * WORKERS


def _first(shop: Shop) -> list[str]:
    """Of the first connection that is accepted."""
    try:
        return ["stapled" if shop.is_stapled() else "not stapled"]
    except ConnectionError:
        return []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_the_worker_that_fetches_fails(shop: Shop, number: signal.Signals) -> None:
    """A worker that is killed or hangs while it asks the responder for all of them is replaced by another one."""
    go = threading.Event()
    good = shop.responder.answer

    def wait(http: BaseHTTPRequestHandler) -> None:
        if len(shop.responder.asked) == 1:
            go.wait(60)
        else:
            good(http)

    shop.responder.answer = wait
    shop.system.edit(run__hang_timeout_s="0.0")  # else the supervisor kills and replaces it, which is another test's
    with shop.system:
        worker = wait_until(shop.asking, "a worker asks the responder", 20)
        others = {f"worker-{one.index}" for one in shop.system.status().workers if one.pid != worker}
        os.kill(worker, number)
        try:
            wait_until(lambda: others <= set(shop.workers_that("(?:fetched|taken over)")), shop.system.log, 40)
            assert len(shop.responder.asked) == 2
        finally:
            go.set()
            if number is signal.SIGSTOP:
                os.kill(worker, signal.SIGCONT)


def test_junk_of_a_worker_that_was_taken_over(shop: Shop) -> None:
    """What a worker that was taken over hands in is not stapled and keeps nobody from stapling; where the signer can
    tell that it is nothing of ours, it refuses, logs and counts it."""
    with shop.system:
        shop.wait_until_all_staple()
        before = shop.system.status().counters["refused_requests"]
        for body in (
            KeepStaple(bytes(32), shop.good),
            FindStaple(b"", b"", 0),
            KeepStaple(shop.digest, bytes(MAX_STAPLE + 1)),
        ):
            with pytest.raises(RefusedError):
                shop.say(body)
        assert shop.system.status().counters["refused_requests"] == before + 3
        shop.system.until_logged("refused KeepStaple of worker process")
        stranger = Authority(ec.generate_private_key(ec.SECP256R1()), "stranger").respond(shop.leaf)
        assert shop.say(KeepStaple(shop.digest, stranger)) == Done()
        assert shop.file.read_bytes() == stranger
        for worker in shop.system.pids("proxy.processes.worker"):
            os.kill(worker, signal.SIGKILL)
        shop.wait_until_all_staple(again=WORKERS)
        shop.system.until_logged("the OCSP response that the signer keeps is not used: ")
        assert len(shop.responder.asked) == 2
        assert shop.file.read_bytes() == shop.good


def test_without_the_signer_a_worker_fetches_for_itself(shop: Shop) -> None:
    """A worker that starts while the signer does not answer has its response all the same."""
    with shop.system:
        shop.wait_until_all_staple()
        (signer,) = shop.system.pids("proxy.main signer")
        (worker, *_) = shop.system.pids("proxy.processes.worker")
        os.kill(signer, signal.SIGSTOP)
        try:
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: len(shop.workers_that("fetched from")) == 2, shop.system.log, 30)
        finally:
            os.kill(signer, signal.SIGCONT)


def test_another_certificate(shop: Shop) -> None:
    """A response is removed from disk when no site has its certificate any more."""
    with shop.system:
        shop.wait_until_all_staple()
        old = shop.file
        text = shop.system.toml.read_text()
        shop.system.toml.write_text(text.replace("chain.pem", "renewed.pem"))
        shop.leaf, shop.good = shop.certify("renewed.pem")
        assert shop.system.process is not None
        shop.system.process.send_signal(signal.SIGHUP)
        shop.wait_until_all_staple(again=WORKERS)
        assert len(shop.responder.asked) == 2
        assert list(old.parent.iterdir()) == [shop.file]
