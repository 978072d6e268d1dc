"""What workers may do with inbound keys, through the signer's real sockets and a real partition."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from msgspec import structs

from hsm.errors import RefusedError, TryLaterError, UnavailableError
from hsm.member.settings import Failover
from hsm.schemes import SCHEMES
from hsm.signer import inbound as service_module
from hsm.signer.settings import InboundSettings, SignerSettings
from hsm.signer.signer import Signer
from hsm.wire import client
from hsm.wire.admin import CODEC
from hsm.wire.client import SignerClient
from hsm.wire.frames import Decrypted, Done, Ready
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET
from hsm.wire.worker import InboundKeys, Report, Reported, TlsDecrypt, TlsSign
from tests.hsm.members import copy_of, hung, kill
from tests.hsm.signers import all_up, mint, serving, why_not
from tests.hsm.sites import (
    encrypted,
    handshake,
    name_of,
    signs,
    site_of,
    terms,
)
from tests.softhsm import Store
from tests.waiting import until

RSA_SCHEMES = [name for name in SCHEMES if name.startswith("rsa_")]
DIGEST = bytes.fromhex("5ec7e7") + bytes(29)


@pytest.fixture
def sites(sites_store: Store, tmp_path: Path) -> list[InboundSettings]:
    """Three sites: an EC key, an RSA key that only signs, and one that decrypts as well."""
    return [
        site_of(sites_store, "blog", tmp_path),
        site_of(sites_store, "shop", tmp_path),
        site_of(sites_store, "old", tmp_path, decrypt=True),
    ]


@pytest.fixture
def settings(sites_settings: SignerSettings, sites: list[InboundSettings]) -> SignerSettings:
    """A signer with both CAs and three sites."""
    return structs.replace(sites_settings, inbound=sites)


def refusals(signer: Signer, request: str) -> float:
    """How many requests of this kind were refused."""
    return signer.totals().value("hsmitm_refused_requests_total", request=request)


def signed(signer: Signer) -> float:
    """How often any key was used."""
    totals = signer.totals()
    return totals.value("hsmitm_signatures_total") - totals.value("hsmitm_signatures_total", purpose="test")


# --- handshakes -------------------------------------------------------------------------------------------------------


async def test_a_worker_learns_what_it_may_ask_for(worker: SignerClient, sites_store: Store) -> None:
    """A worker learns each inbound key, its schemes, and the ticket key that it shares with the other workers."""
    told = await terms(worker)
    assert told.keys == {
        name_of(sites_store, "blog"): ["ecdsa_secp256r1_sha256"],
        name_of(sites_store, "shop"): told.keys[name_of(sites_store, "shop")],
        name_of(sites_store, "old"): told.keys[name_of(sites_store, "old")],
    }
    for label in ("shop", "old"):
        assert sorted(told.keys[name_of(sites_store, label)]) == sorted(RSA_SCHEMES)
    assert len(told.ticket_key) == 64
    assert await terms(worker) == told
    report = await worker.call(Report(os.getpid(), 0, 0.0, [], 0, []), 10)
    assert isinstance(report, Reported)
    assert (report.terms, report.configuration) == (told.terms, told.configuration)


@pytest.mark.parametrize(("label", "schemes"), [("blog", ["ecdsa_secp256r1_sha256"]), ("shop", RSA_SCHEMES)])
async def test_a_handshake_is_signed(
    signer: Signer, worker: SignerClient, sites_store: Store, label: str, schemes: list[str]
) -> None:
    """A handshake gets its signature in every scheme of the site's key, and each is counted as one for TLS."""
    for scheme in schemes:
        assert await signs(worker, sites_store, label, scheme), scheme
    assert signer.totals().value("hsmitm_signatures_total", purpose="tls") == len(schemes)
    assert refusals(signer, "TlsSign") == 0


