"""OCSP responses kept for all workers: whose turn it is, what is taken, and what is found on disk."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import structs

from hsm.certificates.files import load_chain
from hsm.errors import RefusedError, TryLaterError
from hsm.signer.settings import InboundSettings, SignerSettings
from hsm.signer.staples import TURN_S, TURNS, WINDOW_S
from hsm.wire.client import SignerClient
from hsm.wire.frames import Done
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import MAX_STAPLE, FindStaple, KeepStaple, StapleFound
from tests.addons.revocation.ocsp_responder import Authority
from tests.hsm.signers import serving
from tests.hsm.sites import certify, site_of
from tests.hsm.staple_host import StapleHost, digest_of, sites_with
from tests.softhsm import Store
from tests.waiting import until

CA = Authority(ec.generate_private_key(ec.SECP256R1()))
LEAF, OTHER = CA.leaf("http://ocsp.example"), CA.leaf("http://ocsp.example")
SHOP = digest_of(LEAF)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[StapleHost]:
    """A signer with one site."""
    made = StapleHost(tmp_path, LEAF)
    async with made.listening():
        yield made


@pytest.fixture
async def one(host: StapleHost) -> AsyncIterator[SignerClient]:
    """A worker."""
    async with host.worker() as client:
        yield client


@pytest.fixture
async def another(host: StapleHost) -> AsyncIterator[SignerClient]:
    """Another worker."""
    async with host.worker() as client:
        yield client


async def find(worker: SignerClient, seen: bytes = b"", within_s: float = 150, *, fetches: bool = True) -> StapleFound:
    """What a worker is told that has looked at the response `seen`."""
    told = await worker.call(FindStaple(SHOP, hashlib.sha256(seen).digest() if seen else b"", within_s, fetches), 10)
    assert isinstance(told, StapleFound)
    return told


async def keep(worker: SignerClient, response: bytes) -> None:
    """Hand in a response."""
    assert await worker.call(KeepStaple(SHOP, response), 10) == Done()


# whose turn it is


async def test_one_fetches_for_all(host: StapleHost, one: SignerClient, another: SignerClient) -> None:
    """One worker is told to fetch, others to wait; what it hands in goes to each that has not seen it."""
    assert await find(one, fetches=False) == StapleFound(b"", "other")
    assert await find(one) == StapleFound(b"", "yours")
    assert await find(one) == StapleFound(b"", "yours")
    assert await find(another) == StapleFound(b"", "other")
    await keep(one, b"response")
    assert await find(another) == StapleFound(b"response", "kept")
    assert await find(another, fetches=False) == StapleFound(b"response", "kept")
    assert (await find(another, b"response")).response == b""


async def test_who_has_just_asked_has_asked_for_all(host: StapleHost, one: SignerClient, another: SignerClient) -> None:
    """After a fetch that brought nothing new the next one has its turn when its own time is over, not before."""
    assert (await find(one)).turn == "yours"
    await keep(one, b"")
    host.now += 100
    assert await find(another, within_s=150) == StapleFound(b"", "tried")
    assert (await find(another, within_s=50)).turn == "yours"


async def test_a_worker_that_hangs(host: StapleHost, one: SignerClient, another: SignerClient) -> None:
    """A turn ends after a while; what the worker hands in later is not taken from it."""
    assert (await find(one)).turn == "yours"
    host.now += TURN_S - 1
    assert (await find(another)).turn == "other"
    host.now += 1
    assert (await find(another)).turn == "yours"
    with pytest.raises(TryLaterError, match="not this worker's turn"):
        await keep(one, b"late")
    await keep(another, b"response")
    with pytest.raises(TryLaterError):
        await keep(one, b"late")
    assert await find(one) == StapleFound(b"response", "kept")
    assert host.refused("KeepStaple") == 0


async def test_a_worker_that_is_gone(host: StapleHost, another: SignerClient) -> None:
    """The turn of a worker that was killed is the next one's at once."""
    async with host.worker() as killed:
        assert (await find(killed)).turn == "yours"
        assert (await find(another)).turn == "other"
    await until(lambda: len(host._workers) == 1, "its connection is gone")
    assert (await find(another)).turn == "yours"


async def test_how_often(host: StapleHost) -> None:
    """A worker that was taken over has one turn in a while, and a few with new connections: no more is written."""
    for number in range(TURNS):
        async with host.worker() as hostile:
            assert (await find(hostile, within_s=0)).turn in ("yours", "kept")
            await keep(hostile, b"junk %d" % number)
            with pytest.raises(TryLaterError):
                await keep(hostile, b"more junk")
    async with host.worker() as worker:
        last = b"junk %d" % (TURNS - 1)
        assert await find(worker, last, 0) == StapleFound(b"", "other")
        with pytest.raises(TryLaterError):
            await keep(worker, b"more junk")
        assert host.file(LEAF).read_bytes() == last
        host.now += WINDOW_S
        assert (await find(worker, last, 0)).turn == "yours"


async def test_without_a_turn(host: StapleHost, one: SignerClient, another: SignerClient) -> None:
    """A worker that fetched for itself hands in what it got, where nobody else is about to."""
    await keep(one, b"response")
    assert (await find(another)).response == b"response"


