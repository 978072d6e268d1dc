"""One member process as the machine sees it: what it holds, what it shows, and that none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from bench.rig.faulty_module import FaultyModule
from hsm.errors import MemberLostError
from hsm.group.group import Group
from hsm.member.member import Member
from hsm.member.process import MemberProcess
from hsm.secrets.refusals import Refusals
from hsm.secrets.settings import PinSource
from hsm.wire.member import Open, Selector
from tests.hsm.members import alive, children, hung, keys_of, running
from tests.softhsm import MODULE, PIN, Store, in_s
from tests.waiting import until, wait_until

ROOT = Path(__file__).parents[3]


async def test_its_process_shows_no_secret(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A member process has one socket, an environment of its own without any PIN, and would leave no core dump."""
    monkeypatch.setenv("TEST_PIN", PIN)
    monkeypatch.setenv("TEST_OTHER", "another member's secret")
    plain = stores[0].settings()
    settings = structs.replace(
        plain, pin=PinSource(env="TEST_PIN"), environment=plain.environment | {"TEST_VENDOR": "configured"}
    )
    async with running(settings, keys=keys_of(stores[0])) as member:
        assert member.serving, member.reason
        proc = Path(f"/proc/{member.pid}")
        argv = (proc / "cmdline").read_text().split("\0")
        environment = dict(item.split("=", 1) for item in (proc / "environ").read_text().split("\0") if item)
        limits = (proc / "limits").read_text().splitlines()
        descriptors = {int(link.name): str(link.readlink()) for link in (proc / "fd").iterdir()}
    assert argv[:4] == [sys.executable, "-I", "-m", "hsm.token.main"]
    assert [number for number, target in descriptors.items() if number > 2 and "socket:" in target] == [int(argv[4])]
    assert descriptors[0] == "/dev/null"
    inherited = {"PATH", "LANG", "LC_ALL", "TZ", "HOME", "LD_LIBRARY_PATH"}
    assert {name: value for name, value in environment.items() if name not in inherited} == settings.environment
    assert all(os.environ[name] == value for name, value in environment.items() if name in inherited)
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]


async def test_its_end_is_told_once(stores: list[Store]) -> None:
    """Whoever started a process is told of its end, and how it ended."""
    ends: list[bool] = []
    process = await MemberProcess.spawn(stores[0].environment, lambda: ends.append(True))
    assert not process.lost.is_set()
    os.kill(process.pid, signal.SIGKILL)
    await until(process.lost.is_set, "the end is known")
    assert await process.how_it_ended() == "it was killed by signal 9 (SIGKILL)"
    await process.end()
    assert ends == [True]


async def test_a_module_that_crashes_is_called_so(stores: list[Store], tmp_path: Path) -> None:
    """Whoever waits for a module that crashes reads its signal: `init` and `check` as well as the signer."""
    faulty = FaultyModule(tmp_path / "faulty")
    opening = structs.replace(stores[0].opening(), module=str(faulty.path))
    with faulty.fault("C_GetSlotList crash"):
        process = await MemberProcess.spawn(stores[0].environment | faulty.environment(MODULE))
        try:
            with pytest.raises(MemberLostError) as caught:
                await process.call(opening, in_s(10))
        finally:
            await process.end()
    how = "it was killed by signal 11 (SIGSEGV): the PKCS#11 module crashed"
    assert str(caught.value) == f"member process {process.pid}: {how}"


async def test_a_process_that_gives_up(stores: list[Store]) -> None:
    """A process that meets what is no frame ends by itself, with a status."""
    process = await MemberProcess.spawn(stores[0].environment)
    assert process.channel._transport is not None
    process.channel._transport.write(b"\xff" * 8)
    await until(process.lost.is_set, "the end is known")
    assert await process.how_it_ended() == "it ended with status 1"
    await process.end()


async def test_a_process_that_hangs_is_ended(stores: list[Store]) -> None:
    """A process that does nothing any more is ended and reaped at once: it is killed, not asked."""
    process = await MemberProcess.spawn(stores[0].environment)
    before = time.monotonic()
    with hung(process.pid):
        await process.end()
    assert process.pid not in children()
    assert time.monotonic() - before < 1


# --- none is left behind ----------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """The processes that are started from here on."""
    processes: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def recorded(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        processes.append(await start(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    return processes


async def is_reaped(process: asyncio.subprocess.Process) -> bool:
    """Whether its end was waited for; if not, that is made up for here."""
    reaped = process.returncode is not None
    if not reaped:
        process.kill()
        await process.wait()
    return reaped


def settled_by_hand(store: Store, state: Path, settings: Any = None) -> Member:
    """A member whose life the test itself starts."""
    refusals = Refusals(state)
    refusals.prepare()
    group = Group(keys_of(store), CollectorRegistry())
    member = Member(settings or store.settings(), group.keys, refusals, group)
    group.members = [member]
    return member


async def test_stopping_while_it_starts_leaves_no_process(
    stores: list[Store],
    started: list[asyncio.subprocess.Process],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A member that is stopped the moment its process was started ends that process."""
    start = asyncio.create_subprocess_exec

    async def cancelled(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        process = await start(*args, **kwargs)
        life.cancel()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", cancelled)
    member = settled_by_hand(stores[0], tmp_path)
    life = asyncio.create_task(member.run())
    await asyncio.gather(life, return_exceptions=True)
    await member.stop()
    (process,) = started
    assert await is_reaped(process)


async def test_stopping_while_its_process_ends_leaves_none(
    stores: list[Store], started: list[asyncio.subprocess.Process], tmp_path: Path
) -> None:
    """A member that is stopped while its process is being ended waits for that end."""
    wrong = tmp_path / "pin"
    wrong.write_text("wrong-pin-0815")
    wrong.chmod(0o600)
    member = settled_by_hand(stores[0], tmp_path / "state", stores[0].settings(pin_file=wrong))
    life = asyncio.create_task(member.run())
    await member.settled.wait()
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    await member.stop()
    (process,) = started
    assert await is_reaped(process)


def be_a_signer(label: str, configuration: str) -> None:
    """In a child: start a member process, print its pid, and stay."""

    async def stay() -> None:
        process = await MemberProcess.spawn({"SOFTHSM2_CONF": configuration})
        await process.channel.call(Open(MODULE, Selector(label=label), PIN, 1, {}), in_s(20))
        print(process.pid, flush=True)
        await asyncio.Event().wait()

    asyncio.run(stay())


def test_dies_with_its_parent(stores: list[Store]) -> None:
    """A signer that is killed leaves no logged-in process behind."""
    run = f"import sys; from {__name__} import be_a_signer; be_a_signer(*sys.argv[1:])"
    label, configuration = stores[0].label, stores[0].environment["SOFTHSM2_CONF"]
    with subprocess.Popen(
        [sys.executable, "-c", run, label, configuration], cwd=ROOT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    wait_until(lambda: not alive(child), "the member process is gone")
