"""The sessions of a partition in a member process: what they sign, what they refuse, and how they heal."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from bench.rig.faulty_module import FaultyModule
from hsm import codes
from hsm.codes import Kind
from hsm.errors import DeadlineError, HsmitmError, KeyLostError, MemberLostError, RefusedError, SessionLostError
from hsm.member.process import MemberProcess
from hsm.schemes import SCHEMES
from hsm.token.module import Module
from hsm.token.sessions import Sessions
from hsm.token.token import Session, Token
from hsm.uri import KeyURI
from hsm.wire import frames
from hsm.wire import member as member_wire
from hsm.wire.frames import Answer, Call, Done, Fault, Frame
from hsm.wire.member import (
    CODEC,
    Describe,
    Generate,
    Inspect,
    Inspected,
    KeyFound,
    KeysFound,
    Open,
    Opened,
    Ping,
    Request,
    Selector,
    Sign,
    Signature,
    Vital,
)
from tests.cas import public_key
from tests.softhsm import MODULE, PIN, Store, in_s, make_store
from tests.waiting import until

ROOT = Path(__file__).parents[3]
SCHEME = SCHEMES["ecdsa_secp256r1_sha256"]
DIGEST = SCHEME.digest(b"message")
SIGN = Sign("p256", SCHEME.name, DIGEST)
CALLS = 20
C_CLOSE_SESSION, C_CLOSE_ALL_SESSIONS = 14, 15
"""Positions in CK_FUNCTION_LIST (PKCS#11 v3.0 section 3.6), as in `hsm.token.module`."""


@pytest.fixture
async def member(store: Store) -> AsyncIterator[MemberProcess]:
    """A member process with two sessions."""
    process = await MemberProcess.spawn(store.environment)
    await process.channel.call(store.opening(2), in_s(10))
    yield process
    await process.end()


@asynccontextmanager
async def _opened(environment: dict[str, str], opening: Open) -> AsyncIterator[MemberProcess]:
    """A member process that is open."""
    process = await MemberProcess.spawn(environment)
    try:
        assert isinstance(await process.channel.call(opening, in_s(20)), Opened)
        yield process
    finally:
        await process.end()


async def _vital(process: MemberProcess) -> Vital:
    """How the member's sessions are."""
    vital = await process.channel.call(Ping(), in_s(10))
    assert isinstance(vital, Vital)
    return vital


async def _until_vital(process: MemberProcess, condition: Callable[[Vital], bool], message: str) -> None:
    """Ask how its sessions are until they are so."""
    vital = None
    try:
        async with asyncio.timeout(10):
            while not condition(vital := await _vital(process)):
                pass
    except TimeoutError:
        pytest.fail(f"not within 10 s: {message} (last: {vital})")


async def _counts(process: MemberProcess) -> tuple[int, int]:
    """How many sessions serve, and how many were replaced."""
    vital = await _vital(process)
    return vital.sessions, vital.replaced


async def _signs(process: MemberProcess, store: Store, within_s: float = 10) -> bool:
    """Whether the member still makes a right signature."""
    signed = await process.channel.call(SIGN, in_s(within_s))
    assert isinstance(signed, Signature)
    return SCHEME.verifies(public_key(store, "p256"), DIGEST, signed.signature)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Sign("p256", SCHEME.name, bytes(31)), "with a digest of 31 bytes"),
        (Sign("p256", SCHEME.name, bytes(33)), "with a digest of 33 bytes"),
        (Sign("p256", SCHEME.name, b""), "with a digest of 0 bytes"),
        (Sign("rsa", "rsa_pkcs1_sha512", bytes(32)), "with a digest of 32 bytes"),
        (Sign("p256", "ed25519", bytes(32)), "ed25519 with a digest of 32 bytes is no signature scheme"),
        (Sign("p256", "rsa_pkcs1_sha256", bytes(32)), "cannot make rsa_pkcs1_sha256"),
        (Sign("rsa", SCHEME.name, bytes(32)), f"cannot make {SCHEME.name}"),
        (Sign("another", SCHEME.name, bytes(32)), "was not given a key named 'another'"),
        (Sign("", SCHEME.name, bytes(32)), "was not given a key named ''"),
    ],
)
async def test_refuses_what_is_no_signature(member: MemberProcess, store: Store, request_: Sign, reason: str) -> None:
    """A request that cannot be right is refused with its reason, and the member goes on signing."""
    with pytest.raises(RefusedError, match=reason):
        await member.channel.call(request_, in_s(10))
    assert await _signs(member, store)