# what is refused


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (FindStaple(digest_of(OTHER), b"", 0), "no site has the certificate"),
        (FindStaple(b"x" * 100000, b"", 0), "no site has the certificate"),
        (KeepStaple(digest_of(OTHER), b"response"), "no site has the certificate"),
        (KeepStaple(SHOP, bytes(MAX_STAPLE + 1)), f"of {MAX_STAPLE + 1} bytes; at most {MAX_STAPLE} are kept"),
    ],
    ids=["find unknown", "find endless", "keep unknown", "keep oversize"],
)
async def test_refused(
    host: StapleHost, one: SignerClient, request_: FindStaple | KeepStaple, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What no worker of ours says is refused, logged in one short line, and counted."""
    with pytest.raises(RefusedError, match=why):
        await one.call(request_, 10)
    kind = type(request_).__name__
    assert host.refused(kind) == 1
    [line] = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert line.startswith(f"refused {kind} of worker process 4711: ")
    assert len(line) < 200
    assert not host.file(LEAF).parent.exists()


async def test_the_largest(host: StapleHost, one: SignerClient) -> None:
    """A response of just the limit is kept, over a restart too."""
    await keep(one, bytes(MAX_STAPLE))
    host.restart(LEAF)
    assert (await find(one)).response == bytes(MAX_STAPLE)


# on disk


async def test_restart(host: StapleHost, one: SignerClient) -> None:
    """A signer that is started again has the responses of before, from files that nobody else can read."""
    await keep(one, b"response")
    assert host.file(LEAF).stat().st_mode & 0o777 == 0o600
    assert host.file(LEAF).parent.stat().st_mode & 0o777 == 0o700
    host.restart(LEAF)
    assert await find(one) == StapleFound(b"response", "kept")


def _too_large(path: Path) -> None:
    path.write_bytes(bytes(MAX_STAPLE + 1))


def _link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_bytes(b"junk")
    path.unlink()
    path.symlink_to(elsewhere)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil", [_too_large, _link, _pipe, _directory, lambda path: path.chmod(0o666), lambda path: path.write_bytes(b"")],
    ids=["too large", "a link", "a pipe", "a directory", "open to all", "empty"],
)  # fmt: skip
async def test_not_ours(host: StapleHost, one: SignerClient, spoil: Callable[[Path], None]) -> None:
    """What is no file of ours, or was cut, is left alone; a signer starts and keeps the next response in its place
    where it can."""
    await keep(one, b"response")
    spoil(host.file(LEAF))
    host.restart(LEAF)
    assert await find(one) == StapleFound(b"", "yours")
    await keep(one, b"new")
    assert await find(one) == StapleFound(b"new", "kept")
    if spoil is not _directory:
        host.restart(LEAF)
        assert (await find(one)).response == b"new"


async def test_no_room(host: StapleHost, one: SignerClient, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be written, responses are kept as long as the signer lives, and the log says so."""
    (host.directory / "state").write_bytes(b"")
    await keep(one, b"response")
    assert (await find(one)).response == b"response"
    assert "will not outlast the signer: cannot write" in caplog.text


async def test_removed(host: StapleHost, one: SignerClient) -> None:
    """The response of a certificate that no site has any more is forgotten and its file removed; others stay, as does
    what is not ours."""
    host.restart(LEAF, OTHER)
    await keep(one, b"response")
    assert await one.call(KeepStaple(digest_of(OTHER), b"other"), 10) == Done()
    directory = host.file(LEAF).parent
    (directory / "notes.txt").write_text("an operator's")
    (directory / f"{SHOP.hex()}.new").write_bytes(b"half")
    host.kept.take(sites_with(host.directory, [OTHER]))
    assert sorted(directory.iterdir()) == sorted([host.file(OTHER), directory / "notes.txt"])
    with pytest.raises(TryLaterError, match="since the last reload"):
        await find(one)
    assert host.refused("FindStaple") == 0
    host.kept.take(sites_with(host.directory, [OTHER]))
    with pytest.raises(RefusedError):
        await find(one)


async def test_the_signer(
    sites_store: Store, sites_settings: SignerSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A signer keeps responses of its sites' certificates over its own restart, and none of those that a reload took
    away."""
    caplog.set_level(logging.INFO, "hsmitm.ocsp")
    site: InboundSettings = site_of(sites_store, "blog", tmp_path)
    now = [structs.replace(sites_settings, inbound=[site])]
    digest = digest_of(load_chain(site.site, site.certificate)[0])
    for response in (b"", b"response"):
        async with serving(now[0], lambda: now[0]) as signer, _worker(now[0]) as worker:
            assert await worker.call(FindStaple(digest, b"", 0, fetches=False), 10) == StapleFound(
                response, "kept" if response else "other"
            )
            await worker.call(KeepStaple(digest, b"response"), 10)
            if response:
                certify(sites_store, "blog", site.certificate)
                await signer.reload()
                with pytest.raises(TryLaterError, match="since the last reload"):
                    await worker.call(FindStaple(digest, b"", 0), 10)
    assert list((now[0].state / "staples").iterdir()) == []
    assert f"site {site.site}: keeping an OCSP response of 8 bytes from worker process {os.getpid()}" in caplog.text


def _worker(settings: SignerSettings) -> SignerClient:
    return SignerClient(settings.run.socket(WORKER_SOCKET))
