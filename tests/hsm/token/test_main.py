"""A member process on a real partition, over its own socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import structs

from bench.rig.faulty_module import FaultyModule
from hsm import codes
from hsm.errors import DeadlineError, HsmitmError, MemberLostError, MisconfiguredError, PinRefusedError, RefusedError
from hsm.member.process import MemberProcess
from hsm.schemes import SCHEMES
from hsm.token.main import _MemberProcess
from hsm.wire import frames
from hsm.wire.admin import Reset, Status
from hsm.wire.frames import Answer, Call, Cancel, Decrypted, Done, Frame
from hsm.wire.member import (
    CODEC,
    Begin,
    Decrypt,
    Describe,
    Generate,
    Inspect,
    LogIn,
    Open,
    Opened,
    Ping,
    Request,
    Selector,
    Sign,
    Signature,
    Vital,
)
from hsm.wire.worker import Mint
from tests.hsm.members import hung
from tests.hsm.sites import badly_padded, encrypted
from tests.softhsm import MODULE, PIN, Store, in_s
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
SCHEME = SCHEMES["ecdsa_secp256r1_sha256"]
SIGN = Sign("p256", SCHEME.name, SCHEME.digest(b"message"))


@pytest.fixture
async def member(store: Store) -> AsyncIterator[MemberProcess]:
    """A member process that waits for its first frame."""
    process = await MemberProcess.spawn(store.environment)
    yield process
    await process.end()


@pytest.fixture
def faulty(tmp_path: Path, softhsm_module: str) -> FaultyModule:
    """A module that fails as it is told."""
    return FaultyModule(tmp_path / "hsm")


@pytest.fixture
async def behind(store: Store, faulty: FaultyModule) -> AsyncIterator[MemberProcess]:
    """A member process that can load the faulty module."""
    process = await MemberProcess.spawn(store.environment | faulty.environment(MODULE))
    yield process
    await process.end()


def opening_of(store: Store, faulty: FaultyModule, given_pin: str | None = PIN) -> Open:
    """The first call, with the faulty module."""
    return msgspec.structs.replace(store.opening(1, given_pin), module=str(faulty.path))


# --- how it answers ---------------------------------------------------------------------------------------------------


def test_answers_of_all_sessions_arrive() -> None:
    """Sessions that answer at the same time to a signer that reads late lose no answer and mix none up."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process, sessions, each = _MemberProcess(theirs), 8, 500

        def answer(session: int) -> None:
            for number in range(each):
                process._send(Answer(session * each + number, Signature(bytes(300), 0.0, 0.0)))

        threads = [threading.Thread(target=answer, args=(session,)) for session in range(sessions)]
        for thread in threads:
            thread.start()
        framer, seen = CODEC.answered(), []
        ours.settimeout(10)
        while len(seen) < sessions * each:
            seen += [frame.id for frame in framer.feed(ours.recv(4096))]
        for thread in threads:
            thread.join()
    assert sorted(seen) == list(range(sessions * each))
    for session in range(sessions):
        of_it = [number for number in seen if number // each == session]
        assert of_it == sorted(of_it)


def test_an_answer_that_comes_while_another_is_sent() -> None:
    """A session that finds another one sending goes on signing, and its answer is sent all the same."""
    sent: list[int] = []

    class Connection:
        def sendall(self, data: bytes) -> None:
            if not sent:
                meanwhile = threading.Thread(target=process._send, args=(Answer(2, Done()),))
                meanwhile.start()
                meanwhile.join(10)
                assert not meanwhile.is_alive()
            sent.extend(frame.id for frame in CODEC.answered().feed(data))

    process = _MemberProcess(Connection())  # type: ignore[arg-type]  # all that it needs of a socket
    process._send(Answer(1, Done()))
    assert sent == [1, 2]


# --- what it answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["rsa", "p256", "p384"])
async def test_signs_every_scheme_of_its_keys(member: MemberProcess, store: Store, key: str) -> None:
    """Each scheme that a key reports gives a signature that verifies with the key's public half."""
    opened = await member.channel.call(store.opening(), in_s(10))
    assert isinstance(opened, Opened)
    found = opened.keys[key]
    assert found.guarded
    assert found.schemes
    public = load_der_public_key(found.spki)
    for name in found.schemes:
        scheme = SCHEMES[name]
        digest = scheme.digest(b"message")
        signed = await member.channel.call(Sign(key, name, digest), in_s(10))
        assert isinstance(signed, Signature)
        assert scheme.verifies(public, digest, signed.signature), name
        assert not scheme.verifies(public, scheme.digest(b"another"), signed.signature), name


async def test_tells_what_it_opened(member: MemberProcess, store: Store) -> None:
    """A member that is open names its module and partition, its sessions and every key that it was asked for."""
    opened = await member.channel.call(store.opening(3), in_s(10))
    assert isinstance(opened, Opened)
    assert (opened.module, opened.sessions, opened.keys) == (MODULE, 3, store.keys)
    assert opened.partition.label == store.label
    assert await member.channel.call(Ping(), in_s(10)) == Vital(0, 3, 0, 0)


async def test_decrypts(sites_store: Store) -> None:
    """A key that may decrypt gives the plaintext, and nothing for wrong padding; it says that it decrypts."""
    process = await MemberProcess.spawn(sites_store.environment)
    try:
        opened = await process.channel.call(sites_store.opening(1), in_s(10))
        assert isinstance(opened, Opened)
        assert {name for name, found in opened.keys.items() if found.decrypts} == {"old"}
        right = Decrypt("old", encrypted(sites_store, "old", b"secret"))
        assert await process.channel.call(right, in_s(10)) == Decrypted(b"secret")
        for what, ciphertext in badly_padded(sites_store, "old").items():
            with pytest.raises(RefusedError, match="CKR_GENERAL_ERROR") as caught:
                await process.channel.call(Decrypt("old", ciphertext), in_s(10))
            assert caught.value.code == codes.GENERAL_ERROR, (
                what
            )  # SoftHSM's word; the signer takes it for an empty one
        assert await process.channel.call(right, in_s(10)) == Decrypted(b"secret")
        vital = await process.channel.call(Ping(), in_s(10))
        assert isinstance(vital, Vital)
        assert vital.replaced == 0
    finally:
        await process.end()


@pytest.mark.parametrize("key", ["shop", "blog", "absent"])
async def test_a_key_that_does_not_decrypt(sites_store: Store, key: str) -> None:
    """A key that may not decrypt, or that a member was not given, is refused, and the member goes on."""
    process = await MemberProcess.spawn(sites_store.environment)
    try:
        await process.channel.call(sites_store.opening(1), in_s(10))
        with pytest.raises(RefusedError, match=r"does not let this key decrypt|was not given a key") as caught:
            await process.channel.call(Decrypt(key, bytes(256)), in_s(10))
        assert caught.value.code == 0
        assert isinstance(await process.channel.call(Ping(), in_s(10)), Vital)
    finally:
        await process.end()


@pytest.mark.parametrize("code", [0x20, 0x21, 0x40, 0x41])
async def test_a_token_that_names_bad_padding(sites_store: Store, faulty: FaultyModule, code: int) -> None:
    """A token that says that the padding is wrong gives an empty plaintext, by one call."""
    process = await MemberProcess.spawn(sites_store.environment | faulty.environment(MODULE))
    asked = Decrypt("old", encrypted(sites_store, "old", b"secret"))
    try:
        await process.channel.call(opening_of(sites_store, faulty), in_s(10))
        with faulty.fault(f"C_Decrypt rvafter {code:#x} n=1 after=1"):  # after the call for the plaintext's length
            assert await process.channel.call(asked, in_s(10)) == Decrypted(b"")
        assert (faulty.calls("C_DecryptInit"), faulty.calls("C_Decrypt")) == (1, 2)
        assert await process.channel.call(asked, in_s(10)) == Decrypted(b"secret")
    finally:
        await process.end()


async def test_a_member_is_not_cancelled(member: MemberProcess, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session cannot be interrupted: a call that is given up is not told to the member, which would not care."""
    await member.channel.call(store.opening(1), in_s(10))
    sent: list[Frame] = []
    write = member.channel._write
    monkeypatch.setattr(member.channel, "_write", sent.append)
    with pytest.raises(DeadlineError), hung(member.pid):
        await member.channel.call(SIGN, in_s(0.05))
    assert sent == []
    write(Cancel(2))
    assert isinstance(await member.channel.call(SIGN, in_s(10)), Signature)


REQUESTS: list[Request] = [
    SIGN,
    Decrypt("rsa", bytes(256)),
    Ping(),
    Describe(),
    Inspect(),
    Generate("new", "p256"),
    LogIn(PIN),
    Begin(),
]
FOR_THE_SIGNER: list[Any] = [Mint("trust", ["a.example"], b"spki"), Status(), Reset()]


async def test_answers_nothing_before_it_is_open(member: MemberProcess, store: Store) -> None:
    """Whatever a member is asked before it has logged in, it says that it cannot, and can be opened after that."""
    for body in REQUESTS:
        with pytest.raises(RefusedError, match=f"a member does not answer {type(body).__name__} now"):
            await member.channel.call(body, in_s(10))
    assert isinstance(await member.channel.call(store.opening(), in_s(10)), Opened)


async def test_looks_without_a_login(behind: MemberProcess, faulty: FaultyModule, store: Store) -> None:
    """A partition can be looked at without its PIN: nothing is logged in to, no session opened, and nothing signed."""
    opened = await behind.channel.call(structs.replace(opening_of(store, faulty, None), sessions=0), in_s(10))
    assert isinstance(opened, Opened)
    assert (opened.partition.label, opened.sessions, opened.keys) == (store.label, 0, {})
    assert (faulty.calls("C_Login"), faulty.calls("C_OpenSession")) == (0, 0)
    with pytest.raises(RefusedError, match="does not answer Sign now"):
        await behind.channel.call(SIGN, in_s(10))


async def test_a_wrong_pin_is_tried_once(behind: MemberProcess, faulty: FaultyModule, store: Store) -> None:
    """A wrong PIN costs the partition one try, and the answer says so with the token's code, without the PIN."""
    with pytest.raises(PinRefusedError, match="CKR_PIN_INCORRECT") as caught:
        await behind.channel.call(opening_of(store, faulty, "wrong-4711"), in_s(10))
    assert caught.value.code == 0xA0
    assert "4711" not in str(caught.value)
    assert faulty.calls("C_Login") == 1


@pytest.mark.parametrize(
    ("rule", "kind", "code"),
    [
        ("C_Initialize rv 0x30", MemberLostError, 0x30),
        ("C_Initialize rv 0x05", MemberLostError, 0x05),
        ("C_Initialize rv 0x0A", MisconfiguredError, 0),
        ("C_GetSlotList rv 0x30", MemberLostError, 0x30),
        ("C_OpenSession rv 0x32", MemberLostError, 0x32),
        ("C_OpenSession rv 0xB1", MemberLostError, 0xB1),
        ("C_FindObjectsInit rv 0x05", MemberLostError, 0x05),
    ],
)
async def test_why_it_does_not_open(
    behind: MemberProcess, faulty: FaultyModule, store: Store, rule: str, kind: type[HsmitmError], code: int
) -> None:
    """A member that cannot be opened says what the HSM said, with its code, for the signer to act on."""
    faulty.rules(rule)
    with pytest.raises(HsmitmError) as caught:
        await behind.channel.call(opening_of(store, faulty), in_s(10))
    assert (type(caught.value), caught.value.code) == (kind, code)


async def test_a_failed_search_leaves_no_traceback(
    capfd: pytest.CaptureFixture[str], faulty: FaultyModule, store: Store
) -> None:
    """What the library complains of on its own stays out of the operator's log: the error itself was answered."""
    process = await MemberProcess.spawn(store.environment | faulty.environment(MODULE))
    try:
        await process.channel.call(opening_of(store, faulty), in_s(10))
        for function in ("C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal"):
            with faulty.fault(f"{function} rv 0x30 n=1"):
                with pytest.raises(MemberLostError, match=r"CKR_DEVICE_ERROR \(0x30\) while looking for a key"):
                    await process.channel.call(SIGN, in_s(10))
                assert faulty.fired() == 1
        assert isinstance(await process.channel.call(SIGN, in_s(10)), Signature)
    finally:
        await process.end()
    assert capfd.readouterr().err == ""


# --- how it lives and ends --------------------------------------------------------------------------------------------


class Bare:
    """A member process with a plain socket: for frames that `Channel` would not send, and for what it writes."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "hsm.token.main", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )

    def ask(self, body: Request) -> Frame:
        """One question."""
        self.socket.sendall(frames.encode(Call(1, in_s(10), body)))
        framer = CODEC.answered()
        while not (received := list(framer.feed(self.socket.recv(65536)))):
            pass
        return received[0]

    def ended(self) -> tuple[int, str]:
        """Its status and what it wrote, once it is gone."""
        _, written = self.process.communicate(timeout=10)
        return self.process.returncode, written


@contextmanager
def _bare(store: Store) -> Iterator[Bare]:
    bare = Bare(store.environment)
    try:
        yield bare
    finally:
        bare.socket.close()
        bare.process.kill()
        bare.process.communicate()


@pytest.fixture
def bare(store: Store) -> Iterator[Bare]:
    """A member process that is open."""
    with _bare(store) as bare:
        assert isinstance(bare.ask(store.opening(1)), Answer)
        yield bare


def test_ends_with_its_socket(bare: Bare) -> None:
    """When the signer closes the socket, the process ends at once and without a word."""
    bare.socket.close()
    assert bare.ended() == (0, "")


@pytest.mark.parametrize("body", FOR_THE_SIGNER, ids=lambda body: type(body).__name__)
def test_hears_nothing_that_is_for_the_signer(bare: Bare, body: Any) -> None:
    """A request that only the signer can answer is no word of a member's: it ends, and says why."""
    bare.socket.sendall(frames.encode(Call(2, in_s(10), body)))
    status, written = bare.ended()
    assert status == 1
    assert written.startswith("hsmitm member: ValueError: not a frame of ours: Invalid value")


def test_ends_on_what_is_no_frame(bare: Bare) -> None:
    """A member that is sent what is not ours ends with one line that says so, and no traceback."""
    bare.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    status, written = bare.ended()
    assert status == 1
    assert written.startswith("hsmitm member: ValueError: a frame of ")
    assert written.count("\n") == 1


def test_ignores_the_signals_of_a_terminal(bare: Bare) -> None:
    """A signal to the whole service does not end a member before the signer does: its last requests are answered."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        bare.process.send_signal(number)
    assert isinstance(bare.ask(SIGN), Answer)
    bare.process.kill()
    assert bare.ended() == (-signal.SIGKILL, "")


def spawn_and_hang(label: str, module: str) -> None:
    """In a child: start a member, have it open a partition, print its process id, and stay."""
    bare = Bare(dict(os.environ))
    opening = Open(module, Selector(label=label), PIN, 1, {})
    bare.socket.sendall(frames.encode(Call(1, in_s(60), opening)))
    sys.stdout.write(f"{bare.process.pid}\n")
    sys.stdout.flush()
    signal.pause()


def test_dies_with_a_signer_that_is_killed_even_while_the_module_hangs(store: Store, faulty: FaultyModule) -> None:
    """A member whose module hangs under its login does not outlive the signer: nobody else could log in."""
    faulty.rules("C_Login hang")
    run = f"import sys; from {__name__} import spawn_and_hang; spawn_and_hang(*sys.argv[1:])"
    signer = subprocess.Popen(
        [sys.executable, "-c", run, store.label, str(faulty.path)],
        cwd=ROOT,
        env=os.environ | store.environment | faulty.environment(MODULE),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert signer.stdout is not None
    try:
        member = Path(f"/proc/{signer.stdout.readline().strip()}")
        wait_until(lambda: faulty.fired() == 1, "the member hangs in C_Login")
        assert "hsm.token.main" in (member / "cmdline").read_text()
    finally:
        signer.kill()
        signer.wait(10)
        signer.stdout.close()
    try:
        wait_until(lambda: _gone(member), "the member is gone")
    finally:
        if not _gone(member):
            os.kill(int(member.name), signal.SIGKILL)


def _gone(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True