async def test_refuses_to_sign_before_it_is_open(store: Store) -> None:
    """A member that has not logged in signs nothing, and says so."""
    process = await MemberProcess.spawn(store.environment)
    try:
        with pytest.raises(RefusedError, match="does not answer Sign now"):
            await process.channel.call(SIGN, in_s(10))
    finally:
        await process.end()


async def test_many_requests_share_few_sessions(store: Store) -> None:
    """Two hundred requests at once are each answered with their own right signature by four sessions."""
    process = await MemberProcess.spawn(store.environment)
    try:
        opened = await process.channel.call(store.opening(4), in_s(10))
        assert isinstance(opened, Opened)
        assert opened.sessions == 4
        wanted = []
        for number in range(200):
            key = ("rsa", "p256", "p384")[number % 3]
            scheme = SCHEMES[opened.keys[key].schemes[0]]
            wanted.append((key, scheme, scheme.digest(b"message %d" % number)))
        calls = [process.channel.call(Sign(key, scheme.name, digest), in_s(20)) for key, scheme, digest in wanted]
        answers = await asyncio.gather(*calls)
    finally:
        await process.end()
    for (key, scheme, digest), answer in zip(wanted, answers, strict=True):
        assert isinstance(answer, Signature)
        assert scheme.verifies(public_key(store, key), digest, answer.signature)
        assert answer.executed_s > 0
    assert max(answer.queued_s for answer in answers if isinstance(answer, Signature)) > 0


async def test_a_key_that_vanishes_is_no_wrong_request(softhsm_module: str, tmp_path: Path) -> None:
    """A key that vanishes under a running member is told from a wrong request, and looking for it says the same."""
    own = await make_store(tmp_path / "store", {"p256": "p256"})
    async with _opened(own.environment, own.opening(2)) as process:
        assert await _signs(process, own)
        gone = [path for path in own.directory.glob("tokens/*/*.object") if path.name != "token.object"]
        assert len(gone) == 2
        for path in gone:
            path.unlink()
        for _ in range(2):
            with pytest.raises(KeyLostError, match="no private key pkcs11:object=p256"):
                await process.channel.call(SIGN, in_s(10))
        found = await process.channel.call(Describe(), in_s(10))
        assert isinstance(found, KeysFound)
        assert found.keys["p256"].missing
        assert (await _vital(process)).sessions == 2


async def test_a_key_that_comes_later_is_found(softhsm_module: str, tmp_path: Path) -> None:
    """A key that is put on the partition under a running member is found by it, and signs without a new start."""
    own = await make_store(tmp_path / "store", {})
    opening = Open(MODULE, Selector(label=own.label), PIN, 2, {"p256": KeyURI(object="p256")})
    async with _opened(own.environment, opening) as process:
        with pytest.raises(KeyLostError):
            await process.channel.call(SIGN, in_s(10))
        async with _opened(own.environment, own.opening(1, writable=True)) as maker:
            made = await maker.channel.call(Generate("p256", "p256"), in_s(10))
            assert isinstance(made, KeyFound)
            own.keys["p256"] = made
        assert await process.channel.call(Describe(), in_s(10)) == KeysFound(own.keys)
        assert await _signs(process, own)