async def test_handshakes_and_leaves_side_by_side(worker: SignerClient, sites_store: Store) -> None:
    """Handshakes of several sites and leaves are signed at once, each by its own key."""
    scheme = "ecdsa_secp256r1_sha256"
    done = await asyncio.gather(
        *[signs(worker, sites_store, "blog", scheme) for _ in range(20)],
        *[signs(worker, sites_store, "shop", one) for one in RSA_SCHEMES],
        *[mint(worker, f"host{number}.example") for number in range(10)],
    )
    assert all(done)


async def test_a_handshake_that_is_given_up(signer: Signer, worker: SignerClient, sites_store: Store) -> None:
    """A worker whose client leaves is served no longer; the signer serves its other requests."""
    (member,) = signer.group.members
    with hung(member.pid):
        calls = [
            asyncio.create_task(worker.call(handshake(sites_store, "blog", "ecdsa_secp256r1_sha256"), 10))
            for _ in range(member.slots + 3)
        ]
        await until(lambda: signer.group.waiting == 3, "three handshakes wait")
        for call in calls:
            call.cancel()
        await until(lambda: signer.group.waiting == 0, "nobody waits any more")
        await until(lambda: not signer._workers.served, "nothing is served any more")
    await until(lambda: member.in_flight == 0, "the member has answered what it was sent")
    assert await signs(worker, sites_store, "blog", "ecdsa_secp256r1_sha256")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "scheme", "digest", "why"),
    [
        ("trust", "ecdsa_secp256r1_sha256", DIGEST, "there is no inbound key 'inbound-"),
        ("untrust", "ecdsa_secp256r1_sha256", DIGEST, "there is no inbound key 'inbound-"),
        ("blog", "rsa_pss_rsae_sha256", DIGEST, "the key of blog.example.com does not sign 'rsa_pss_rsae_sha256'"),
        ("blog", "ecdsa_secp384r1_sha384", DIGEST + bytes(16), "does not sign 'ecdsa_secp384r1_sha384'"),
        ("blog", "none", DIGEST, "does not sign 'none'"),
        (
            "blog",
            "ecdsa_secp256r1_sha256",
            DIGEST[:-1],
            "a digest of 31 bytes for ecdsa_secp256r1_sha256 by the key of",
        ),
        ("shop", "rsa_pkcs1_sha256", DIGEST + bytes(19), "a digest of 51 bytes for rsa_pkcs1_sha256"),
        ("shop", "rsa_pkcs1_sha256", b"", "a digest of 0 bytes"),
    ],
)
async def test_a_signature_that_is_not_allowed(
    signer: Signer, worker: SignerClient, sites_store: Store, label: str, scheme: str, digest: bytes, why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """What no handshake needs is not signed for a worker; that is counted, and logged without the digest."""
    await until(lambda: worker.connected, "the worker is connected")
    before = signed(signer)
    with pytest.raises(RefusedError, match=why):
        await worker.call(TlsSign(name_of(sites_store, label), scheme, digest), 10)
    assert (signed(signer), refusals(signer, "TlsSign")) == (before, 1)
    (line,) = caplog.messages
    assert line.startswith(f"refused TlsSign of worker process {os.getpid()}: ")
    assert why in line
    assert DIGEST[:3].hex() not in line.lower()
    assert "\\x5e" not in line
    assert await signs(worker, sites_store, "blog", "ecdsa_secp256r1_sha256")


@pytest.mark.parametrize("name", ["trust", "untrust", "", "inbound-", "x" * 1000])
async def test_a_name_that_is_no_inbound_keys(
    signer: Signer, worker: SignerClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A CA's key cannot be had by its own name, and a long name does not fill the log."""
    await until(lambda: worker.connected, "the worker is connected")
    before = signed(signer)
    for body in (TlsSign(name, "ecdsa_secp256r1_sha256", DIGEST), TlsDecrypt(name, bytes(256))):
        with pytest.raises(RefusedError, match="there is no inbound key"):
            await worker.call(body, 10)
    assert signed(signer) == before
    assert all(len(line) < 200 for line in caplog.messages)


@pytest.mark.parametrize("fault", ["a CA's key among the sites'", "a CA's key", "a key without a site"])
async def test_a_ca_key_is_never_used(
    signer: Signer, worker: SignerClient, sites_store: Store, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever mistake put a CA's key among the inbound keys, nothing that a worker chose is signed with it."""
    ca = signer.group.keys["trust"]
    wrong = {
        "a CA's key among the sites'": structs.replace(ca, sites=("blog.example.com",)),
        "a CA's key": ca,
        "a key without a site": structs.replace(signer.group.keys[name_of(sites_store, "blog")], sites=()),
    }[fault]
    monkeypatch.setitem(signer.inbound._served, "trust", wrong)
    await until(lambda: worker.connected, "the worker is connected")
    before = signed(signer)
    for body in (TlsSign("trust", ca.scheme.name, DIGEST), TlsDecrypt("trust", bytes(256))):
        with pytest.raises(RefusedError, match="'trust' is no inbound key"):
            await worker.call(body, 10)
    assert signed(signer) == before
    assert (refusals(signer, "TlsSign"), refusals(signer, "TlsDecrypt")) == (1, 1)


async def test_a_site_with_a_ca_key(settings: SignerSettings, sites_store: Store, tmp_path: Path) -> None:
    """A signer with a site that has a CA's key does not start, and names the site."""
    for label in ("trust", "untrust"):
        message = await why_not(structs.replace(settings, inbound=[site_of(sites_store, label, tmp_path)]))
        assert message.startswith(f"site {label}.example.com: ")
        assert "has the key of a forward CA" in message


async def test_the_command_line_may_not_sign(signer: Signer, settings: SignerSettings, sites_store: Store) -> None:
    """The socket of the command line gives no signature and no ticket key."""
    for body in (handshake(sites_store, "blog", "ecdsa_secp256r1_sha256"), InboundKeys()):
        with pytest.raises(TryLaterError, match="closed the connection"):
            await client.ask(settings.run.socket(ADMIN_SOCKET), CODEC, body, 10)


# --- RSA key exchange -------------------------------------------------------------------------------------------------


async def test_a_premaster_secret(signer: Signer, worker: SignerClient, sites_store: Store) -> None:
    """A site that turns on RSA key exchange gets its clients' secrets decrypted, and each is counted."""
    secret = b"\3\3" + os.urandom(46)
    asked = TlsDecrypt(name_of(sites_store, "old"), encrypted(sites_store, "old", secret))
    assert await worker.call(asked, 10) == Decrypted(secret)
    assert signer.totals().value("hsmitm_signatures_total", purpose="decrypt") == 1
    assert await signs(worker, sites_store, "old", "rsa_pss_rsae_sha256")


@pytest.mark.parametrize(
    ("label", "size", "why"),
    [
        ("shop", 256, "the key of shop.example.com may not decrypt"),
        ("blog", 256, "the key of blog.example.com may not decrypt"),
        ("old", 255, "255 bytes to decrypt with the key of old.example.com; it takes 256"),
        ("old", 0, "0 bytes to decrypt"),
        ("old", 512, "512 bytes to decrypt"),
        ("untrust", 256, "there is no inbound key"),
    ],
)
async def test_a_decryption_that_is_not_allowed(
    signer: Signer, worker: SignerClient, sites_store: Store, label: str, size: int, why: str
) -> None:
    """A key whose site does not turn on RSA key exchange decrypts nothing, and none decrypts what is no ciphertext."""
    await until(lambda: worker.connected, "the worker is connected")
    before = signed(signer)
    with pytest.raises(RefusedError, match=why):
        await worker.call(TlsDecrypt(name_of(sites_store, label), b"\1" * size), 10)
    assert (signed(signer), refusals(signer, "TlsDecrypt")) == (before, 1)


async def test_a_key_that_does_not_decrypt(
    settings: SignerSettings, sites_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A site that wants RSA key exchange, with a key that its partition lets only sign, is told, and signs all the
    same."""
    wanting = structs.replace(settings, inbound=[site_of(sites_store, "shop", tmp_path, decrypt=True)])
    async with serving(wanting) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        assert await signs(worker, sites_store, "shop", "rsa_pss_rsae_sha256")
        await terms(worker)
        await terms(worker)
        problem = "it signs, but does not decrypt: CKA_DECRYPT is false, or it has or allows no CKM_RSA_PKCS"
        assert [line for line in caplog.messages if "decrypt" in line] == [
            f"member m1: key of shop.example.com: {problem}"
        ]
        (status,) = [
            one for one in signer.status().certificates if (one.kind, one.name) == ("inbound", "shop.example.com")
        ]
        assert (status.proved, status.problems) == (["m1"], {"m1": problem})
        with pytest.raises(UnavailableError, match="no member of the HSM in service decrypts"):
            await worker.call(TlsDecrypt(name_of(sites_store, "shop"), encrypted(sites_store, "shop", b"x")), 10)
        assert signer.group.state == "healthy"


# --- forward proxying does not depend on inbound keys -----------------------------------------------------------------


async def test_an_inbound_key_without_a_member(
    settings: SignerSettings, sites_store: Store, sites: list[InboundSettings], tmp_path: Path
) -> None:
    """While the member of an inbound key is away, leaves are minted and workers are told that all is well."""
    own = copy_of(sites_store, tmp_path / "own")
    members = [sites_store.settings("m1"), own.settings("m2")]
    held = [structs.replace(sites[0], holder="m2")]
    apart = structs.replace(
        settings, members=members, inbound=held, holders={"trust": "m1", "untrust": "m1"},
        failover=Failover(attempt_timeout_s=0.1, budget_s=0.2),
    )  # fmt: skip
    async with serving(apart) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        await all_up(signer)
        assert await signs(worker, sites_store, "blog", "ecdsa_secp256r1_sha256")
        own.pin_file.unlink()
        kill(signer.group.members[1])
        await until(lambda: not signer.group.proved_by(name_of(sites_store, "blog")), "the key's member is gone")
        with pytest.raises(TryLaterError, match="no member of the HSM"):
            await worker.call(handshake(sites_store, "blog", "ecdsa_secp256r1_sha256"), 10)
        until_s = time.monotonic() + 0.3
        await until(lambda: time.monotonic() > until_s, "longer than a request waits")
        assert signer.group.in_service()
        await mint(worker)
        assert await worker.call(Ready(), 10) == Done()
        assert await client.ask(settings.run.socket(ADMIN_SOCKET), CODEC, Ready(), 10) == Done()
        assert (await terms(worker)).keys == {name_of(sites_store, "blog"): ["ecdsa_secp256r1_sha256"]}


async def test_inbound_inspection_alone(
    settings: SignerSettings, sites_store: Store, sites: list[InboundSettings]
) -> None:
    """A signer without a CA signs handshakes and mints nothing; it is ready once any of its keys is served."""
    alone = structs.replace(settings, authorities={})
    async with serving(alone) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        assert await signs(worker, sites_store, "blog", "ecdsa_secp256r1_sha256")
        with pytest.raises(RefusedError, match="no forward-trust CA is configured"):
            await mint(worker)
        assert await worker.call(Ready(), 10) == Done()
        assert signer.group.in_service()
        signer.check_ready()
        (member,) = signer.group.members
        assert member._life is not None
        member._life.held.note_problem(name_of(sites_store, "blog"), "for a test")
        signer.check_ready()
        for site in sites:
            member._life.held.note_problem(name_of(sites_store, site.site.partition(".")[0]), "for a test")
        with pytest.raises(TryLaterError, match=r"serves the key of blog.example.com \(m1: for a test\)"):
            signer.check_ready()


async def test_nothing_to_sign(settings: SignerSettings) -> None:
    """A signer without any key is a mistake."""
    assert "neither a CA" in await why_not(structs.replace(settings, authorities={}, inbound=[]))


# --- the ticket key, and when to look again ---------------------------------------------------------------------------


async def test_the_ticket_key_is_replaced(
    signer: Signer, worker: SignerClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The ticket key is replaced once a day, and workers see that they must fetch the new one."""
    caplog.set_level("INFO")
    first = await terms(worker)
    monkeypatch.setattr(service_module, "TICKET_KEY_S", 0.0)
    second = await terms(worker)
    monkeypatch.undo()
    assert second.ticket_key != first.ticket_key
    assert (len(second.ticket_key), second.terms > first.terms) == (64, True)
    assert second.configuration == first.configuration
    assert await terms(worker) == second
    assert "the key of session tickets was replaced" in caplog.messages
    assert service_module.TICKET_KEY_S == 24 * 60 * 60


async def test_the_ticket_key_is_a_secret(
    signer: Signer, worker: SignerClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The ticket key stands in no log, no status and no message."""
    caplog.set_level("DEBUG")
    told = await terms(worker)
    shown = repr(told) + repr(signer.status()) + repr(signer.inbound) + caplog.text
    for form in (told.ticket_key.hex(), repr(told.ticket_key)[2:-1]):
        assert form not in shown


async def test_a_signer_that_was_started_again_is_another(settings: SignerSettings, tmp_path: Path) -> None:
    """A worker that finds another signer asks for its terms: numbers and ticket keys of two starts differ. It reads no
    files: the configuration is the same."""
    first, second = Signer(settings).inbound.inbound_terms(), Signer(settings).inbound.inbound_terms()
    assert first.terms != second.terms
    assert first.ticket_key != second.ticket_key
    assert first.configuration == second.configuration


async def test_schemes_that_no_member_makes(signer: Signer, worker: SignerClient, sites_store: Store) -> None:
    """A scheme that every member lost is not offered, and workers are told to look again; a new process proves anew."""
    name = name_of(sites_store, "shop")
    before = await terms(worker)
    (member,) = signer.group.members
    assert member._life is not None
    member._life.held.made.take(name, {"rsa_pkcs1_sha256"}, {})
    signer.group.changed(member)
    after = await terms(worker)
    assert after.keys[name] == ["rsa_pkcs1_sha256"]
    assert after.terms > before.terms
    assert after.configuration == before.configuration
    kill(member)
    await until(lambda: not signer.group.proved_by(name) or member.starts == 2, "the member is gone")
    await until(lambda: signer.group.proved_by(name), "the member is back")
    assert (await terms(worker)).keys == before.keys
    assert (await terms(worker)).terms > after.terms


# --- status -----------------------------------------------------------------------------------------------------------


async def test_status_of_the_sites(signer: Signer, sites_store: Store, sites: list[InboundSettings]) -> None:
    """The status shows each site's certificate beside the CAs': its key, who proved it, and how long it is valid."""
    shown = signer.status().certificates
    assert [(one.kind, one.name) for one in shown] == [
        ("forward", "trust"), ("forward", "untrust"),
        ("inbound", "blog.example.com"), ("inbound", "shop.example.com"), ("inbound", "old.example.com"),
    ]  # fmt: skip
    assert [one.authority for one in shown][1:3] == ["untrust", "inbound blog.example.com"]
    blog = shown[2]
    assert (blog.subject, blog.key_type, blog.proved, blog.problems) == ("CN=blog", "P-256", ["m1"], {})
    assert (blog.key, blog.guarded) == ("pkcs11:object=blog;type=private", True)
    (member,) = signer.status().members
    assert set(member.keys.values()) == {""}
    assert len(member.keys) == 5
