"""Inbound sites that are added, changed and removed while the signer serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import structs

from hsm.errors import HsmitmError, MisconfiguredError, RefusedError
from hsm.signer import inbound as service_module
from hsm.signer.settings import InboundSettings, SignerSettings
from hsm.signer.signer import Signer
from hsm.uri import KeyURI
from hsm.wire import client
from hsm.wire.client import SignerClient
from hsm.wire.frames import Decrypted
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import CODEC, Report, Reported, TlsDecrypt, TlsSigned
from tests.hsm.members import copy_of, hung, kill, note_change, objects_of
from tests.hsm.signers import all_up, mint, serving
from tests.hsm.sites import certify, encrypted, handshake, name_of, signs, site_of, terms, write_certificate
from tests.softhsm import Store
from tests.waiting import until

EC, PSS = "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"


class Configuration:
    """What stands in the file."""

    def __init__(self, settings: SignerSettings) -> None:
        self.now = settings

    def sites(self, *sites: InboundSettings) -> None:
        """Write other sites."""
        self.now = structs.replace(self.now, inbound=list(sites))

    def reread(self) -> SignerSettings:
        """Read it again."""
        return self.now


@pytest.fixture
def blog(sites_store: Store, tmp_path: Path) -> InboundSettings:
    """The site that is there from the start."""
    return site_of(sites_store, "blog", tmp_path)


@pytest.fixture
def shop(sites_store: Store, tmp_path: Path) -> InboundSettings:
    """A site that is added."""
    return site_of(sites_store, "shop", tmp_path)


@pytest.fixture
def twins(sites_store: Store, tmp_path: Path) -> list[Store]:
    """Two HSMs of our own with the same keys."""
    return [copy_of(sites_store, tmp_path / name) for name in ("one", "two")]


@pytest.fixture
def configuration(sites_settings: SignerSettings, blog: InboundSettings, twins: list[Store]) -> Configuration:
    """An HA group of two members, with both CAs and one site."""
    members = [store.settings(f"m{place}") for place, store in enumerate(twins, 1)]
    return Configuration(structs.replace(sites_settings, group="ha", members=members, inbound=[blog]))


@pytest.fixture
async def signer(configuration: Configuration) -> AsyncIterator[Signer]:
    """A signer with that configuration, all its members in service."""
    async with serving(configuration.now, configuration.reread) as signer:
        await all_up(signer)
        yield signer


@pytest.fixture
async def worker(signer: Signer, configuration: Configuration) -> AsyncIterator[SignerClient]:
    """A worker's connection to it."""
    async with SignerClient(configuration.now.run.socket(WORKER_SOCKET)) as connection:
        yield connection


def pids(signer: Signer) -> list[int]:
    """The members' processes."""
    return [member.pid for member in signer.group.members]


# --- added ------------------------------------------------------------------------------------------------------------


async def test_a_site_is_added(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, blog: InboundSettings,
    shop: InboundSettings,
) -> None:  # fmt: skip
    """A site that is added is served by every member after the reload; nothing that is asked meanwhile fails."""
    before = await terms(worker)
    with pytest.raises(RefusedError, match="there is no inbound key"):
        await signs(worker, sites_store, "shop", PSS)
    configuration.sites(blog, shop)
    reloading = asyncio.create_task(signer.reload())
    while not reloading.done():
        assert all(await asyncio.gather(*[signs(worker, sites_store, "blog", EC) for _ in range(4)]))
        await mint(worker)
    assert reloading.result() == ["inbound key of shop.example.com added: served by m1, m2"]
    assert await signs(worker, sites_store, "shop", PSS)
    after = await terms(worker)
    assert set(after.keys) == {name_of(sites_store, "blog"), name_of(sites_store, "shop")}
    assert after.terms > before.terms
    assert after.ticket_key == before.ticket_key
    totals = signer.totals()
    assert totals.value("hsmitm_mints_total") == totals.value("hsmitm_mints_total", result="minted")
    assert [member.starts for member in signer.group.members] == [2, 2]
    assert await signer.reload() == ["nothing changed"]
    assert [member.starts for member in signer.group.members] == [2, 2]