async def test_every_session_finds_a_key_by_its_public_half(store: Store) -> None:
    """A key that this member holds under another name signs on each of its sessions, and not the one of that name."""
    keys = {"ca": KeyURI(object="no such key"), "other": KeyURI(object="p384")}
    spkis = dict.fromkeys(keys, store.keys["p256"].spki)
    opening = Open(MODULE, Selector(label=store.label), PIN, 4, keys, spkis=spkis)
    async with _opened(store.environment, opening) as process:
        found = await process.channel.call(Describe(), in_s(10))
        assert found == KeysFound(dict.fromkeys(keys, store.keys["p256"]))
        requests = [Sign(name, SCHEME.name, DIGEST) for name in keys] * 20
        answers = await asyncio.gather(*(process.channel.call(request, in_s(20)) for request in requests))
    for answer in answers:
        assert isinstance(answer, Signature)
        assert SCHEME.verifies(public_key(store, "p256"), DIGEST, answer.signature)


# --- deadlines, seen from the wire ------------------------------------------------------------------------------------


@pytest.fixture
def bare(store: Store) -> Iterator[socket.socket]:
    """The socket of a member process that is open, for frames that `Channel` would not send."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "hsm.token.main", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=store.environment,
        )
    with ours:
        ours.settimeout(10)
        ours.sendall(frames.encode(Call(1, in_s(10), store.opening(1))))
        assert isinstance(_frames(ours, 1)[0], Answer)
        yield ours
    assert process.wait(10) == 0


def _frames(connection: socket.socket, number: int) -> list[Frame]:
    framer = CODEC.answered()
    received: list[Frame] = []
    while len(received) < number:
        received += framer.feed(connection.recv(65536))
    return received


def test_a_deadline_that_passed_makes_no_signature(bare: socket.socket) -> None:
    """A request whose deadline has passed in the queue is answered so, and costs the HSM nothing."""
    late, timely = time.monotonic() - 0.001, in_s(10)
    bare.sendall(frames.encode(Call(2, late, SIGN)) + frames.encode(Call(3, timely, SIGN)))
    first, second = _frames(bare, 2)
    assert first == Fault(2, "DeadlineError", "the deadline passed while the request waited for a session")
    assert isinstance(second, Answer)
    assert (second.id, type(second.body)) == (3, Signature)


# --- sessions that are lost -------------------------------------------------------------------------------------------


class Answers(msgspec.Struct):
    """What sessions answered: signatures, and the class names of errors."""

    signatures: list[bytes]
    errors: list[str]


class Healing(msgspec.Struct):
    """What a child that lost its sessions tells."""

    before: Answers
    after: Answers
    opened: int


def lose_sessions(label: str, how: str) -> None:
    """In a child: sign, have the module forget sessions, sign again; print a `Healing`."""
    handles: list[int] = []
    open_session = Token.session

    def recorded(token: Token) -> Session:
        session = open_session(token)
        handles.append(session._session.handle)
        return session

    Token.session = recorded  # type: ignore[method-assign,assignment]
    module = Module(MODULE)
    functions = module._lib.functions
    assert functions is not None
    keys = {"p256": KeyURI(object="p256")}
    token = module.token(Selector(label=label))
    partition = Sessions(module, Open(MODULE, Selector(label=label), None, 2, keys), token, token.log_in(PIN))

    def sign() -> Answers:
        answers: queue.SimpleQueue[Signature | HsmitmError] = queue.SimpleQueue()
        for number in range(CALLS):
            partition.sign(Call(number, in_s(10), SIGN), SIGN, answers.put)
        found = [answers.get(timeout=20) for _ in range(CALLS)]
        return Answers(
            [answer.signature for answer in found if isinstance(answer, Signature)],
            [type(answer).__name__ for answer in found if isinstance(answer, HsmitmError)],
        )

    before = sign()
    if how == "all":
        assert functions.function(C_CLOSE_ALL_SESSIONS, ctypes.c_ulong)(partition.token.info.slot) == 0
    else:
        for handle in handles:
            assert functions.function(C_CLOSE_SESSION, ctypes.c_ulong)(handle) == 0
    after = sign()
    sys.stdout.write(msgspec.json.encode(Healing(before, after, len(handles))).decode())
    sys.stdout.flush()
    os._exit(0)


def _lose(store: Store, how: str) -> Healing:
    """Run `lose_sessions` in a process of its own."""
    run = f"import sys; from {__name__} import lose_sessions; lose_sessions(*sys.argv[1:])"
    child = subprocess.run(
        [sys.executable, "-c", run, store.label, how],
        cwd=ROOT,
        env=os.environ | store.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    healing = msgspec.json.decode(child.stdout, type=Healing)
    public = public_key(store, "p256")
    for signature in healing.before.signatures + healing.after.signatures:
        assert SCHEME.verifies(public, DIGEST, signature)
    assert len(healing.before.signatures) == CALLS
    return healing


def test_lost_sessions_are_replaced(store: Store) -> None:
    """When the HSM forgets the sessions that sign, each is replaced under its request and no request fails."""
    healing = _lose(store, "signing")
    assert healing.after.errors == []
    assert len(healing.after.signatures) == CALLS
    assert 3 <= healing.opened <= 4


def test_a_lost_login_loses_the_member(store: Store) -> None:
    """When the HSM forgets every session, and the login with them, the member asks for a fresh start."""
    healing = _lose(store, "all")
    assert healing.after.signatures == []
    assert set(healing.after.errors) == {"KeyLostError"}


# --- a module that fails on command -----------------------------------------------------------------------------------


class Behind:
    """The shared partition behind a module that fails on command."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.module = FaultyModule(directory)

    def open(self, sessions: int, **more: float) -> AbstractAsyncContextManager[MemberProcess]:
        """A member process that is open."""
        opening = msgspec.structs.replace(self.store.opening(sessions, **more), module=str(self.module.path))
        return _opened(self.store.environment | self.module.environment(MODULE), opening)

    @property
    def opened(self) -> int:
        """How many sessions were opened, an anchor for each process among them."""
        return self.module.calls("C_OpenSession")


