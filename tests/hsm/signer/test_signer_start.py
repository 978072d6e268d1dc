"""The start of the signer: what keeps it from serving, and what does not."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs

from hsm.errors import TryLaterError
from hsm.member.process import MemberProcess
from hsm.member.settings import Failover
from hsm.member.states import State
from hsm.signer import members as members_module
from hsm.signer.settings import AuthoritySettings, SignerSettings
from hsm.signer.signer import Signer
from hsm.uri import KeyURI
from hsm.wire import client
from hsm.wire.admin import CODEC, Status, StatusReport
from hsm.wire.client import SignerClient
from hsm.wire.frames import Done, Ready
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET, RunDirectory
from tests.cas import make_ca
from tests.hsm.members import alive, copy_of
from tests.hsm.signers import mint, serving, why_not
from tests.softhsm import PIN, Store, make_store
from tests.waiting import until

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


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
    assert isinstance(await client.ask(admin, CODEC, Status(), 10), StatusReport)


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
    assert await why_not(structs.replace(settings, run=grouped)) == "there is no group 'no-such-group' on this machine"


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
    message = await why_not(structs.replace(settings, run=run))
    assert message == (
        f"the socket path {run.path / WORKER_SOCKET} is longer than 107 bytes; choose a shorter run directory"
    )


# --- what keeps it from starting --------------------------------------------------------------------------------------


def with_trust(settings: SignerSettings, certificate: Path, key: str = "p256") -> SignerSettings:
    """`settings` with another CA for verified servers."""
    trust = AuthoritySettings(certificate, KeyURI(object=key))
    return structs.replace(settings, authorities=settings.authorities | {"trust": trust})


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
        serving(structs.replace(settings, run=RunDirectory(tmp_path / "before"))),
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
    swapped = with_trust(settings, untrust, key="p256").authorities["trust"]
    message = await why_not(structs.replace(settings, authorities={"trust": swapped}))
    assert message == (
        "the forward-trust key is on no member: m1: pkcs11:object=p256;type=private is not the key of the certificate: "
        "their public keys differ"
    )


async def test_one_ca_for_both(settings: SignerSettings, spawned: list[dict[str, str]]) -> None:
    """A forward-untrust CA that is the trusted one keeps the signer from starting, before anybody logs in."""
    both = settings.authorities | {"untrust": settings.authorities["trust"]}
    assert "clients would trust servers that did not verify" in await why_not(
        structs.replace(settings, authorities=both)
    )
    assert spawned == []


async def test_two_cas_of_one_sort(settings: SignerSettings, spawned: list[dict[str, str]]) -> None:
    """Two CAs of a kind are for clients of two sorts: with keys of one sort the signer does not start."""
    both = settings.authorities | {"trust-2": settings.authorities["trust"]}
    message = await why_not(structs.replace(settings, authorities=both))
    assert message.startswith("both CAs of forward.trust have EC keys; a list of two is for one with an RSA")
    assert spawned == []


async def test_a_second_ca_that_is_trusted_for_both(settings: SignerSettings, spawned: list[dict[str, str]]) -> None:
    """Also the second CA for servers that did not verify must be none that clients trust."""
    both = settings.authorities | {"untrust-2": settings.authorities["trust"]}
    assert "clients would trust servers" in await why_not(structs.replace(settings, authorities=both))
    assert spawned == []


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
    wrong = structs.replace(settings, members=[store.settings(pin_file=path)])
    assert "member m1: CKR_PIN_INCORRECT" in await why_not(wrong)
    assert len(spawned) == 1
    for number in range(3):
        again = structs.replace(wrong, run=RunDirectory(tmp_path / f"run{number}"))
        assert "member m1: the partition refused this PIN before" in await why_not(again)
    assert len(spawned) == 1
    path.write_text(PIN)
    async with serving(structs.replace(wrong, run=RunDirectory(tmp_path / "run-right"))) as signer:
        signer.check_ready()


async def test_one_good_member_is_enough(settings: SignerSettings, store: Store, tmp_path: Path) -> None:
    """A member that only an operator can mend does not keep the other from serving."""
    members = [store.settings("broken", pin_file=tmp_path / "missing"), store.settings("good")]
    async with serving(structs.replace(settings, members=members)) as signer:
        signer.check_ready()
        assert [member.state for member in signer.group.members] == [State.QUARANTINED, State.UP]
        async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
            await mint(worker)


async def test_an_hsm_that_is_reached_later(settings: SignerSettings, tmp_path: Path) -> None:
    """A signer whose HSM cannot be reached serves all the same, says that it is not ready, and becomes ready."""
    own = await make_store(tmp_path / "own", {"p256": "p256"})
    trust = AuthoritySettings(await make_ca(own, "p256", tmp_path), KeyURI(object="p256"))
    away = (own.directory / "tokens").rename(own.directory / "away")
    (own.directory / "tokens").mkdir()
    alone = structs.replace(
        settings, members=[own.settings()], authorities={"trust": trust}, failover=Failover(budget_s=0.2)
    )
    async with serving(alone) as signer:
        for name in (WORKER_SOCKET, ADMIN_SOCKET):
            with pytest.raises(TryLaterError, match=r"\(m1: member is \w+: "):
                await client.ask(alone.run.socket(name), CODEC, Ready(), 10)
        (own.directory / "tokens").rmdir()
        away.rename(own.directory / "tokens")
        await until(lambda: signer.group.proved_by("trust"), "the member is up")
        for name in (WORKER_SOCKET, ADMIN_SOCKET):
            assert await client.ask(alone.run.socket(name), CODEC, Ready(), 10) == Done()


# --- members that take long -------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Processes of members whose environment says so hang as soon as they are started; the pids of those that did."""
    spawn = MemberProcess.spawn
    stopped: set[int] = set()

    async def hang(environment: dict[str, str], on_lost: Callable[[], None] | None = None) -> MemberProcess:
        process = await spawn(environment, on_lost)
        if "TEST_HANGS" in environment:
            os.kill(process.pid, signal.SIGSTOP)
            stopped.add(process.pid)
        return process

    monkeypatch.setattr(MemberProcess, "spawn", hang)
    yield stopped
    for process in stopped:
        if alive(process):
            os.kill(process, signal.SIGCONT)