async def test_members_learn_one_at_a_time(
    signer: Signer, configuration: Configuration, blog: InboundSettings, shop: InboundSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """While one member starts anew for a new key, the others are left alone."""
    at_once: list[int] = []
    resets = [0]
    for member in signer.group.members:
        learn = member.learn

        async def noted(learn: object = learn) -> None:
            resets[0] += 1
            at_once.append(resets[0])
            await learn()  # type: ignore[operator]
            resets[0] -= 1

        monkeypatch.setattr(member, "learn", noted)
    configuration.sites(blog, shop)
    await signer.reload()
    assert at_once == [1, 1]


async def test_a_key_that_one_member_lacks(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, twins: list[Store],
    blog: InboundSettings, shop: InboundSettings,
) -> None:  # fmt: skip
    """A new key that one member does not hold is served by the other, and the operator reads which and why."""
    for path in objects_of(twins[0], "shop"):
        path.unlink()
    note_change(twins[0])
    configuration.sites(blog, shop)
    (line,) = await signer.reload()
    assert line.startswith(
        "inbound key of shop.example.com added: served by m2; not by m1: no private key pkcs11:object=shop"
    )
    assert await signs(worker, sites_store, "shop", PSS)
    assert signer.group.state == "healthy"


async def test_a_key_that_no_member_has(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, blog: InboundSettings,
    tmp_path: Path,
) -> None:  # fmt: skip
    """A new key that is nowhere is told with the reasons; the rest of the reload holds, and the others are served."""
    nobodys = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = write_certificate(nobodys, "new", tmp_path / "new.pem")
    configuration.sites(blog, InboundSettings("new", path, KeyURI(object="absent")))
    (line,) = await signer.reload()
    assert line.startswith("inbound key of new added: served by no member; not by m1: no private key pkcs11:object=abs")
    assert "; not by m2: no private key" in line
    assert await signs(worker, sites_store, "blog", EC)
    await mint(worker)
    assert signer.group.in_service()


async def test_a_member_that_cannot_start_anew(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, twins: list[Store],
    blog: InboundSettings, shop: InboundSettings,
) -> None:  # fmt: skip
    """A member whose new process does not start keeps its old one, serves what it served, and learns the key later."""
    away = twins[0].pin_file.rename(twins[0].directory / "away")
    configuration.sites(blog, shop)
    (line,) = await signer.reload()
    assert line.startswith(
        "inbound key of shop.example.com added: served by m2; not by m1: it cannot look for new keys: cannot read"
    )
    first = signer.group.members[0]
    assert (first.state, first.serves(name_of(sites_store, "blog"))) == ("up", True)
    assert "has not looked for this key yet" in signer.group.problems(name_of(sites_store, "shop"))["m1"]
    assert "m1" in signer.status().certificates[3].problems
    away.rename(twins[0].pin_file)
    await signer.group.reset("m1")
    assert signer.group.proved_by(name_of(sites_store, "shop")) == ["m1", "m2"]


async def test_a_member_that_is_away(
    signer: Signer, configuration: Configuration, sites_store: Store, twins: list[Store], blog: InboundSettings,
    shop: InboundSettings,
) -> None:  # fmt: skip
    """A member that is out of service does not hold up the reload, and serves the new key when it is back."""
    away = twins[0].pin_file.rename(twins[0].directory / "away")
    first = signer.group.members[0]
    kill(first)
    await until(lambda: first.state == "down", "the member is out of service")
    away.rename(twins[0].pin_file)
    kill(signer.group.members[1])
    configuration.sites(blog, shop)
    await signer.reload()
    await until(lambda: signer.group.proved_by(name_of(sites_store, "shop")) == ["m1", "m2"], "both serve the new key")


async def test_a_site_with_the_key_of_another(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, blog: InboundSettings,
    tmp_path: Path,
) -> None:  # fmt: skip
    """A site that shares a key resets no member, neither when it comes nor when it goes."""
    before = pids(signer)
    news = structs.replace(blog, site="news", certificate=certify(sites_store, "blog", tmp_path / "news.pem"))
    configuration.sites(blog, news)
    assert await signer.reload() == ["inbound site news added, with the key of blog.example.com"]
    assert [one.name for one in signer.status().certificates if one.kind == "inbound"] == ["blog.example.com", "news"]
    configuration.sites(news)
    assert await signer.reload() == ["inbound site blog.example.com removed; its key still serves news"]
    assert pids(signer) == before
    assert await signs(worker, sites_store, "blog", EC)


async def test_rsa_key_exchange_is_turned_on_and_off(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, tmp_path: Path
) -> None:
    """Whether a key decrypts changes with a reload alone."""
    old = site_of(sites_store, "old", tmp_path)
    configuration.sites(old)
    await signer.reload()
    before = pids(signer)
    asked = TlsDecrypt(name_of(sites_store, "old"), encrypted(sites_store, "old", b"\3\3" + bytes(46)))
    with pytest.raises(RefusedError, match="may not decrypt"):
        await worker.call(asked, 10)
    configuration.sites(structs.replace(old, decrypt=True))
    assert await signer.reload() == ["inbound key of old.example.com: RSA key exchange is now on"]
    assert await worker.call(asked, 10) == Decrypted(b"\3\3" + bytes(46))
    configuration.sites(old)
    assert await signer.reload() == ["inbound key of old.example.com: RSA key exchange is now off"]
    with pytest.raises(RefusedError, match="may not decrypt"):
        await worker.call(asked, 10)
    assert pids(signer) == before


async def test_a_key_gets_another_holder(
    configuration: Configuration, sites_store: Store, blog: InboundSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without high availability a key that moves to another member is served all the time: first by the old one."""
    held = structs.replace(blog, holder="m1")
    alone = structs.replace(configuration.now, group="", inbound=[held])
    configuration.now = alone
    async with (
        serving(alone, configuration.reread) as signer,
        SignerClient(alone.run.socket(WORKER_SOCKET)) as worker,
    ):
        await all_up(signer)
        name = name_of(sites_store, "blog")
        assert signer.group.proved_by(name) == ["m1"]
        configuration.sites(structs.replace(held, holder="m2"))
        learn = signer.group.learn

        async def learned() -> dict[str, HsmitmError]:
            assert signer.group.proved_by(name) == ["m1"], "served while the other learns it"
            failed = await learn()
            assert signer.group.proved_by(name) == ["m1", "m2"]
            return failed

        monkeypatch.setattr(signer.group, "learn", learned)
        (line,) = await signer.reload()
        assert await signs(worker, sites_store, "blog", EC)
        assert line == "inbound key of blog.example.com is now pkcs11:object=blog;type=private of m2"
        assert signer.group.proved_by(name) == ["m2"]
        assert [member.starts for member in signer.group.members] == [1, 2]


# --- renewed ----------------------------------------------------------------------------------------------------------


async def test_a_renewed_certificate(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, blog: InboundSettings
) -> None:
    """A new certificate of the same key resets no member; workers are told to look again."""
    before, known = pids(signer), await terms(worker)
    certify(sites_store, "blog", blog.certificate, days=90)
    (line,) = await signer.reload()
    assert line.startswith(
        "inbound site blog.example.com: a new certificate of the same key, 'CN=blog', valid until 20"
    )
    assert pids(signer) == before
    told = await terms(worker)
    assert told.terms > known.terms
    assert told.configuration == known.configuration + 1
    report = await client.ask(configuration.now.run.socket(WORKER_SOCKET), CODEC, Report(1, 0, 0.0, [], 0, []), 10)
    assert isinstance(report, Reported)
    assert report.terms == told.terms
    assert await signs(worker, sites_store, "blog", EC)


async def test_every_reload_is_told_to_workers(signer: Signer, worker: SignerClient) -> None:
    """A reload that changes nothing here may change something for workers: they are told of each."""
    before = (await terms(worker)).configuration
    assert await signer.reload() == ["nothing changed"]
    assert (await terms(worker)).configuration == before + 1


async def test_a_reload_is_not_forgotten_by_a_restart(configuration: Configuration) -> None:
    """The number that tells workers of a reload is the same after the signer was killed and started again."""
    async with serving(configuration.now, configuration.reread) as signer:
        await signer.reload()
        told = signer.inbound.configuration
    assert Signer(configuration.now).inbound.configuration == told == 1


async def test_a_reload_that_fails_tells_workers_nothing(
    signer: Signer, worker: SignerClient, configuration: Configuration, blog: InboundSettings
) -> None:
    """A reload that is refused moves no number: workers read no file."""
    before = await terms(worker)
    blog.certificate.write_text("broken")
    with pytest.raises(MisconfiguredError):
        await signer.reload()
    assert await terms(worker) == before


# --- removed ----------------------------------------------------------------------------------------------------------


async def test_a_removed_key_is_served_a_little_longer(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, blog: InboundSettings,
    shop: InboundSettings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Handshakes that began before a key was removed end; then it is refused, and no member knows it any more."""
    assert service_module.REMOVED_STAYS_S == 10
    configuration.sites(blog, shop)
    await signer.reload()
    before, name = pids(signer), name_of(sites_store, "blog")
    monkeypatch.setattr(service_module, "REMOVED_STAYS_S", 0.5)
    configuration.sites(shop)
    assert await signer.reload() == ["inbound key of blog.example.com removed"]
    assert name not in (await terms(worker)).keys
    assert await signs(worker, sites_store, "blog", EC)
    await until(lambda: name not in signer.group.keys, "the key is dropped")
    with pytest.raises(RefusedError, match="there is no inbound key"):
        await signs(worker, sites_store, "blog", EC)
    assert all(name not in member.found for member in signer.group.members)
    assert all(name not in status.keys for status in signer.status().members)
    assert pids(signer) == before
    assert await signs(worker, sites_store, "shop", PSS)
    assert [member.state for member in signer.group.members] == ["up", "up"]


async def test_a_removed_key_that_comes_back(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, blog: InboundSettings,
    shop: InboundSettings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A key that is removed and added again is not dropped after all."""
    monkeypatch.setattr(service_module, "REMOVED_STAYS_S", 60.0)
    configuration.sites(blog, shop)
    await signer.reload()
    configuration.sites(shop)
    await signer.reload()
    assert list(signer.inbound._leaving) == [name_of(sites_store, "blog")]
    configuration.sites(blog, shop)
    assert await signer.reload() == ["inbound key of blog.example.com added: served by m1, m2"]
    assert signer.inbound._leaving == {}
    assert await signs(worker, sites_store, "blog", EC)


async def test_a_handshake_in_flight_as_its_key_is_dropped(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, shop: InboundSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A signature that a member is making when its key is dropped is delivered, and the member is not blamed."""
    monkeypatch.setattr(service_module, "REMOVED_STAYS_S", 0.0)
    configuration.sites(shop)
    monkeypatch.setattr(signer.inbound, "_drop", lambda _name: None)
    await signer.reload()
    monkeypatch.undo()
    await asyncio.gather(*[until(lambda m=member: m.serving, "in service") for member in signer.group.members])
    with hung(pids(signer)[0]), hung(pids(signer)[1]):
        call = asyncio.create_task(worker.call(handshake(sites_store, "blog", EC), 10))
        await until(lambda: any(member.in_flight for member in signer.group.members), "it is in flight")
        signer.inbound._drop(name_of(sites_store, "blog"))
    assert isinstance(await call, TlsSigned)


# --- what changes nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a CA's key", "a CA", "no file"])
async def test_sites_that_are_wrong(
    signer: Signer, worker: SignerClient, configuration: Configuration, sites_store: Store, blog: InboundSettings,
    tmp_path: Path, what: str,
) -> None:  # fmt: skip
    """A reload with a wrong site changes nothing at all, whatever else it says; a CA's key never becomes a site's."""
    before, keys, known = await terms(worker), dict(signer.group.keys), pids(signer)
    wrong = site_of(sites_store, "trust" if what == "a CA's key" else "shop", tmp_path, site="wrong")
    if what == "a CA":
        certify(sites_store, "shop", wrong.certificate, ca=True)
    elif what == "no file":
        wrong.certificate.unlink()
    configuration.now = structs.replace(configuration.now, unavailable="cached-only")
    configuration.sites(blog, wrong)
    with pytest.raises(MisconfiguredError, match=r"^site wrong: "):
        await signer.reload()
    assert (await terms(worker), signer.group.keys, pids(signer)) == (before, keys, known)
    assert signer.status().group.unavailable == "fail"
    with pytest.raises(RefusedError, match="there is no inbound key"):
        await signs(worker, sites_store, "trust", EC)