@pytest.fixture
def behind(store: Store, tmp_path: Path) -> Behind:
    """The shared partition behind a faulty module of this test's own."""
    return Behind(store, tmp_path / "hsm")


def _codes(kind: Kind) -> list[int]:
    return [code for code in codes.NAMES if codes.kind(code) is kind]


async def _fails(process: MemberProcess) -> HsmitmError:
    """The error of one signature."""
    with pytest.raises(HsmitmError) as caught:
        await process.channel.call(SIGN, in_s(10))
    return caught.value


@pytest.mark.parametrize("how", ["C_SignInit rv", "C_Sign rvafter"])
async def test_a_stale_session_is_replaced_under_the_request(behind: Behind, how: str) -> None:
    """Whatever code says that a session is stale, its request succeeds on a new one, and the client sees nothing."""
    async with behind.open(1) as process:
        assert await _signs(process, behind.store)
        for number, code in enumerate(_codes(Kind.SESSION), 1):
            searches = behind.module.calls("C_FindObjectsInit")
            with behind.module.fault(f"{how} {code:#x} n=1"):
                assert await _signs(process, behind.store), codes.name(code)
                assert behind.module.fired() == 1
            assert await _counts(process) == (1, number), codes.name(code)
            assert behind.opened == 2 + number
            assert behind.module.calls("C_FindObjectsInit") > searches, "a key object outlived its session"


async def test_a_request_gets_one_new_session(behind: Behind) -> None:
    """A request whose new session is stale too fails, with the code; the next one gets another session."""
    async with behind.open(1) as process:
        with behind.module.fault("C_SignInit rv 0xB3 n=2"):
            error = await _fails(process)
            assert (type(error), error.code) == (SessionLostError, 0xB3)
            assert await _signs(process, behind.store)
        assert await _counts(process) == (1, 2)


