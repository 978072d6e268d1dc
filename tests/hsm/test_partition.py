"""The sessions of a partition in a member process: what they sign, what they refuse, and how they heal."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from hsm import wire
from hsm.errors import HsmitmError, MemberLostError, RefusedError
from hsm.member import MemberProcess
from hsm.module import Module, Session, Token
from hsm.partition import Partition
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from tests.cas import public_key
from tests.softhsm import MODULE, PIN, Store, in_s, make_store

ROOT = Path(__file__).parents[2]
SCHEME = SCHEMES["ecdsa_secp256r1_sha256"]
DIGEST = SCHEME.digest(b"message")
SIGN = wire.Sign("p256", SCHEME.name, DIGEST)
CALLS = 20
C_CLOSE_SESSION, C_CLOSE_ALL_SESSIONS = 14, 15
"""Positions in CK_FUNCTION_LIST (PKCS#11 v3.0 section 3.6), as in `hsm.module`."""


@pytest.fixture
async def member(store: Store) -> AsyncIterator[MemberProcess]:
    """A member process with two sessions."""
    process = await MemberProcess.spawn(store.environment)
    await process.channel.call(store.opening(2), in_s(10))
    yield process
    await process.end()


async def _signs(process: MemberProcess, store: Store) -> bool:
    """Whether the member still makes a right signature."""
    signed = await process.channel.call(SIGN, in_s(10))
    assert isinstance(signed, wire.Signature)
    return SCHEME.verifies(public_key(store, "p256"), DIGEST, signed.signature)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (wire.Sign("p256", SCHEME.name, bytes(31)), "with a digest of 31 bytes"),
        (wire.Sign("p256", SCHEME.name, bytes(33)), "with a digest of 33 bytes"),
        (wire.Sign("p256", SCHEME.name, b""), "with a digest of 0 bytes"),
        (wire.Sign("rsa", "rsa_pkcs1_sha512", bytes(32)), "with a digest of 32 bytes"),
        (wire.Sign("p256", "ed25519", bytes(32)), "ed25519 with a digest of 32 bytes is no signature scheme"),
        (wire.Sign("p256", "rsa_pkcs1_sha256", bytes(32)), "cannot make rsa_pkcs1_sha256"),
        (wire.Sign("rsa", SCHEME.name, bytes(32)), f"cannot make {SCHEME.name}"),
        (wire.Sign("another", SCHEME.name, bytes(32)), "was not given a key named 'another'"),
        (wire.Sign("", SCHEME.name, bytes(32)), "was not given a key named ''"),
    ],
)
async def test_refuses_what_is_no_signature(
    member: MemberProcess, store: Store, request_: wire.Sign, reason: str
) -> None:
    """A request that cannot be right is refused with its reason, and the member goes on signing."""
    with pytest.raises(RefusedError, match=reason):
        await member.channel.call(request_, in_s(10))
    assert await _signs(member, store)


async def test_refuses_to_sign_before_it_is_open(store: Store) -> None:
    """A member that has not logged in signs nothing, and says so."""
    process = await MemberProcess.spawn(store.environment)
    try:
        with pytest.raises(RefusedError, match="sign before open"):
            await process.channel.call(SIGN, in_s(10))
    finally:
        await process.end()


async def test_many_requests_share_few_sessions(store: Store) -> None:
    """Two hundred requests at once are each answered with their own right signature by four sessions."""
    process = await MemberProcess.spawn(store.environment)
    try:
        opened = await process.channel.call(store.opening(4), in_s(10))
        assert isinstance(opened, wire.Opened)
        assert opened.sessions == 4
        wanted = []
        for number in range(200):
            key = ("rsa", "p256", "p384")[number % 3]
            scheme = SCHEMES[opened.keys[key].schemes[0]]
            wanted.append((key, scheme, scheme.digest(b"message %d" % number)))
        calls = [process.channel.call(wire.Sign(key, scheme.name, digest), in_s(20)) for key, scheme, digest in wanted]
        answers = await asyncio.gather(*calls)
    finally:
        await process.end()
    for (key, scheme, digest), answer in zip(wanted, answers, strict=True):
        assert isinstance(answer, wire.Signature)
        assert scheme.verifies(public_key(store, key), digest, answer.signature)
        assert answer.executed_s > 0
    assert max(answer.queued_s for answer in answers if isinstance(answer, wire.Signature)) > 0


async def test_a_deleted_key_loses_the_member(softhsm_module: str, tmp_path: Path) -> None:
    """A key that vanishes under a running member makes it ask for a fresh start, not refuse the request."""
    own = await make_store(tmp_path / "store", {"p256": "p256"})
    process = await MemberProcess.spawn(own.environment)
    try:
        await process.channel.call(own.opening(2), in_s(10))
        assert await _signs(process, own)
        gone = [path for path in own.directory.glob("tokens/*/*.object") if path.name != "token.object"]
        assert len(gone) == 2
        for path in gone:
            path.unlink()
        with pytest.raises(MemberLostError, match="no private key pkcs11:object=p256"):
            await process.channel.call(SIGN, in_s(10))
        assert isinstance(await process.channel.call(wire.Ping(), in_s(10)), wire.Done)
    finally:
        await process.end()


# --- deadlines, seen from the wire ------------------------------------------------------------------------------------


@pytest.fixture
def bare(store: Store) -> Iterator[socket.socket]:
    """The socket of a member process that is open, for frames that `Channel` would not send."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "hsm.member_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=store.environment,
        )
    with ours:
        ours.settimeout(10)
        ours.sendall(wire.encode(wire.Call(1, in_s(10), store.opening(1))))
        assert isinstance(_frames(ours, 1)[0], wire.Answer)
        yield ours
    assert process.wait(10) == 0


def _frames(connection: socket.socket, number: int) -> list[wire.Frame]:
    framer = wire.Framer()
    frames: list[wire.Frame] = []
    while len(frames) < number:
        frames += framer.feed(connection.recv(65536))
    return frames


def test_a_deadline_that_passed_makes_no_signature(bare: socket.socket) -> None:
    """A request whose deadline has passed in the queue is answered so, and costs the HSM nothing."""
    late, timely = time.monotonic() - 0.001, in_s(10)
    bare.sendall(wire.encode(wire.Call(2, late, SIGN)) + wire.encode(wire.Call(3, timely, SIGN)))
    first, second = _frames(bare, 2)
    assert first == wire.Fault(2, "DeadlineError", "the deadline passed while the request waited for a session")
    assert isinstance(second, wire.Answer)
    assert (second.id, type(second.body)) == (3, wire.Signature)


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
    keys = {"p256": KeyURI(object="p256")}
    partition = Partition(module, wire.Open(MODULE, wire.Selector(label=label), PIN, 2, keys))

    def sign() -> Answers:
        answers: queue.SimpleQueue[wire.Signature | HsmitmError] = queue.SimpleQueue()
        for number in range(CALLS):
            partition.sign(wire.Call(number, in_s(10), SIGN), SIGN, answers.put)
        found = [answers.get(timeout=20) for _ in range(CALLS)]
        return Answers(
            [answer.signature for answer in found if isinstance(answer, wire.Signature)],
            [type(answer).__name__ for answer in found if isinstance(answer, HsmitmError)],
        )

    before = sign()
    if how == "all":
        assert module._functions.function(C_CLOSE_ALL_SESSIONS, ctypes.c_ulong)(partition.token.info.slot) == 0
    else:
        for handle in handles:
            assert module._functions.function(C_CLOSE_SESSION, ctypes.c_ulong)(handle) == 0
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
    assert set(healing.after.errors) == {"MemberLostError"}
