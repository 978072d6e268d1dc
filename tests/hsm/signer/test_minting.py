"""Minting on real sockets and a real partition: the leaf that a worker gets, and the ones that it does not get."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder
from cryptography.x509.verification import Store as TrustStore
from msgspec import structs

from bench.rig.faulty_module import FaultyModule
from hsm.errors import HsmitmError, OverloadedError, RefusedError
from hsm.group import waiting_line
from hsm.signer.settings import AuthoritySettings, Quotas, SignerSettings
from hsm.signer.signer import Signer
from hsm.uri import KeyURI
from hsm.wire import endpoint
from hsm.wire.client import SignerClient
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import Authorities, Authority, Chains, Mint, Minted
from tests.cas import make_ca
from tests.hsm.signers import leaf_spki, mint, serving
from tests.hsm.sites import site_of
from tests.softhsm import MODULE, Store
from tests.waiting import until

# --- what a worker gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authority", ["trust", "untrust"])
async def test_a_worker_gets_a_leaf(worker: SignerClient, settings: SignerSettings, authority: Authority) -> None:
    """A worker gets a leaf for its own key and the names it asked for, and a client that trusts the CA accepts it."""
    spki = leaf_spki()
    names = ["www.example.com", "*.cdn.example.com", "192.0.2.1"]
    minted = await worker.call(Mint(authority, names, spki), 10)
    assert isinstance(minted, Minted)
    leaf = x509.load_der_x509_certificate(minted.certificate)
    ca = x509.load_pem_x509_certificate(settings.authorities[authority].certificate.read_bytes())
    leaf.verify_directly_issued_by(ca)
    assert leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki
    verifier = PolicyBuilder().store(TrustStore([ca]))
    for host in ("www.example.com", "img.cdn.example.com"):
        chain = verifier.build_server_verifier(x509.DNSName(host)).verify(leaf, [])
        assert chain == [leaf, ca]
    assert minted.not_before == leaf.not_valid_before_utc.timestamp()
    assert minted.not_after == leaf.not_valid_after_utc.timestamp()
    assert minted.not_before < time.time() < minted.not_after


async def test_many_leaves_at_once(worker: SignerClient) -> None:
    """Fifty leaves that are asked for at once are each what was asked, with serial numbers of their own."""
    minted = await asyncio.gather(*[mint(worker, f"host{number}.example") for number in range(50)])
    leaves = [x509.load_der_x509_certificate(one.certificate) for one in minted]
    for number, leaf in enumerate(leaves):
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [f"host{number}.example"]
    assert len({leaf.serial_number for leaf in leaves}) == 50


async def test_a_ca_of_each_sort(store: Store, settings: SignerSettings, tmp_path: Path) -> None:
    """With an RSA and an EC CA for verified servers a worker gets leaves of either; a worker of the version before
    hears of the first one alone, and gets what it always got."""
    second = AuthoritySettings(await make_ca(store, "rsa", tmp_path), KeyURI(object="rsa"))
    only = {name: one for name, one in settings.authorities.items() if name == "trust"}
    two = structs.replace(settings, authorities=only | {"trust-2": second})
    async with serving(two), SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        told = [await worker.call(asked, 10) for asked in (Authorities(several=True), Authorities())]
        assert [set(one.chains) for one in told if isinstance(one, Chains)] == [{"trust", "trust-2"}, {"trust"}]
        for name, sort in (("trust", ec.EllipticCurvePublicKey), ("trust-2", rsa.RSAPublicKey)):
            minted = await worker.call(Mint(cast(Authority, name), ["a.example"], leaf_spki()), 10)
            assert isinstance(minted, Minted)
            ca = x509.load_pem_x509_certificate(two.authorities[cast(Authority, name)].certificate.read_bytes())
            assert isinstance(ca.public_key(), sort)
            x509.load_der_x509_certificate(minted.certificate).verify_directly_issued_by(ca)


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_a_ca_that_is_not_configured(settings: SignerSettings) -> None:
    """A leaf of a CA that the operator did not configure is refused, and counted."""
    only = structs.replace(settings, authorities={"trust": settings.authorities["trust"]})
    async with serving(only) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        with pytest.raises(RefusedError, match="no forward-untrust CA is configured"):
            await mint(worker, authority="untrust")
        await mint(worker)
        totals = signer.totals()
        assert totals.value("hsmitm_mints_total", authority="untrust", result="Refused") == 1
        assert totals.value("hsmitm_mints_total", authority="trust", result="minted") == 1


async def test_a_leaf_that_may_not_be(signer: Signer, worker: SignerClient) -> None:
    """A leaf that breaks the rules is refused with the reason and without a signature."""
    await until(lambda: worker.connected, "the worker is connected")
    before = signer.totals().value("hsmitm_signatures_total")
    with pytest.raises(RefusedError, match="a name that no leaf may carry"):
        await mint(worker, "*.com")
    ca_key = signer.issuers["trust"].key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(RefusedError, match="a leaf with a key of this machine's partitions"):
        await worker.call(Mint("trust", ["a.example"], ca_key), 10)
    assert signer.totals().value("hsmitm_signatures_total") == before
    assert signer.status().counters["mint_errors"] == 2


async def test_a_leaf_for_everybodys_names(signer: Signer, worker: SignerClient) -> None:
    """A worker that is taken over gets no leaf for a top-level domain, nor for all of a public suffix."""
    for name in ("com", "*.co.uk", "*.github.io", "*.any.kawasaki.jp"):
        with pytest.raises(RefusedError, match="a name that no leaf may carry"):
            await mint(worker, "good.example", name)
    assert await mint(worker, "intranet", "*.corp.internal", "github.io", "192.0.2.1")


async def test_a_leaf_for_a_key_of_ours(sites_settings: SignerSettings, sites_store: Store, tmp_path: Path) -> None:
    """No leaf says that a key of a partition is a server's: not of either CA, whichever signs, and not of a site, also
    not of one that a reload brought."""
    settings = structs.replace(sites_settings, inbound=[site_of(sites_store, "blog", tmp_path)])
    now = settings
    async with serving(settings, lambda: now) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        await until(lambda: worker.connected, "the worker is connected")

        async def refused(label: str, authority: Authority) -> None:
            with pytest.raises(RefusedError, match="a leaf with a key of this machine's partitions"):
                await worker.call(Mint(authority, ["a.example"], sites_store.keys[label].spki), 10)

        before = signer.totals().value("hsmitm_signatures_total")
        authorities: tuple[Authority, ...] = ("trust", "untrust")
        for authority in authorities:
            for label in ("trust", "untrust", "blog"):
                await refused(label, authority)
        assert signer.totals().value("hsmitm_signatures_total") == before
        assert await worker.call(Mint("trust", ["a.example"], sites_store.keys["shop"].spki), 10)
        now = structs.replace(settings, inbound=[*settings.inbound, site_of(sites_store, "shop", tmp_path)])
        await signer.reload()
        await refused("shop", "trust")
        now = settings
        await signer.reload()
        await refused("shop", "trust")  # it still serves handshakes that were begun


# --- a worker that wants too much -------------------------------------------------------------------------------------


async def test_a_quota_of_mints(settings: SignerSettings, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that wants more leaves than its quota is told to try later; that is one line of the log, and counted. A
    leaf of a hundred names counts as ten."""
    few = structs.replace(settings, quotas=Quotas(mints_per_s=2))
    async with serving(few) as signer, SignerClient(few.run.socket(WORKER_SOCKET)) as worker:
        await until(lambda: worker.connected, "the worker is connected")
        assert await mint(worker, *(f"host{number}.example" for number in range(100)))
        answers = await asyncio.gather(*[mint(worker) for _ in range(60)], return_exceptions=True)
        refused = [one for one in answers if isinstance(one, OverloadedError)]
        assert 48 <= len(refused) <= 50
        assert str(refused[0]) == "this worker has used up its quota of mints (2 a second, 20 at once)"
        lines = [line for line in caplog.messages if "asks for more than its quota" in line]
        assert lines == [
            f"worker process {os.getpid()} asks for more than its quota: mints refused 1; is it taken over?"
        ]
        assert not [line for line in caplog.messages if line.startswith("not minted")]
        totals = signer.totals()
        assert totals.value("hsmitm_quota_refused_total", quota="mints", worker="unknown") == len(refused)
        assert totals.value("hsmitm_mints_total", result="Overloaded") == len(refused)