@pytest.mark.parametrize(
    ("code", "replaced"),
    [
        (0x30, 0),  # CKR_DEVICE_ERROR
        (0x05, 0),  # CKR_GENERAL_ERROR: a client's bad input, perhaps
        (0x06, 0),  # CKR_FUNCTION_FAILED
        (0x101, 0),  # CKR_USER_NOT_LOGGED_IN: no session is better
        (0x70, 0),  # CKR_MECHANISM_INVALID
        (0x62, 1),  # CKR_KEY_SIZE_RANGE: the handle may be another key's
        (0x63, 1),  # CKR_KEY_TYPE_INCONSISTENT
        (0x68, 1),  # CKR_KEY_FUNCTION_NOT_PERMITTED
        (0x80000123, 1),  # a vendor's
        (0x1B0, 1),  # a standard's, that says nothing to us
    ],
)
async def test_every_session_is_inspected_when_it_comes_back(behind: Behind, code: int, replaced: int) -> None:
    """A failure is told once, with its code; a session that it makes doubtful serves nobody else."""
    async with behind.open(1) as process:
        with behind.module.fault(f"C_SignInit rv {code:#x} n=1"):
            error = await _fails(process)
            assert (type(error), error.code) == (type(codes.error(code, "")), code)
            assert await _signs(process, behind.store)
        assert await _counts(process) == (1, replaced)
        assert behind.opened == 2 + replaced


async def test_an_idle_session_that_is_lost_is_replaced_before_it_is_needed(behind: Behind) -> None:
    """An idle member finds out that the HSM dropped a session, and has a new one without being asked for anything."""
    async with behind.open(1, keep_alive_s=1) as process:
        behind.module.rules("C_GenerateRandom rv 0xB3 n=1")
        await until(lambda: behind.module.fired() == 1, "the idle session found that it is lost")
        await until(lambda: behind.opened == 3, "a new session is there long before the next look", 0.7)
        await until(lambda: behind.module.calls("C_GenerateRandom") == 2, "and it proved itself alive")
        assert (await _vital(process)).replaced == 1
        assert await _signs(process, behind.store)
        assert behind.opened == 3


async def test_idle_sessions_prove_themselves_each(behind: Behind) -> None:
    """Every idle session looks again and again; an HSM that fails one of them is not left for that."""
    async with behind.open(3, keep_alive_s=0.05) as process:
        behind.module.rules("C_GenerateRandom rv 0x30 n=3")
        await until(lambda: behind.module.calls("C_GenerateRandom") >= 12, "the sessions look again and again")
        assert behind.module.fired() == 3
        assert (await _vital(process)).replaced == 0
        assert await _signs(process, behind.store)
        assert behind.opened == 4


async def test_no_session_is_looked_after_unless_it_is_asked_for(behind: Behind) -> None:
    """Without a keep-alive an idle member leaves the HSM alone."""
    async with behind.open(2, keep_alive_s=0) as process:
        assert await _signs(process, behind.store)
        assert behind.module.calls("C_GenerateRandom") == 0


async def test_sessions_of_a_member_that_comes_back_are_opened_one_after_another(behind: Behind) -> None:
    """An HSM that just came back is not met by all sessions at once, and the first of them serves meanwhile."""
    started = time.monotonic()
    async with behind.open(4, session_every_s=0.1) as process:
        assert behind.opened == 2, "the anchor and the first"
        assert (await _vital(process)).sessions == 4
        assert await _signs(process, behind.store)
        for number in (1, 2, 3):
            await until(lambda: behind.opened >= 2 + number, "the next session is opened")  # noqa: B023
            assert time.monotonic() - started >= 0.1 * number
        await until(lambda: behind.module.calls("C_GenerateRandom") == 3, "each proved itself")
        assert behind.opened == 5
        answers = await asyncio.gather(*(_signs(process, behind.store) for _ in range(20)))
        assert all(answers)


async def test_sessions_are_opened_at_once_at_first(behind: Behind) -> None:
    """A member that starts for the first time has all its sessions when it says that it is open."""
    async with behind.open(4) as process:
        assert behind.opened == 5
        assert (await _vital(process)).sessions == 4


# --- a token without room ---------------------------------------------------------------------------------------------


async def test_a_session_without_room_leaves_its_work_to_others(behind: Behind) -> None:
    """When the token takes sessions away, those that are left serve every request, and the others come back later."""
    async with behind.open(3) as process:
        behind.module.rules("maxsess 2", "C_SignInit rv 0xB3 n=3")
        answers = await asyncio.gather(*(_signs(process, behind.store) for _ in range(30)))
        assert all(answers)
        assert await _counts(process) == (1, 3)
        behind.module.clear()
        await _until_vital(process, lambda vital: vital.sessions == 3, "all sessions are back")
        assert await _signs(process, behind.store)


