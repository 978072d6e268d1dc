"""The signer on real sockets: what workers may ask of it, who may ask, and how it ends."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs

from hsm.errors import HsmitmError, TryLaterError
from hsm.signer.settings import SignerSettings
from hsm.signer.signer import Signer
from hsm.wire import client
from hsm.wire.admin import CODEC as ADMIN_CODEC
from hsm.wire.admin import Status
from hsm.wire.client import SignerClient
from hsm.wire.member import Generate, Initialise, Open, Ping, Selector, Sign
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET, RunDirectory
from hsm.wire.worker import CODEC, Authorities, Authority, Chains, Mint, Report
from tests.hsm.signers import mint, serving
from tests.softhsm import PIN
from tests.waiting import until

ROOT = Path(__file__).parents[3]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


# --- what workers learn -----------------------------------------------------------------------------------------------


async def test_a_worker_learns_the_chains(worker: SignerClient, settings: SignerSettings) -> None:
    """A worker learns each CA's certificate, to send it with its leaves."""
    chains = await worker.call(Authorities(), 10)
    assert isinstance(chains, Chains)
    for name, one in settings.authorities.items():
        ca = x509.load_pem_x509_certificate(one.certificate.read_bytes())
        assert chains.chains[name] == [ca.public_bytes(Encoding.DER)]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        Status(),
        Sign("trust", "ecdsa_secp256r1_sha256", bytes(32)),
        Open("module.so", Selector(label="tests"), PIN, 1, {}),
        Initialise("module.so", "new", "so-pin", "pin"),
        Generate("new", "p256"),
        Ping(),
    ],
    ids=lambda body: type(body).__name__,
)
async def test_a_worker_may_not_ask_for_more(
    signer: Signer, worker: SignerClient, settings: SignerSettings, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is taken over gets no signature of its own choice, and no look at the signer's state: what only
    others may ask ends its connection, is logged and counted, and harms no other worker."""
    before = signer.totals().value("hsmitm_signatures_total")
    with pytest.raises(TryLaterError, match="closed the connection"):
        await client.ask(settings.run.socket(WORKER_SOCKET), CODEC, body, 10)
    await until(lambda: len(caplog.messages) == 2, "the end of the connection is told")
    assert f"refused worker process {os.getpid()}, which sent what no worker may: not a frame" in caplog.messages[1]
    assert f"Invalid value '{body.__struct_config__.tag}'" in caplog.messages[1]
    assert signer.totals().value("hsmitm_refused_requests_total", request="unknown") == 1
    assert signer.totals().value("hsmitm_signatures_total") == before
    await mint(worker)


@pytest.mark.parametrize(
    "body",
    [
        Mint("trust", ["a.example"], b""),
        Report(1, 0, 0.0, [], 0, []),
        Sign("trust", "ecdsa_secp256r1_sha256", bytes(32)),
    ],
    ids=lambda body: type(body).__name__,
)
async def test_the_command_line_may_not_mint(signer: Signer, settings: SignerSettings, body: Any) -> None:
    """The socket of the command line gives state and nothing else."""
    with pytest.raises(TryLaterError, match="closed the connection"):
        await client.ask(settings.run.socket(ADMIN_SOCKET), ADMIN_CODEC, body, 10)


async def test_a_ca_that_nobody_knows(signer: Signer, worker: SignerClient, settings: SignerSettings) -> None:
    """A worker that speaks of a CA unknown to us is cut off; other workers do not notice."""
    await mint(worker)
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as stranger:
        with pytest.raises(TryLaterError):
            await mint(stranger, authority=cast(Authority, "another"))
    await mint(worker)
    assert worker.generation == 1
    assert signer.totals().value("hsmitm_mints_total") == signer.totals().value("hsmitm_mints_total", result="minted")


# --- who may ask ------------------------------------------------------------------------------------------------------


def ask_as_nobody(path: str) -> None:
    """In a child of root: become another user, and ask which CAs there are; print what comes."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        print(type(asyncio.run(client.ask(Path(path), CODEC, Authorities(), 10))).__name__)
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
    async with serving(structs.replace(settings, run=reachable, users=frozenset({NOBODY - 1}))) as signer:
        assert "closed" in await as_nobody(reachable.socket(WORKER_SOCKET))
        assert "Permission denied" in await as_nobody(reachable.socket(ADMIN_SOCKET))
        assert signer.totals().value("hsmitm_workers") == 0
    refused = [line.partition(" (")[0] for line in caplog.messages if "refused a connection" in line]
    assert refused == ["refused a connection of user nobody"]


@as_root
async def test_a_worker_of_another_user(settings: SignerSettings, reachable: RunDirectory) -> None:
    """A user whom the operator named may ask what workers ask, and still nothing at the command line's socket."""
    async with serving(structs.replace(settings, run=reachable, users=frozenset({NOBODY}))):
        assert await as_nobody(reachable.socket(WORKER_SOCKET)) == "Chains"
        assert "Permission denied" in await as_nobody(reachable.socket(ADMIN_SOCKET))


@as_root
async def test_file_modes_keep_other_users_out(settings: SignerSettings, reachable: RunDirectory) -> None:
    """Without a group of its own the run directory is closed to other users altogether."""
    alone = RunDirectory(reachable.path)
    async with serving(structs.replace(settings, run=alone, users=frozenset({NOBODY}))):
        assert alone.path.stat().st_mode & 0o777 == 0o700
        assert [alone.socket(name).stat().st_mode & 0o777 for name in (WORKER_SOCKET, ADMIN_SOCKET)] == [0o600, 0o600]
        assert "Permission denied" in await as_nobody(alone.socket(WORKER_SOCKET))


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_leaves_in_order(settings: SignerSettings) -> None:
    """A signer that stops answers what it has begun, removes its sockets and ends its members."""
    async with serving(settings) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        await mint(worker)
        process = signer.group.members[0].pid
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
    process = signer.group.members[0].pid
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
