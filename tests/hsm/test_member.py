"""A member over the lives of its process: what takes it down, what brings it back, what only an operator can mend."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hsm import member as member_module
from hsm import pin, wire
from hsm.errors import DeadlineError, MemberLostError
from hsm.lifecycle import State
from hsm.member import Member, MemberProcess, MemberSettings, Prove
from hsm.schemes import SCHEMES
from tests.cas import public_key
from tests.softhsm import MODULE, PIN, SO_PIN, Store, in_s, make_store
from tests.waiting import until, wait_until

ROOT = Path(__file__).parents[2]
SCHEME = SCHEMES["ecdsa_secp256r1_sha256"]
DIGEST = SCHEME.digest(b"message")
SIGN = wire.Sign("p256", SCHEME.name, DIGEST)
WRONG_PIN = "wrong-pin-0815"
FINAL_TRY, LOCKED = 0x20000, 0x40000
"""CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED (PKCS#11 v3.0, CK_TOKEN_INFO)."""


@pytest.fixture
def refusals(tmp_path: Path) -> pin.Refusals:
    """An empty record of refused PINs."""
    found = pin.Refusals(tmp_path / "state")
    found.prepare()
    return found


async def accept(_member: Member, _opened: wire.Opened) -> None:
    """A group that takes every member."""


@asynccontextmanager
async def running(
    settings: MemberSettings, store: Store, refusals: pin.Refusals, prove: Prove = accept, prompted: str | None = None
) -> AsyncIterator[Member]:
    """A member that has settled: up, or known not to be."""
    member = Member(settings, store.uris(), refusals, prove, prompted)
    life = asyncio.create_task(member.run())
    try:
        await until(lambda: member.settled.is_set() or life.done(), "the member is up, or known not to be")
        if life.done():
            life.result()  # its life ends by itself in quarantine alone, and without an exception
        yield member
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await member.stop()


def pid(member: Member) -> int:
    """The process of a member that has one."""
    assert member._process is not None
    return member._process.pid


@contextmanager
def hung(process: int) -> Iterator[None]:
    """A process that does nothing, as in a call that does not return; it goes on afterwards if it is still there."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        if alive(process):
            os.kill(process, signal.SIGCONT)


def alive(process: int) -> bool:
    """Whether a process runs. One that ended may wait to be reaped by a parent that never does."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def signs(member: Member, store: Store) -> bool:
    """Whether the member makes a right signature."""
    signed = await member.sign(SIGN, in_s(10))
    return SCHEME.verifies(public_key(store, "p256"), DIGEST, signed.signature)


def wrong(store: Store, directory: Path) -> MemberSettings:
    """A member on `store` whose PIN file holds another PIN."""
    path = directory / "pin"
    path.write_text(WRONG_PIN)
    path.chmod(0o600)
    return store.settings(pin_file=path)


# --- up, down and up again --------------------------------------------------------------------------------------------


async def test_comes_up(store: Store, refusals: pin.Refusals, caplog: pytest.LogCaptureFixture) -> None:
    """A member that is configured rightly logs in, finds its keys and signs; the log has a line for each step."""
    caplog.set_level("INFO", "hsmitm.member")
    async with running(store.settings(), store, refusals) as member:
        assert (member.state, member.starts, member.sessions, member.in_flight) == (State.UP, 1, 2, 0)
        assert member.serving
        assert member.opened is not None
        assert member.opened.keys == store.keys
        assert await signs(member, store)
        process = pid(member)
        assert f"process {process}, partition {member.opened.partition}, 2 sessions" in member.reason
    assert (member.state, member.serving, member.sessions) == (State.STOPPED, False, 0)
    assert not alive(process)
    assert [line.partition(": ")[2].partition(":")[0] for line in caplog.messages] == [
        "down -> starting",
        "starting -> up",
        "up -> stopped",
    ]
    assert PIN not in caplog.text


async def test_a_killed_process_is_replaced(
    store: Store, refusals: pin.Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose process is killed says that it is down, and signs again within seconds."""
    async with running(store.settings(), store, refusals) as member:
        first = pid(member)
        os.kill(first, signal.SIGKILL)
        await until(lambda: member.transitions[State.DOWN] == 1, "the member is down")
        await until(lambda: member.state is State.UP, "the member is up again", 5)
        assert pid(member) != first
        assert member.starts == 2
        assert await signs(member, store)
        assert member.transitions == {
            State.STARTING: 2,
            State.UP: 2,
            State.DOWN: 1,
            State.QUARANTINED: 0,
            State.STOPPED: 0,
        }
    assert caplog.messages == [f"member m1: up -> down: member process {first}: it was killed by signal 9"]


async def test_requests_of_a_killed_process_fail_at_once(store: Store, refusals: pin.Refusals) -> None:
    """A request that the member's process takes with it fails at once, not with its deadline."""
    async with running(store.settings(), store, refusals) as member:
        with hung(pid(member)):
            call = asyncio.create_task(member.sign(SIGN, in_s(60)))
            await until(lambda: member.in_flight == 1, "the request is sent")
            os.kill(pid(member), signal.SIGKILL)
            with pytest.raises(MemberLostError, match="closed under the request"):
                await call
        assert member.in_flight == 0


async def test_is_restarted_on_demand(store: Store, refusals: pin.Refusals) -> None:
    """A member that is told to restart comes back with another process."""
    async with running(store.settings(), store, refusals) as member:
        first = pid(member)
        await member.restart()
        assert not alive(first)
        await until(lambda: member.starts == 2 and member.state is State.UP, "the member is up again", 5)
        assert await signs(member, store)


async def test_a_member_without_a_process_signs_nothing(store: Store, refusals: pin.Refusals) -> None:
    """A request to a member that is not running fails at once, and names its state."""
    member = Member(store.settings(), store.uris(), refusals, accept)
    with pytest.raises(MemberLostError, match="member m1 is stopped"):
        await member.sign(SIGN, in_s(10))


async def test_what_was_found_is_looked_at_first(store: Store, refusals: pin.Refusals) -> None:
    """A member that does not pass the group's test is not up; it starts afresh and is tested again."""
    tested: list[State] = []

    async def prove(member: Member, opened: wire.Opened) -> None:
        tested.append(member.state)
        assert opened.keys == store.keys
        if len(tested) == 1:
            await member.sign(wire.Sign("absent", SCHEME.name, DIGEST), in_s(10))

    async with running(store.settings(), store, refusals, prove) as member:
        await until(lambda: member.state is State.UP, "the member is up", 5)
        assert tested == [State.STARTING, State.STARTING]
        assert (member.starts, member.transitions[State.UP], member.transitions[State.DOWN]) == (2, 1, 1)


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


async def test_stopping_while_it_starts_leaves_no_process(
    store: Store,
    refusals: pin.Refusals,
    started: list[asyncio.subprocess.Process],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A member that is stopped the moment its process was started ends that process."""
    start = asyncio.create_subprocess_exec

    async def cancelled(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        process = await start(*args, **kwargs)
        life.cancel()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", cancelled)
    member = Member(store.settings(), store.uris(), refusals, accept)
    life = asyncio.create_task(member.run())
    await asyncio.gather(life, return_exceptions=True)
    await member.stop()
    (process,) = started
    assert await is_reaped(process)


async def test_stopping_while_its_process_ends_leaves_none(
    store: Store, refusals: pin.Refusals, started: list[asyncio.subprocess.Process], tmp_path: Path
) -> None:
    """A member that is stopped while its process is being ended waits for that end."""
    member = Member(wrong(store, tmp_path), store.uris(), refusals, accept)
    life = asyncio.create_task(member.run())
    await member.settled.wait()
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    await member.stop()
    (process,) = started
    assert await is_reaped(process)


# --- PINs -------------------------------------------------------------------------------------------------------------


async def test_a_wrong_pin_is_tried_once(
    store: Store,
    refusals: pin.Refusals,
    spawned: list[dict[str, str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong PIN is tried exactly once, whatever is restarted, until the operator gives another one."""
    settings = wrong(store, tmp_path)
    record = refusals.path("m1")
    async with running(settings, store, refusals) as member:
        assert (member.state, member.starts) == (State.QUARANTINED, 1)
        assert "CKR_PIN_INCORRECT" in member.reason
        assert record.stat().st_mode & 0o777 == 0o600
    assert len(spawned) == 1
    async with running(settings, store, pin.Refusals(record.parent)) as member:
        assert member.state is State.QUARANTINED
        assert "refused this PIN before" in member.reason
        assert str(record) in member.reason
    assert len(spawned) == 1
    assert len(caplog.messages) == 2
    assert WRONG_PIN not in caplog.text + record.read_text()
    (tmp_path / "pin").write_text(PIN)
    async with running(settings, store, pin.Refusals(record.parent)) as member:
        assert member.state is State.UP
        assert not record.exists()
    assert len(spawned) == 2


async def test_a_pin_that_was_changed_under_a_member(
    store: Store, refusals: pin.Refusals, spawned: list[dict[str, str]], tmp_path: Path
) -> None:
    """A member that was up and whose PIN is no longer right tries it once at its next start, and then waits."""
    settings = wrong(store, tmp_path)
    (tmp_path / "pin").write_text(PIN)
    async with running(settings, store, refusals) as member:
        assert member.state is State.UP
        (tmp_path / "pin").write_text(WRONG_PIN)
        await member.restart()
        await until(lambda: "CKR_PIN_INCORRECT" in member.reason, "the PIN is tried")
        assert member.state is State.QUARANTINED
        assert refusals.path("m1").exists()
    assert len(spawned) == 2


def set_token_flags(store: Store, flags: int) -> None:
    """Have the token say more of itself: SoftHSM keeps its flags, but never sets these, in its token object.

    There an attribute is its type (CKA_OS_TOKENFLAGS), its kind and its value, each of eight bytes.
    """
    (path,) = store.directory.glob("tokens/*/token.object")
    content = path.read_bytes()
    at = content.index((0x8000534B).to_bytes(8)) + 16
    value = int.from_bytes(content[at : at + 8]) & ~(FINAL_TRY | LOCKED) | flags
    path.write_bytes(content[:at] + value.to_bytes(8) + content[at + 8 :])


@pytest.mark.parametrize(
    ("flag", "reason"),
    [(FINAL_TRY, "one more wrong PIN locks it"), (LOCKED, "is locked")],
    ids=["at its final try", "locked"],
)
async def test_a_pin_in_danger_is_not_tried(
    softhsm_module: str, refusals: pin.Refusals, tmp_path: Path, flag: int, reason: str
) -> None:
    """A PIN at its final try, or locked, is not tried; once the operator has cleared that, the same PIN is good."""
    own = await make_store(tmp_path / "own", {})
    set_token_flags(own, flag)
    async with running(own.settings(), own, refusals) as member:
        assert member.state is State.QUARANTINED
        assert reason in member.reason
    set_token_flags(own, 0)
    async with running(own.settings(), own, refusals) as member:
        assert member.state is State.UP, member.reason


async def test_a_wrong_pin_is_tried_once_even_if_it_cannot_be_noted(
    store: Store, spawned: list[dict[str, str]], tmp_path: Path
) -> None:
    """A wrong PIN is not tried again by a running signer, even where its state directory cannot be written."""
    async with running(wrong(store, tmp_path), store, pin.Refusals(tmp_path / "removed")) as member:
        assert member.state is State.QUARANTINED, member.reason
        assert "CKR_PIN_INCORRECT" in member.reason
    assert len(spawned) == 1


async def test_a_damaged_record_of_a_refusal(
    store: Store, refusals: pin.Refusals, spawned: list[dict[str, str]]
) -> None:
    """A record of a refused PIN that was cut off, as by a full disk, may mean this PIN: it waits for an operator."""
    refusals.path("m1").write_text("abc")
    async with running(store.settings(), store, refusals) as member:
        assert member.state is State.QUARANTINED
        assert str(refusals.path("m1")) in member.reason
    assert spawned == []


async def test_a_pin_that_was_asked_for(store: Store, refusals: pin.Refusals, tmp_path: Path) -> None:
    """A PIN that was typed at start is used for every start of the member; without one the operator reads so."""
    plain = store.settings()
    settings = MemberSettings(
        name=plain.name, module=plain.module, selector=plain.selector, pin=pin.PinSource(prompt=True), sessions=1,
        environment=plain.environment,
    )  # fmt: skip
    async with running(settings, store, refusals, prompted=PIN) as member:
        assert member.state is State.UP
        await member.restart()
        await until(lambda: member.starts == 2 and member.state is State.UP, "the member is up again", 5)
    async with running(settings, store, refusals) as member:
        assert (member.state, member.reason) == (State.QUARANTINED, "the prompt gives no PIN")


# --- what only an operator can mend, and what mends itself ------------------------------------------------------------


async def test_a_missing_module_waits_for_an_operator(store: Store, refusals: pin.Refusals, tmp_path: Path) -> None:
    """A member whose library is not there is quarantined after one start, with the library's path."""
    plain = store.settings()
    path = str(tmp_path / "missing.so")
    settings = MemberSettings(name="m1", module=path, selector=plain.selector, pin=plain.pin, sessions=1)
    async with running(settings, store, refusals) as member:
        assert (member.state, member.starts, member.serving) == (State.QUARANTINED, 1, False)
        assert path in member.reason
    assert member.transitions[State.QUARANTINED] == 1


async def test_a_missing_pin_file_waits_for_an_operator(
    store: Store, refusals: pin.Refusals, spawned: list[dict[str, str]], tmp_path: Path
) -> None:
    """A member whose PIN file is not there is quarantined without a login, and the file is named."""
    async with running(store.settings(pin_file=tmp_path / "missing"), store, refusals) as member:
        assert member.state is State.QUARANTINED
        assert member.reason == f"cannot read the PIN file {tmp_path / 'missing'}: No such file or directory"
    assert spawned == []


async def test_an_hsm_that_is_reached_later(softhsm_module: str, refusals: pin.Refusals, tmp_path: Path) -> None:
    """A member whose HSM shows nothing at start is tried again, and is up once the HSM is there."""
    there = await make_store(tmp_path / "there", {})
    away = there.directory / "away"
    (there.directory / "tokens").rename(away)
    (there.directory / "tokens").mkdir()
    async with running(there.settings(), there, refusals) as member:
        assert member.state is State.DOWN
        assert "shows no initialised partition" in member.reason
        (there.directory / "tokens").rmdir()
        away.rename(there.directory / "tokens")
        await until(lambda: member.state is State.UP, "the member is up")
        assert member.transitions[State.QUARANTINED] == 0


async def test_a_partition_that_was_up_may_come_back(
    softhsm_module: str, refusals: pin.Refusals, tmp_path: Path
) -> None:
    """A member that was up and whose partition vanishes is not given up: it is up once the partition is back."""
    own = await make_store(tmp_path / "own", {"p256": "p256"})
    async with running(own.settings(), own, refusals) as member:
        (token,) = (own.directory / "tokens").iterdir()
        token.rename(own.directory / "away")
        another = await MemberProcess.spawn(own.environment)
        await another.channel.call(wire.Initialise(MODULE, "another", SO_PIN, PIN), in_s(20))
        await another.end()
        await member.restart()
        await until(lambda: "no partition has label 'tests'" in member.reason, "the member misses its partition")
        assert member.state is State.DOWN
        (own.directory / "away").rename(token)
        await until(lambda: member.state is State.UP, "the member is up again")
        assert await signs(member, own)


async def test_a_store_that_vanishes_under_a_member(
    softhsm_module: str, refusals: pin.Refusals, tmp_path: Path
) -> None:
    """A partition whose store is gone fails a few requests, is restarted, and signs again once the store is back."""
    own = await make_store(tmp_path / "own", {"p256": "p256"})
    async with running(own.settings(sessions=1), own, refusals) as member:
        assert await signs(member, own)
        tokens = own.directory / "tokens"
        tokens.rename(own.directory / "away")
        tokens.mkdir()
        for _ in range(member_module.LOSSES_IN_A_ROW):
            assert member.state is State.UP
            with pytest.raises(MemberLostError):
                await member.sign(SIGN, in_s(10))
        await until(lambda: member.state is State.DOWN, "the member is down")
        tokens.rmdir()
        (own.directory / "away").rename(tokens)
        await until(lambda: member.state is State.UP, "the member is up again")
        assert await signs(member, own)
        assert member.starts >= 2


# --- a member that hangs ----------------------------------------------------------------------------------------------


async def test_a_hung_process_is_replaced(
    store: Store, refusals: pin.Refusals, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A member that hangs costs a request its deadline; then its process is killed and another one signs."""
    monkeypatch.setattr(member_module, "HANG_S", 0.2)
    async with running(store.settings(), store, refusals) as member:
        first = pid(member)
        with hung(first):
            before = time.monotonic()
            with pytest.raises(DeadlineError):
                await member.sign(SIGN, in_s(0.4))
            assert time.monotonic() - before < 3
            assert not alive(first)
            await until(lambda: member.starts == 2 and member.state is State.UP, "the member is up again", 5)
            assert await signs(member, store)
    assert [line for line in caplog.messages if "answered nothing for" in line] == [
        "member m1 has answered nothing for 0.2 s; killing it"
    ]


async def test_a_slow_answer_is_no_hang(store: Store, refusals: pin.Refusals) -> None:
    """A member that answers late once, and soon again, keeps its process."""
    async with running(store.settings(), store, refusals) as member:
        first = pid(member)
        with hung(first), pytest.raises(DeadlineError):
            await member.sign(SIGN, in_s(0.1))
        assert await signs(member, store)
        assert (pid(member), member.starts) == (first, 1)


async def test_idleness_is_no_hang(store: Store, refusals: pin.Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that nobody asked anything for a while is not killed for the first answer that is a little late."""
    monkeypatch.setattr(member_module, "HANG_S", 0.4)
    async with running(store.settings(), store, refusals) as member:
        first, idle_from = pid(member), time.monotonic()
        await until(lambda: time.monotonic() - idle_from > 0.5, "the member was idle for longer than a hang")
        with hung(first), pytest.raises(DeadlineError):
            await member.sign(SIGN, in_s(0.1))
        assert await signs(member, store)
        assert (pid(member), member.starts) == (first, 1)


async def test_a_request_that_came_too_late_is_no_hang(
    store: Store, refusals: pin.Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose deadline has passed before it is sent does not cost the member its process."""
    monkeypatch.setattr(member_module, "HANG_S", 0)
    async with running(store.settings(), store, refusals) as member:
        first = pid(member)
        with pytest.raises(DeadlineError, match="before the request was sent"):
            await member.sign(SIGN, time.monotonic())
        assert await signs(member, store)
        assert (pid(member), member.starts) == (first, 1)


# --- what others can see of it ----------------------------------------------------------------------------------------


async def test_its_process_shows_no_secret(
    store: Store, refusals: pin.Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member process has one socket, an environment of its own without any PIN, and would leave no core dump."""
    monkeypatch.setenv("TEST_PIN", PIN)
    monkeypatch.setenv("TEST_OTHER", "another member's secret")
    plain = store.settings()
    settings = MemberSettings(
        name="m1", module=MODULE, selector=plain.selector, pin=pin.PinSource(env="TEST_PIN"), sessions=1,
        environment=plain.environment | {"TEST_VENDOR": "configured"},
    )  # fmt: skip
    async with running(settings, store, refusals) as member:
        assert member.state is State.UP
        proc = Path(f"/proc/{pid(member)}")
        argv = (proc / "cmdline").read_text().split("\0")
        environment = dict(item.split("=", 1) for item in (proc / "environ").read_text().split("\0") if item)
        limits = (proc / "limits").read_text().splitlines()
        descriptors = {int(link.name): str(link.readlink()) for link in (proc / "fd").iterdir()}
    assert argv[:4] == [sys.executable, "-I", "-m", "hsm.member_process"]
    assert [number for number, target in descriptors.items() if number > 2 and "socket:" in target] == [int(argv[4])]
    assert descriptors[0] == "/dev/null"
    inherited = {"PATH", "LANG", "LC_ALL", "TZ", "HOME", "LD_LIBRARY_PATH"}
    assert {name: value for name, value in environment.items() if name not in inherited} == settings.environment
    assert all(os.environ[name] == value for name, value in environment.items() if name in inherited)
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]


def be_a_signer(label: str, configuration: str) -> None:
    """In a child: start a member process, print its pid, and stay."""

    async def stay() -> None:
        process = await MemberProcess.spawn({"SOFTHSM2_CONF": configuration})
        await process.channel.call(wire.Open(MODULE, wire.Selector(label=label), PIN, 1, {}), in_s(20))
        print(process.pid, flush=True)
        await asyncio.Event().wait()

    asyncio.run(stay())


def test_dies_with_its_parent(store: Store) -> None:
    """A signer that is killed leaves no logged-in process behind."""
    run = f"import sys; from {__name__} import be_a_signer; be_a_signer(*sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", run, store.label, store.environment["SOFTHSM2_CONF"]], cwd=ROOT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    wait_until(lambda: not alive(child), "the member process is gone")