async def test_the_last_session_does_not_leave(behind: Behind) -> None:
    """Where the token has no room at all, a request is told so at once instead of being left lying."""
    async with behind.open(2) as process:
        behind.module.rules("maxsess 1", "C_SignInit rv 0xB3 n=2")
        for _ in range(3):
            errors = await asyncio.gather(*(_fails(process) for _ in range(4)))
            assert {(type(error), error.code) for error in errors} == {(MemberLostError, codes.SESSION_COUNT)}
        assert (await _vital(process)).sessions == 1
        behind.module.clear()
        assert await _signs(process, behind.store)
        await _until_vital(process, lambda vital: vital.sessions == 2, "the other session is back")


async def test_sessions_that_find_no_room_at_the_start_come_later(behind: Behind) -> None:
    """A member that comes back to a crowded token serves with what it gets, and takes the rest when there is room."""
    behind.module.rules("maxsess 3")
    async with behind.open(4, session_every_s=0.01) as process:
        await _until_vital(process, lambda vital: vital.sessions == 2, "two sessions found no room")
        assert await _signs(process, behind.store)
        behind.module.clear()
        await _until_vital(process, lambda vital: vital.sessions == 4, "all sessions are there")
        assert behind.module.calls("C_OpenSession") >= 5


async def test_a_session_that_has_its_place_comes_back(behind: Behind) -> None:
    """A token that says under a signature that it has no room is believed for a while only."""
    async with behind.open(2) as process:
        with behind.module.fault(f"C_SignInit rv {codes.SESSION_COUNT:#x} n=1"):
            assert await _signs(process, behind.store), "the other session signs"
        await _until_vital(process, lambda vital: vital.sessions == 2, "both sessions serve again")


@pytest.mark.parametrize("code", [0x31, 0x201, 0x80000383], ids=hex)
async def test_no_room_for_an_operation(behind: Behind, code: int) -> None:
    """A token that has no room for a signature is believed at once, so that a peer is asked; the session that met it
    rests, is kept, and signs again."""
    async with behind.open(2, codes={0x80000383: Kind.BUSY}) as process:
        with behind.module.fault(f"C_SignInit rv {code:#x} n=1"):
            error = await _fails(process)
            assert (type(error), error.code, codes.called_for(error)) == (MemberLostError, code, Kind.BUSY)
        assert await _counts(process) == (1, 0)
        assert await _signs(process, behind.store), "the other session signs"
        await _until_vital(process, lambda vital: vital.sessions == 2, "both sessions serve again")
        assert behind.opened == 3, "none was opened anew"


class Roomless:
    """A module and its token, whose sessions do nothing."""

    info = member_wire.Partition("tests", "1", 0, "", "", "", [], None)

    def session(self) -> Roomless:
        """A session."""
        return self


class Meeting(Sessions):
    """A partition of which two threads that count its sessions at a time do so at the same moment."""

    barrier = threading.Barrier(2)

    @property
    def sessions(self) -> int:
        """The number, which another thread may have read too."""
        number = super().sessions
        with suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.2)
        return number


def test_two_sessions_do_not_leave_each_other_the_work() -> None:
    """Where the last two sessions find out at the same moment that there is no room, one of them stays."""
    empty, opening = Roomless(), Open("", Selector(label="tests"), None, 2, {})
    partition = Meeting(empty, opening, empty, empty)  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda worker: worker._park(), partition._workers)) == [False, True]
    assert sum(not worker.parked for worker in partition._workers) == 1


# --- how the sessions are ---------------------------------------------------------------------------------------------