async def test_a_member_that_is_not_needed_is_not_waited_for(
    settings: SignerSettings, store: Store, hanging: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer serves soon after one member serves every key, however long another one takes to start."""
    monkeypatch.setattr(members_module, "_SLOW_START_S", 0.5)
    slow = structs.replace(store.settings("slow"), environment=store.environment | {"TEST_HANGS": "1"})
    before = time.monotonic()
    async with serving(structs.replace(settings, group="ha", members=[slow, store.settings("quick")])) as signer:
        assert 0.4 < time.monotonic() - before < 3
        assert [member.state for member in signer.group.members] == [State.STARTING, State.UP]
        signer.check_ready()
        async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
            await mint(worker)
        assert len(hanging) == 1


async def test_a_member_that_is_needed_is_waited_for(
    settings: SignerSettings, store: Store, hanging: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer that would serve nothing yet waits for the member that takes long."""
    monkeypatch.setattr(members_module, "_SLOW_START_S", 0.1)
    slow = structs.replace(store.settings(), environment=store.environment | {"TEST_HANGS": "1"})
    signer = Signer(structs.replace(settings, members=[slow]))
    opening = asyncio.create_task(signer.open())
    try:
        await until(lambda: hanging, "the member's process hangs")
        later = time.monotonic() + 0.4
        await until(lambda: time.monotonic() > later, "more than the time for members that are not needed")
        assert not opening.done()
        os.kill(hanging.pop(), signal.SIGCONT)
        await opening
        signer.check_ready()
    finally:
        opening.cancel()
        await signer.close()


async def test_a_member_is_not_waited_for_for_ever(
    settings: SignerSettings, store: Store, hanging: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer whose HSM takes very long to start serves without it after a while, and is not ready until it has it."""
    monkeypatch.setattr(members_module, "_LONGEST_START_S", 0.3)
    slow = structs.replace(store.settings(), environment=store.environment | {"TEST_HANGS": "1"})
    async with serving(structs.replace(settings, members=[slow])) as signer:
        with pytest.raises(TryLaterError, match="member is starting"):
            signer.check_ready()
        os.kill(hanging.pop(), signal.SIGCONT)
        await until(lambda: bool(signer.group.proved_by("trust")), "the HSM is there")
        signer.check_ready()


# --- a member for each key --------------------------------------------------------------------------------------------


@pytest.fixture
def each(settings: SignerSettings, store: Store, tmp_path: Path) -> SignerSettings:
    """A signer without high availability: the key of trust is on m1, that of untrust on m2."""
    members = [store.settings("m1"), copy_of(store, tmp_path / "two").settings("m2")]
    return structs.replace(settings, members=members, holders={"trust": "m1", "untrust": "m2"})


async def test_a_key_is_its_members_alone(each: SignerSettings) -> None:
    """Without high availability each CA's key is proved and used on its own member only."""
    async with serving(each) as signer:
        assert [one.proved for one in signer.status().certificates] == [["m1"], ["m2"]]
        assert [one.problems for one in signer.status().certificates] == [{}, {}]
        assert [list(one.keys) for one in signer.status().members] == [["trust"], ["untrust"]]
        async with SignerClient(each.run.socket(WORKER_SOCKET)) as worker:
            for _ in range(5):
                await mint(worker, authority="untrust")
        totals = signer.totals()
        assert totals.value("hsmitm_signatures_total", member="m1", purpose="mint") == 0
        assert totals.value("hsmitm_signatures_total", member="m2", purpose="mint") == 5


async def test_a_key_whose_member_cannot_serve(each: SignerSettings, store: Store, tmp_path: Path) -> None:
    """A key whose own member needs an operator keeps the signer from starting, whatever the other member does."""
    broken = store.settings("m1", pin_file=tmp_path / "missing")
    message = await why_not(structs.replace(each, members=[broken, each.members[1]]))
    assert message == (
        "the forward-trust key is on no member: m1: member is quarantined: "
        f"cannot read the PIN file {tmp_path / 'missing'}: No such file or directory"
    )
    tokens = tmp_path / "two" / "tokens"
    tokens.rename(tmp_path / "two" / "away")
    tokens.mkdir()
    later = structs.replace(each, members=[broken, each.members[1]], run=RunDirectory(tmp_path / "later"))
    assert "the forward-trust key is on no member: m1: member is quarantined" in await why_not(later)
