"""Sites whose key no member can serve: refused, said and counted, while all others are served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from hsm.errors import UnavailableError
from hsm.member import examination
from hsm.member.settings import Failover
from hsm.signer.settings import InboundSettings, SignerSettings
from hsm.signer.signer import Signer
from hsm.uri import KeyURI
from hsm.wire.client import SignerClient
from hsm.wire.run_directory import WORKER_SOCKET
from tests.hsm.members import copy_of, note_change, objects_of
from tests.hsm.signers import mint, serving, why_not
from tests.hsm.sites import name_of, signs, site_of, terms
from tests.softhsm import Store
from tests.waiting import until

ECDSA = ["ecdsa_secp256r1_sha256"]


@pytest.fixture
def own(sites_store: Store, tmp_path: Path) -> Store:
    """A partition with the sites' keys, whose objects a test may take away."""
    return copy_of(sites_store, tmp_path / "own")


@pytest.fixture
def settings(sites_settings: SignerSettings, own: Store, tmp_path: Path) -> SignerSettings:
    """A signer on it with both CAs and two sites."""
    sites = [site_of(own, "blog", tmp_path), site_of(own, "shop", tmp_path)]
    return structs.replace(sites_settings, members=[own.settings()], inbound=sites)


@contextmanager
def key_away(store: Store, label: str) -> Iterator[None]:
    """The key is not on the partition; afterwards it is."""
    paths = objects_of(store, label)
    away = [path.rename(store.directory / path.name) for path in paths]
    note_change(store)
    try:
        yield
    finally:
        for path, kept in zip(paths, away, strict=True):
            kept.rename(path)
        note_change(store)


def refused(signer: Signer) -> dict[str, bool]:
    """What the status and the metric say of each site, which is the same."""
    shown = {one.name: one.refused for one in signer.status().certificates if one.kind == "inbound"}
    totals = signer.totals()
    counted = {name: bool(totals.value("hsmitm_inbound_sites_refused", site=name)) for name in shown}
    assert counted == shown
    return shown


async def test_one_of_many(settings: SignerSettings, own: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A site whose key is not on the partition keeps nobody from being served: the signer starts, says that clients of
    the site are refused and why, and tells workers that there is nothing to ask for."""
    with key_away(own, "blog"):
        async with serving(settings) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
            signer.check_ready()
            await mint(worker)
            assert await signs(worker, own, "shop", "rsa_pss_rsae_sha256")
            told = (await terms(worker)).keys
            assert (told[name_of(own, "blog")], len(told[name_of(own, "shop")])) == ([], 6)
            assert refused(signer) == {"blog.example.com": True, "shop.example.com": False}
            (line,) = (one for one in caplog.messages if "clients of its sites are refused" in one)
            why = "no member can serve the key of blog.example.com (m1: no private key pkcs11:object=blog;type=private"
            assert line.startswith(why)


async def test_the_key_appears(
    settings: SignerSettings, own: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that is put on the partition is found by itself, and its site comes into service without an operator."""
    caplog.set_level("INFO")
    monkeypatch.setattr(examination, "LOOK_FOR_KEYS_EVERY_S", 0.1)
    settings = structs.replace(settings, failover=Failover(keep_alive_s=0.1))
    with key_away(own, "blog"):
        signer = Signer(settings)
        await signer.open()
    try:
        async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
            await until(lambda: not refused(signer)["blog.example.com"], "the site is served")
            assert (await terms(worker)).keys[name_of(own, "blog")] == ECDSA
            assert await signs(worker, own, "blog", *ECDSA)
        assert "the key of blog.example.com: it is there, and clients are refused no more" in caplog.messages
    finally:
        await signer.close()


async def test_the_key_appears_and_is_reloaded(settings: SignerSettings, own: Store) -> None:
    """Whoever has put a key on the partition need not wait: a reload looks for it at once, and says so."""
    with key_away(own, "blog"):
        signer = Signer(settings, reread=lambda: settings)
        await signer.open()
    try:
        assert refused(signer)["blog.example.com"]
        assert await signer.reload() == [
            "inbound key of blog.example.com: it is there, and clients are refused no more"
        ]  # fmt: skip
        assert not refused(signer)["blog.example.com"]
    finally:
        await signer.close()


async def test_no_key_at_all(settings: SignerSettings, own: Store) -> None:
    """Where no site at all can be served, and there is no CA, the signer does not start, and a site is named."""
    alone = structs.replace(settings, authorities={}, inbound=settings.inbound[:1])
    with key_away(own, "blog"):
        message = await why_not(alone)
    assert message.startswith("the key of blog.example.com is on no member: m1: no private key pkcs11:object=blog")
    other = structs.replace(settings.inbound[0], key=KeyURI(object="shop"))
    message = await why_not(structs.replace(alone, inbound=[other]))
    assert "the key of blog.example.com is on no member: m1: pkcs11:object=shop;type=private is not the key" in message


async def test_the_member_of_one_site_needs_an_operator(
    settings: SignerSettings, own: Store, sites_store: Store, tmp_path: Path
) -> None:
    """Where each key is one member's, and the PIN of one member is missing, its site alone is refused."""
    broken = sites_store.settings("m2", pin_file=tmp_path / "missing")
    blog, shop = settings.inbound

    def held(site: InboundSettings, by: str) -> InboundSettings:
        return structs.replace(site, holder=by)

    two = structs.replace(
        settings, members=[own.settings("m1"), broken], inbound=[held(blog, "m2"), held(shop, "m1")],
        holders={"trust": "m1", "untrust": "m1"},
    )  # fmt: skip
    async with serving(two) as signer, SignerClient(two.run.socket(WORKER_SOCKET)) as worker:
        assert refused(signer) == {"blog.example.com": True, "shop.example.com": False}
        assert await signs(worker, own, "shop", "rsa_pss_rsae_sha256")


async def test_an_hsm_that_is_away_is_waited_for(settings: SignerSettings, own: Store, tmp_path: Path) -> None:
    """A site whose HSM cannot be reached is not refused: its clients are told so by each handshake, and it is there as
    soon as the HSM is."""
    tokens = own.directory / "tokens"
    away = tokens.rename(tmp_path / "away")
    tokens.mkdir()
    async with serving(settings) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        assert refused(signer) == {"blog.example.com": False, "shop.example.com": False}
        assert (await terms(worker)).keys[name_of(own, "blog")] == ECDSA
        with pytest.raises(UnavailableError):
            await signs(worker, own, "blog", *ECDSA)
        tokens.rmdir()
        away.rename(tokens)
        await until(lambda: bool(signer.group.proved_by(name_of(own, "blog"))), "the HSM is there")
        assert await signs(worker, own, "blog", *ECDSA)