async def test_a_hanging_session_is_seen_from_outside(behind: Behind) -> None:
    """While every session hangs in the module, the process tells for how long, and how many requests wait."""
    async with behind.open(1) as process:
        assert await _vital(process) == Vital(0, 1, 0, 0)
        with behind.module.fault("C_Sign stall n=1"):
            before = time.monotonic()
            calls = [asyncio.create_task(_signs(process, behind.store)) for _ in range(3)]
            await _until_vital(process, lambda vital: vital.silent_s > 0.2 and vital.queued == 2, "the hang is seen")
            vital = await _vital(process)
            assert vital.silent_s <= time.monotonic() - before
            assert (vital.oldest_s, vital.overtaken) == (0, 0), "its time is not up"
        assert all(await asyncio.gather(*calls))
        await _until_vital(process, lambda vital: vital == Vital(0, 1, 0, 0), "nothing is left to do")


async def test_a_call_whose_time_is_up_is_seen_from_outside(behind: Behind) -> None:
    """A call that hangs beside others is told with its age once its time is up, and how many overtook it."""
    async with behind.open(2) as process:
        with behind.module.fault("C_Sign stall n=1"):
            before = time.monotonic()
            with pytest.raises(DeadlineError):
                await _signs(process, behind.store, 0.2)
            assert all([await _signs(process, behind.store) for _ in range(5)])
            vital = await _vital(process)
            assert 0.15 <= vital.oldest_s <= time.monotonic() - before
            assert vital.overtaken == 5
            assert vital.silent_s < vital.oldest_s, "others came back meanwhile"
        await _until_vital(process, lambda vital: vital == Vital(0, 2, 0, 0), "it came back")


async def test_calls_that_queue_are_not_overtaken(behind: Behind) -> None:
    """At a device that works on one call at a time the last of several is old, and nobody overtook it."""
    async with behind.open(4) as process:
        behind.module.rules("C_Sign serial 200")
        calls = [asyncio.create_task(_signs(process, behind.store, 0.4)) for _ in range(4)]
        await until(lambda: behind.module.fired() > 0, "one is worked on")
        seen = [await _vital(process)]
        while seen[-1] != Vital(0, 4, 0, 0):
            seen.append(await _vital(process))
        assert max(vital.oldest_s for vital in seen) > 0.4
        assert max(vital.overtaken for vital in seen) < 4
        assert max(vital.silent_s for vital in seen) < 0.4
        await asyncio.gather(*calls, return_exceptions=True)


async def test_a_hanging_keep_alive_is_seen_from_outside(behind: Behind) -> None:
    """An idle session that hangs in its own proof of life counts as one that hangs."""
    async with behind.open(2, keep_alive_s=0.05) as process:
        with behind.module.fault("C_GenerateRandom stall n=1"):
            await _until_vital(process, lambda vital: vital.oldest_s > 0.2, "the hang is seen")
            assert await _signs(process, behind.store), "the other session signs"
        await _until_vital(process, lambda vital: vital.oldest_s < 0.1, "it goes on")


async def test_looking_and_telling_do_not_wait_for_a_hanging_session(behind: Behind) -> None:
    """With one session hanging, the keys and the module's slots are still told, by the other one."""
    async with behind.open(2) as process:
        with behind.module.fault("C_Sign stall n=1"):
            stalled = asyncio.create_task(_signs(process, behind.store))
            await until(lambda: behind.module.fired() == 1, "a session hangs")
            assert await process.channel.call(Describe(), in_s(10)) == KeysFound(behind.store.keys)
            inspected = await process.channel.call(Inspect(), in_s(10))
            assert isinstance(inspected, Inspected)
            assert [slot.partition.label for slot in inspected.slots] == [behind.store.label]
            assert not stalled.done()
        assert await stalled


@pytest.mark.parametrize(("body", "function"), [(Describe(), "C_FindObjectsInit"), (Inspect(), "C_GetSlotList")])
async def test_what_fails_while_looking_is_told(behind: Behind, body: Request, function: str) -> None:
    """A module that fails while it is asked about keys or slots is reported with its code, and the member goes on."""
    async with behind.open(1) as process:
        with behind.module.fault(f"{function} rv 0x30"):
            with pytest.raises(MemberLostError, match="CKR_DEVICE_ERROR") as caught:
                await process.channel.call(body, in_s(10))
            assert caught.value.code == 0x30
        assert not isinstance(await process.channel.call(body, in_s(10)), Done)
        assert await _signs(process, behind.store)