async def test_a_quota_of_rsa_keys(worker: SignerClient) -> None:
    """A worker that comes with a new RSA key each time does not have the signer look at all of them."""
    numbers = [(1 << 2047) + 2 * number + 1 for number in range(12)]  # none is sound: each was looked at, or is not
    spkis = [
        rsa.RSAPublicNumbers(65537, n).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for n in numbers
    ]
    answers = await asyncio.gather(
        *[worker.call(Mint("trust", ["a.example"], spki), 10) for spki in spkis], return_exceptions=True
    )
    beyond = [one for one in answers if isinstance(one, OverloadedError)]
    assert 3 <= len(beyond) <= 5
    assert "quota of leaf keys" in str(beyond[0])
    assert await mint(worker), "keys that are quickly looked at are minted for"


@pytest.mark.alone
async def test_a_flood_beside_an_honest_worker(settings: SignerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that sends a thousand requests at once has another's served between them, none refused, and none behind
    all of its own."""
    pids = iter([1001, 1002])
    monkeypatch.setattr(endpoint, "peer", lambda _: (next(pids), os.getuid()))
    path = settings.run.socket(WORKER_SOCKET)
    lavish = structs.replace(settings, quotas=Quotas(mints_per_s=10_000))
    async with serving(lavish), SignerClient(path) as flooding:
        await until(lambda: flooding.connected, "it is connected")
        async with SignerClient(path) as honest:
            await until(lambda: honest.connected, "it is connected")
            done: list[str] = []

            async def minted(worker: SignerClient, name: str) -> None:
                await mint(worker, f"{name}.example")
                done.append(name)

            flood = [asyncio.create_task(minted(flooding, "flood")) for _ in range(800)]
            await until(lambda: len(done) >= 5, "the flood is served")
            before = len(done)
            for _ in range(10):
                await minted(honest, "honest")
            between = len(done) - before - 10
            await asyncio.gather(*flood)
    assert done.count("honest") == 10
    assert between < 400, f"{between} requests of the flood were served before ten of another worker"


@pytest.mark.alone
async def test_the_flood_of_a_slow_hsm(
    settings: SignerSettings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the HSM is what is scarce, and one worker's requests fill the line for it, another's are served in turn."""
    monkeypatch.setattr(waiting_line, "MAX_WAITING", 40)
    pids = iter([1001, 1002])
    monkeypatch.setattr(endpoint, "peer", lambda _: (next(pids), os.getuid()))
    path, hsm = settings.run.socket(WORKER_SOCKET), FaultyModule(tmp_path / "hsm")
    hsm.latency(25)
    member = store.settings()
    behind = structs.replace(member, module=str(hsm.path), environment=member.environment | hsm.environment(MODULE))
    async with serving(structs.replace(settings, members=[behind])) as signer, SignerClient(path) as flooding:
        await until(lambda: flooding.connected, "it is connected")
        async with SignerClient(path) as honest:
            await until(lambda: honest.connected, "it is connected")
            await mint(flooding)
            refused: list[HsmitmError] = []
            leave = asyncio.Event()

            async def flood() -> None:
                while not leave.is_set():
                    try:
                        await mint(flooding)
                    except HsmitmError as error:
                        refused.append(error)

            flooders = [asyncio.create_task(flood()) for _ in range(60)]
            await until(lambda: signer.group.waiting == 40 and refused, "the line is full")
            for _ in range(3):
                assert all(await asyncio.gather(*[mint(honest) for _ in range(5)]))
            leave.set()
            await asyncio.gather(*flooders)
    assert any(isinstance(one, OverloadedError) for one in refused)
