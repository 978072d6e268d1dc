"""The signer on real sockets: what workers may ask of it, who may ask, and what keeps it from starting."""

from __future__ import annotations

import asyncio
import datetime as dt
import grp
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder
from cryptography.x509.verification import Store as TrustStore
from prometheus_client import CollectorRegistry, Counter, Gauge

from hsm import client, group, telemetry, wire
from hsm.authority import LeafProfile
from hsm.client import SignerClient
from hsm.endpoint import ADMIN_SOCKET, WORKER_SOCKET, RunDirectory
from hsm.errors import HsmitmError, MisconfiguredError, RefusedError, TryLaterError
from hsm.lifecycle import State
from hsm.signer import AuthoritySettings, Signer, SignerSettings
from hsm.uri import KeyURI
from tests.cas import make_ca
from tests.softhsm import PIN, Store, make_store
from tests.waiting import until

ROOT = Path(__file__).parents[2]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def authorities(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[wire.Authority, AuthoritySettings]:
    """Both CAs of a signer: 'trust' on a P-256 key, 'untrust' on an RSA key."""
    directory = tmp_path_factory.mktemp("cas")

    async def make() -> dict[wire.Authority, AuthoritySettings]:
        return {
            "trust": AuthoritySettings(await make_ca(store, "p256", directory), KeyURI(object="p256")),
            "untrust": AuthoritySettings(await make_ca(store, "rsa", directory), KeyURI(object="rsa")),
        }

    return asyncio.run(make())


@pytest.fixture
def settings(store: Store, authorities: dict[wire.Authority, AuthoritySettings], tmp_path: Path) -> SignerSettings:
    """A signer with one member and both CAs."""
    return SignerSettings(
        members=[store.settings()],
        authorities=authorities,
        profile=LeafProfile(),
        run=RunDirectory(tmp_path / "run"),
        state=tmp_path / "state",
    )


def changed(settings: SignerSettings, **fields: object) -> SignerSettings:
    """`settings` with other fields."""
    plain = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return SignerSettings(**(plain | fields))


@asynccontextmanager
async def serving(settings: SignerSettings) -> AsyncIterator[Signer]:
    """A signer that serves. It keeps its run directory's lock, as it does for the life of a process."""
    signer = Signer(settings)
    try:
        await signer.open()
        yield signer
    finally:
        await signer.close()


async def why_not(settings: SignerSettings) -> str:
    """What an operator reads of a signer that does not start."""
    with pytest.raises(MisconfiguredError) as caught:
        async with serving(settings):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
async def signer(settings: SignerSettings) -> AsyncIterator[Signer]:
    """A signer that serves."""
    async with serving(settings) as signer:
        yield signer


@pytest.fixture
async def worker(signer: Signer, settings: SignerSettings) -> AsyncIterator[SignerClient]:
    """A worker's connection to it."""
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as connection:
        yield connection


def leaf_spki() -> bytes:
    """A new public key of a worker."""
    return ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip


async def mint(worker: SignerClient, *names: str, authority: wire.Authority = "trust") -> wire.Minted:
    """A leaf."""
    minted = await worker.call(wire.Mint(authority, list(names or ["a.example"]), leaf_spki()), 10)
    assert isinstance(minted, wire.Minted)
    return minted


def member_process(signer: Signer) -> int:
    """The process of the signer's first member."""
    process = signer.group.members[0]._process
    assert process is not None
    return process.pid


# --- minting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authority", ["trust", "untrust"])
async def test_a_worker_gets_a_leaf(worker: SignerClient, settings: SignerSettings, authority: wire.Authority) -> None:
    """A worker gets a leaf for its own key and the names it asked for, and a client that trusts the CA accepts it."""
    spki = leaf_spki()
    names = ["www.example.com", "*.cdn.example.com", "192.0.2.1"]
    minted = await worker.call(wire.Mint(authority, names, spki), 10)
    assert isinstance(minted, wire.Minted)
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


async def test_a_worker_learns_the_chains(worker: SignerClient, settings: SignerSettings) -> None:
    """A worker learns each CA's certificate, to send it with its leaves."""
    chains = await worker.call(wire.Authorities(), 10)
    assert isinstance(chains, wire.Chains)
    for name, one in settings.authorities.items():
        ca = x509.load_pem_x509_certificate(one.certificate.read_bytes())
        assert chains.chains[name] == [ca.public_bytes(Encoding.DER)]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        wire.Status(),
        wire.Sign("trust", "ecdsa_secp256r1_sha256", bytes(32)),
        wire.Open("module.so", wire.Selector(label="tests"), PIN, 1, {}),
        wire.Initialise("module.so", "new", "so-pin", "pin"),
        wire.Generate("new", "p256"),
        wire.Ping(),
    ],
    ids=lambda body: type(body).__name__,
)
async def test_a_worker_may_not_ask_for_more(
    signer: Signer, worker: SignerClient, body: wire.Request, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is taken over gets no signature of its own choice, and no look at the signer's state."""
    await until(lambda: worker.connected, "the worker is connected")
    before = signer.totals().value("hsmitm_signatures_total")
    with pytest.raises(RefusedError, match=f"a worker may not ask for {type(body).__name__}"):
        await worker.call(body, 10)
    assert caplog.messages == [f"refused {type(body).__name__} of a worker"]
    assert signer.totals().value("hsmitm_signatures_total") == before
    await mint(worker)


@pytest.mark.parametrize(
    "body",
    [
        wire.Mint("trust", ["a.example"], b""),
        wire.Report(1, 0, 0.0, [], 0, []),
        wire.Sign("trust", "ecdsa_secp256r1_sha256", bytes(32)),
    ],
    ids=lambda body: type(body).__name__,
)
async def test_the_command_line_may_not_mint(signer: Signer, settings: SignerSettings, body: wire.Request) -> None:
    """The socket of the command line gives state and nothing else."""
    with pytest.raises(RefusedError, match=f"the admin socket does not answer {type(body).__name__}"):
        await client.ask(settings.run.socket(ADMIN_SOCKET), body, 10)


async def test_a_ca_that_is_not_configured(settings: SignerSettings) -> None:
    """A leaf of a CA that the operator did not configure is refused, and counted."""
    only = changed(settings, authorities={"trust": settings.authorities["trust"]})
    async with serving(only) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        with pytest.raises(RefusedError, match="no forward-untrust CA is configured"):
            await mint(worker, authority="untrust")
        await mint(worker)
        totals = signer.totals()
        assert totals.value("hsmitm_mints_total", authority="untrust", result="Refused") == 1
        assert totals.value("hsmitm_mints_total", authority="trust", result="minted") == 1


async def test_a_ca_that_nobody_knows(signer: Signer, worker: SignerClient, settings: SignerSettings) -> None:
    """A worker that speaks of a CA unknown to us is cut off; other workers do not notice."""
    await mint(worker)
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as stranger:
        with pytest.raises(TryLaterError):
            await mint(stranger, authority=cast(wire.Authority, "another"))
    await mint(worker)
    assert worker.generation == 1
    assert signer.totals().value("hsmitm_mints_total") == signer.totals().value("hsmitm_mints_total", result="minted")


async def test_a_leaf_that_may_not_be(signer: Signer, worker: SignerClient) -> None:
    """A leaf that breaks the rules is refused with the reason and without a signature."""
    await until(lambda: worker.connected, "the worker is connected")
    before = signer.totals().value("hsmitm_signatures_total")
    with pytest.raises(RefusedError, match="a name that no leaf may carry"):
        await mint(worker, "*.com")
    ca_key = signer.issuers["trust"].key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(RefusedError, match="a leaf with the CA's own key"):
        await worker.call(wire.Mint("trust", ["a.example"], ca_key), 10)
    assert signer.totals().value("hsmitm_signatures_total") == before
    assert signer.status().counters["mint_errors"] == 2


# --- who may ask ------------------------------------------------------------------------------------------------------


def ask_as_nobody(path: str) -> None:
    """In a child of root: become another user, and ask which CAs there are; print what comes."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        print(type(asyncio.run(client.ask(Path(path), wire.Authorities(), 10))).__name__)
    except HsmitmError as error:
        print(f"{type(error).__name__}: {error}")


async def as_nobody(path: Path) -> str:
    """What another user gets at a socket."""
    run = f"import sys; from {__name__} import ask_as_nobody; ask_as_nobody(*sys.argv[1:])"
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", run, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


@pytest.fixture
def reachable() -> Iterator[RunDirectory]:
    """A run directory whose group is the other user's. pytest's own directories let nobody else in."""
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o711)
        yield RunDirectory(Path(outer) / "run", grp.getgrgid(NOBODY).gr_name)


@as_root
async def test_another_user_is_refused(
    settings: SignerSettings, reachable: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """A user whom the operator did not name is cut off, even where the file modes let it connect, and is logged."""
    async with serving(changed(settings, run=reachable, users=frozenset({NOBODY - 1}))) as signer:
        assert "closed" in await as_nobody(reachable.socket(WORKER_SOCKET))
        assert "Permission denied" in await as_nobody(reachable.socket(ADMIN_SOCKET))
        assert signer.totals().value("hsmitm_workers") == 0
    refused = [line.partition(" (")[0] for line in caplog.messages if "refused a connection" in line]
    assert refused == ["refused a connection of user nobody"]


@as_root
async def test_a_worker_of_another_user(settings: SignerSettings, reachable: RunDirectory) -> None:
    """A user whom the operator named may ask what workers ask, and still nothing at the command line's socket."""
    async with serving(changed(settings, run=reachable, users=frozenset({NOBODY}))):
        assert await as_nobody(reachable.socket(WORKER_SOCKET)) == "Chains"
        assert "Permission denied" in await as_nobody(reachable.socket(ADMIN_SOCKET))


@as_root
async def test_file_modes_keep_other_users_out(settings: SignerSettings, reachable: RunDirectory) -> None:
    """Without a group of its own the run directory is closed to other users altogether."""
    alone = RunDirectory(reachable.path)
    async with serving(changed(settings, run=alone, users=frozenset({NOBODY}))):
        assert alone.path.stat().st_mode & 0o777 == 0o700
        assert [alone.socket(name).stat().st_mode & 0o777 for name in (WORKER_SOCKET, ADMIN_SOCKET)] == [0o600, 0o600]
        assert "Permission denied" in await as_nobody(alone.socket(WORKER_SOCKET))


# --- the run directory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["the socket", "the directory", "another's socket"])
async def test_a_socket_that_vanishes_comes_back(
    signer: Signer, worker: SignerClient, settings: SignerSettings, what: str
) -> None:
    """A socket that is deleted or replaced is made again; connected workers go on, and new ones find it."""
    path = settings.run.socket(WORKER_SOCKET)
    await mint(worker)
    before = path.stat().st_ino
    with socket.socket(socket.AF_UNIX) as other:
        if what == "the directory":
            for left in settings.run.path.iterdir():
                left.unlink()
            settings.run.path.rmdir()
        else:
            path.unlink()
        if what == "another's socket":
            other.bind(str(path))
            other.listen()
        await mint(worker)
        there = path.stat().st_ino if path.exists() else 0
        await until(lambda: path.exists() and path.stat().st_ino not in (before, there), "the socket is ours again")
    async with SignerClient(path) as another:
        await mint(another)
    await mint(worker)
    assert worker.generation == 1
    admin = settings.run.socket(ADMIN_SOCKET)
    await until(admin.exists, "the command line's socket is there")
    assert isinstance(await client.ask(admin, wire.Status(), 10), wire.StatusReport)


async def test_a_second_signer(signer: Signer, settings: SignerSettings, spawned: list[dict[str, str]]) -> None:
    """A second signer on the same run directory does not start, tries no PIN, and leaves the first alone."""
    assert await why_not(settings) == f"another signer is running with the run directory {settings.run.path}"
    assert spawned == []
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        await mint(worker)


async def test_a_run_directory_that_others_can_write(settings: SignerSettings, spawned: list[dict[str, str]]) -> None:
    """A run directory that everybody can write is not used, and the message says how to close it."""
    settings.run.path.mkdir()
    settings.run.path.chmod(0o777)
    message = await why_not(settings)
    assert message.startswith(f"the run directory {settings.run.path} can be written by others (mode 0777)")
    assert message.endswith(f"Run: chmod go-w {settings.run.path}")
    assert spawned == []
    settings.run.path.chmod(0o755)
    async with serving(settings) as signer:
        signer.check_ready()


async def test_a_run_directory_that_is_none(settings: SignerSettings) -> None:
    """A run directory that is a file, or whose group does not exist, is named."""
    settings.run.path.write_text("")
    assert str(settings.run.path) in await why_not(settings)
    grouped = RunDirectory(settings.run.path.parent / "other", "no-such-group")
    assert await why_not(changed(settings, run=grouped)) == "there is no group 'no-such-group' on this machine"


@as_root
async def test_a_run_directory_of_another_user(settings: SignerSettings) -> None:
    """A run directory that belongs to another user is not used."""
    settings.run.path.mkdir(mode=0o700)
    os.chown(settings.run.path, NOBODY, -1)
    assert await why_not(settings) == (
        f"the run directory {settings.run.path} belongs to nobody; it must be ours or root's"
    )


async def test_a_run_directory_with_a_long_name(settings: SignerSettings, tmp_path: Path) -> None:
    """A run directory whose sockets no address can hold is named, with the limit."""
    run = RunDirectory(tmp_path / ("x" * 100))
    message = await why_not(changed(settings, run=run))
    assert message == (
        f"the socket path {run.path / WORKER_SOCKET} is longer than 107 bytes; choose a shorter run directory"
    )


# --- what keeps it from starting --------------------------------------------------------------------------------------


def with_trust(settings: SignerSettings, certificate: Path, key: str = "p256") -> SignerSettings:
    """`settings` with another CA for verified servers."""
    trust = AuthoritySettings(certificate, KeyURI(object=key))
    return changed(settings, authorities=settings.authorities | {"trust": trust})


async def test_an_expired_ca(store: Store, settings: SignerSettings, tmp_path: Path) -> None:
    """A CA whose time is over keeps the signer from starting, and the message says since when."""
    path = await make_ca(store, "p256", tmp_path, now=dt.datetime(2020, 1, 1, tzinfo=dt.UTC), days=30)
    assert await why_not(with_trust(settings, path)) == f"{path}: 'CN=p256 CA' expired on 2020-01-31; renew the CA"


async def test_a_ca_that_is_not_valid_yet(store: Store, settings: SignerSettings, tmp_path: Path) -> None:
    """A CA from the future points at the clock."""
    path = await make_ca(store, "p256", tmp_path, now=dt.datetime.now(dt.UTC) + dt.timedelta(days=10))
    message = await why_not(with_trust(settings, path))
    assert message.startswith(f"{path}: 'CN=p256 CA' is valid from ")
    assert message.endswith("check the clock")


async def test_a_certificate_that_is_no_ca(settings: SignerSettings, tmp_path: Path) -> None:
    """A leaf in place of the CA is told apart."""
    async with (
        serving(changed(settings, run=RunDirectory(tmp_path / "before"))),
        SignerClient(tmp_path / "before" / WORKER_SOCKET) as worker,
    ):
        minted = await mint(worker)
    path = tmp_path / "leaf.pem"
    path.write_bytes(x509.load_der_x509_certificate(minted.certificate).public_bytes(Encoding.PEM))
    message = await why_not(with_trust(settings, path))
    assert message == f"{path}: 'CN=a.example' is not a CA certificate (basicConstraints CA is not true)"


async def test_a_ca_file_that_is_none(settings: SignerSettings, tmp_path: Path) -> None:
    """A CA file that is missing or holds no certificate is named."""
    path = tmp_path / "ca.pem"
    missing = f"cannot read the CA certificate {path}: No such file or directory"
    assert await why_not(with_trust(settings, path)) == missing
    path.write_text("no certificate")
    assert f"{path} holds no PEM certificate" in await why_not(with_trust(settings, path))


async def test_a_ca_of_another_key(settings: SignerSettings) -> None:
    """A CA certificate beside the key of another CA keeps the signer from starting."""
    untrust = settings.authorities["untrust"].certificate
    message = await why_not(with_trust(settings, untrust, key="p256"))
    assert message == (
        "the forward-trust key is on no member: m1: pkcs11:object=p256;type=private is not the key of the certificate: "
        "their public keys differ"
    )


async def test_a_ca_key_that_is_missing(settings: SignerSettings) -> None:
    """A CA whose key is on no partition keeps the signer from starting, and the key is named."""
    trust = settings.authorities["trust"].certificate
    message = await why_not(with_trust(settings, trust, key="absent"))
    assert message.startswith("the forward-trust key is on no member: m1: no private key pkcs11:object=absent")


async def test_a_wrong_pin(settings: SignerSettings, store: Store, tmp_path: Path, spawned: list[object]) -> None:
    """A signer with a wrong PIN does not start, and however often it is started, the PIN is tried once."""
    path = tmp_path / "pin"
    path.write_text("wrong-pin")
    path.chmod(0o600)
    wrong = changed(settings, members=[store.settings(pin_file=path)])
    assert "member m1: CKR_PIN_INCORRECT" in await why_not(wrong)
    assert len(spawned) == 1
    for number in range(3):
        again = changed(wrong, run=RunDirectory(tmp_path / f"run{number}"))
        assert "member m1: the partition refused this PIN before" in await why_not(again)
    assert len(spawned) == 1
    path.write_text(PIN)
    async with serving(changed(wrong, run=RunDirectory(tmp_path / "run-right"))) as signer:
        signer.check_ready()


async def test_one_good_member_is_enough(settings: SignerSettings, store: Store, tmp_path: Path) -> None:
    """A member that only an operator can mend does not keep the other from serving."""
    members = [store.settings("broken", pin_file=tmp_path / "missing"), store.settings("good")]
    async with serving(changed(settings, members=members)) as signer:
        signer.check_ready()
        assert [member.state for member in signer.group.members] == [State.QUARANTINED, State.UP]
        async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
            await mint(worker)


async def test_an_hsm_that_is_reached_later(
    settings: SignerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer whose HSM cannot be reached serves all the same, says that it is not ready, and becomes ready."""
    monkeypatch.setattr(group, "WAIT_FOR_MEMBER_S", 0.1)
    own = await make_store(tmp_path / "own", {"p256": "p256"})
    trust = AuthoritySettings(await make_ca(own, "p256", tmp_path), KeyURI(object="p256"))
    (own.directory / "tokens").rename(own.directory / "away")
    (own.directory / "tokens").mkdir()
    alone = changed(settings, members=[own.settings()], authorities={"trust": trust})
    async with serving(alone) as signer:
        for name in (WORKER_SOCKET, ADMIN_SOCKET):
            with pytest.raises(TryLaterError, match=r"\(m1: member is \w+: "):
                await client.ask(alone.run.socket(name), wire.Ready(), 10)
        (own.directory / "tokens").rmdir()
        (own.directory / "away").rename(own.directory / "tokens")
        await until(lambda: signer.group.proved_by("trust"), "the member is up")
        for name in (WORKER_SOCKET, ADMIN_SOCKET):
            assert await client.ask(alone.run.socket(name), wire.Ready(), 10) == wire.Done()


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_leaves_in_order(settings: SignerSettings) -> None:
    """A signer that stops answers what it has begun, removes its sockets and ends its members."""
    async with serving(settings) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        await mint(worker)
        process = member_process(signer)
        os.kill(process, signal.SIGSTOP)
        begun = asyncio.create_task(mint(worker))
        await until(lambda: signer.group.members[0].in_flight == 1, "the HSM is asked")
        closing = asyncio.create_task(signer.close())
        await until(lambda: not settings.run.socket(ADMIN_SOCKET).exists(), "the signer is leaving")
        os.kill(process, signal.SIGCONT)
        await begun
        await closing
        assert not settings.run.socket(WORKER_SOCKET).exists()
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


async def test_a_worker_that_ends_under_its_request(
    signer: Signer, worker: SignerClient, settings: SignerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that dies while the HSM works for it disturbs nobody."""
    await mint(worker)
    process = member_process(signer)
    os.kill(process, signal.SIGSTOP)
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as dying:
        begun = asyncio.create_task(mint(dying))
        await until(lambda: signer.group.members[0].in_flight == 1, "the HSM is asked")
        begun.cancel()
    await until(lambda: signer.group.members[0].in_flight == 0, "the request is forgotten")
    os.kill(process, signal.SIGCONT)
    await mint(worker)
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []
    assert signer.group.members[0].starts == 1


# --- what it tells ----------------------------------------------------------------------------------------------------


def report(index: int, hits: int, flows: int, started: float = 1000.0) -> wire.Report:
    """A worker's report with a counter and a gauge."""
    registry = CollectorRegistry()
    lookups = Counter("hsmitm_leaf_cache_lookups", "Look-ups", ("result",), registry=registry)
    lookups.labels("hit").inc(hits)
    Gauge("hsmitm_flows", "Flows", registry=registry).set(flows)
    return wire.Report(4000 + index, index, started, ["127.0.0.1:8080"], flows, telemetry.collect(registry))


def shown(signer: Signer) -> tuple[float, float, float]:
    """Cache hits, flows and workers."""
    totals = signer.totals()
    hits = totals.value("hsmitm_leaf_cache_lookups_total", result="hit")
    return hits, totals.value("hsmitm_flows"), totals.value("hsmitm_workers")


async def test_totals_never_fall(signer: Signer, settings: SignerSettings) -> None:
    """What a worker counted stays in the totals when it ends; its gauges end with it."""
    path = settings.run.socket(WORKER_SOCKET)
    async with SignerClient(path) as first:
        await first.call(report(0, hits=10, flows=3), 10)
        async with SignerClient(path) as second:
            await second.call(report(1, hits=5, flows=2), 10)
            assert shown(signer) == (15, 5, 2)
            await second.call(report(1, hits=6, flows=1), 10)
            assert shown(signer) == (16, 4, 2)
        await until(lambda: len(signer._workers) == 1, "the signer noticed that the worker is gone")
        assert shown(signer) == (16, 3, 1)
        async with SignerClient(path) as third:
            await third.call(report(1, hits=1, flows=1, started=2000.0), 10)
            assert shown(signer) == (17, 4, 2)
    await until(lambda: not signer._workers, "the signer noticed that all workers are gone")
    assert shown(signer) == (17, 0, 0)


async def test_a_worker_that_connects_again_is_counted_once(signer: Signer, settings: SignerSettings) -> None:
    """A worker whose connection was lost and made again adds nothing twice to the totals."""
    path = settings.run.socket(WORKER_SOCKET)
    for hits in (10, 11):
        async with SignerClient(path) as worker:
            await worker.call(report(0, hits=hits, flows=1), 10)
            assert shown(signer) == (hits, 1, 1)
        await until(lambda: not signer._workers, "the signer noticed that the connection is gone")
    assert shown(signer) == (11, 0, 0)


async def test_status(signer: Signer, worker: SignerClient, settings: SignerSettings, store: Store) -> None:
    """The command line gets the whole state: members, workers, listeners, certificates and counters."""
    await mint(worker)
    with pytest.raises(RefusedError):
        await mint(worker, "*.com")
    await worker.call(report(0, hits=10, flows=3), 10)
    status = await client.ask(settings.run.socket(ADMIN_SOCKET), wire.Status(), 10)
    assert isinstance(status, wire.StatusReport)
    (member,) = status.members
    assert (member.name, member.state, member.starts) == ("m1", "up", 1)
    assert (member.sessions_busy, member.sessions_total) == (0, 2)
    assert member.module == store.settings().module
    assert member.partition is not None
    assert (member.partition.label, member.partition.manufacturer) == ("tests", "SoftHSM project")
    assert abs(member.since - time.time()) < 60
    assert status.workers == [wire.WorkerStatus(index=0, pid=os.getpid(), started=1000.0, connections=3)]
    assert status.listeners == [wire.ListenerStatus("127.0.0.1:8080", 1)]
    trust, untrust = status.certificates
    assert (trust.authority, trust.subject, trust.key_type) == ("trust", "CN=p256 CA", "P-256")
    assert (untrust.authority, untrust.subject, untrust.key_type) == ("untrust", "CN=rsa CA", "RSA-2048")
    for one in (trust, untrust):
        ca = x509.load_pem_x509_certificate(
            settings.authorities[cast(wire.Authority, one.authority)].certificate.read_bytes()
        )
        assert one.fingerprint_sha256 == ca.fingerprint(hashes.SHA256()).hex()
        assert one.not_after == ca.not_valid_after_utc.timestamp()
        assert (one.proved, one.guarded, one.problems) == (["m1"], True, {})
    assert trust.key == "pkcs11:object=p256;type=private"
    counters = status.counters
    assert (counters["minted"], counters["mint_errors"]) == (1, 1)
    assert (counters["signatures"], counters["signature_errors"]) == (3, 0)
    assert counters["signature_seconds"] > 0
    assert (counters["cache_hits"], counters["cache_misses"]) == (10, 0)
    assert PIN not in repr(status)


async def test_status_of_a_signer_in_trouble(settings: SignerSettings, store: Store, tmp_path: Path) -> None:
    """The state of a member that is out of service says why, and its keys say who does not serve them."""
    members = [store.settings("good"), store.settings("broken", pin_file=tmp_path / "missing")]
    async with serving(changed(settings, members=members)) as signer:
        good, broken = signer.status().members
        assert (good.state, broken.state) == ("up", "quarantined")
        assert broken.reason == f"cannot read the PIN file {tmp_path / 'missing'}: No such file or directory"
        assert (broken.partition, broken.sessions_total) == (None, 0)
        for certificate in signer.status().certificates:
            assert certificate.proved == ["good"]
            assert list(certificate.problems) == ["broken"]
        totals = signer.totals()
        assert totals.value("hsmitm_member_state", member="broken", state="quarantined") == 1
        assert totals.value("hsmitm_member_state", member="broken") == 1
        assert totals.value("hsmitm_member_state", member="good", state="up") == 1
