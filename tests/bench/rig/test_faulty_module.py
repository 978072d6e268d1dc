"""Every fault of the fault-injecting module, seen from member processes on real SoftHSM partitions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from bench.rig import faulty_module
from bench.rig.faulty_module import FaultyModule, build
from hsm.errors import HsmitmError, LoginError, MemberLostError, MisconfiguredError
from hsm.member.process import MemberProcess
from hsm.schemes import SCHEMES
from hsm.wire.member import Generate, KeyFound, Opened, Reply, Sign, Signature
from tests.cas import public_key
from tests.softhsm import MODULE, PIN, Store, in_s, make_store
from tests.waiting import until

SCHEME = SCHEMES["ecdsa_secp256r1_sha256"]
DIGEST = SCHEME.digest(b"message")
SIGN = Sign("p256", SCHEME.name, DIGEST)
CKF_USER_PIN_LOCKED = 0x40000


class Rig:
    """A partition behind a faulty module."""

    def __init__(self, store: Store, module: FaultyModule) -> None:
        self.store = store
        self.module = module

    async def spawn(self) -> MemberProcess:
        """A member process that would load the faulty module."""
        return await MemberProcess.spawn(self.store.environment | self.module.environment(MODULE))

    async def open(self, process: MemberProcess, sessions: int = 1, given_pin: str = PIN) -> Opened:
        """Have it load the module, log in and open its sessions."""
        opening = msgspec.structs.replace(self.store.opening(sessions, given_pin), module=str(self.module.path))
        opened = await process.channel.call(opening, in_s(20))
        assert isinstance(opened, Opened)
        return opened

    @asynccontextmanager
    async def member(self, sessions: int = 1, given_pin: str = PIN) -> AsyncIterator[MemberProcess]:
        """A member that is open."""
        process = await self.spawn()
        try:
            await self.open(process, sessions, given_pin)
            yield process
        finally:
            await process.end()

    def right(self, signed: Reply, key: str = "p256", digest: bytes = DIGEST) -> bool:
        """Whether that is a signature by this key."""
        assert isinstance(signed, Signature)
        return SCHEME.verifies(public_key(self.store, key), digest, signed.signature)


@pytest.fixture
def rig(store: Store, tmp_path: Path) -> Rig:
    """The shared partition behind a faulty module of this test's own."""
    return Rig(store, FaultyModule(tmp_path / "hsm"))


async def sign(process: MemberProcess) -> Reply:
    """One signature."""
    return await process.channel.call(SIGN, in_s(20))


async def outcomes(process: MemberProcess, number: int) -> list[bool]:
    """For so many signatures, one after another, whether each was made."""
    made = []
    for _ in range(number):
        try:
            await sign(process)
        except MemberLostError:
            made.append(False)
        else:
            made.append(True)
    return made


# --- no fault ---------------------------------------------------------------------------------------------------------


async def test_lets_everything_through(rig: Rig) -> None:
    """With no rule a member finds the same partition and keys as on the real module, and every key signs."""
    process = await MemberProcess.spawn(rig.store.environment)
    try:
        real = await process.channel.call(rig.store.opening(2), in_s(20))
    finally:
        await process.end()
    process = await rig.spawn()
    try:
        opened = await rig.open(process, 2)
        assert msgspec.structs.replace(opened, module=MODULE) == real
        for key in ("rsa", "p256", "p384"):
            for name in opened.keys[key].schemes:
                digest = SCHEMES[name].digest(b"message")
                signed = await process.channel.call(Sign(key, name, digest), in_s(20))
                assert isinstance(signed, Signature)
                assert SCHEMES[name].verifies(public_key(rig.store, key), digest, signed.signature), name
    finally:
        await process.end()


async def test_passes_eight_arguments(softhsm_module: str, tmp_path: Path) -> None:
    """A key pair is generated through it: C_GenerateKeyPair is the function with the most arguments."""
    rig = Rig(await make_store(tmp_path / "store", {}), FaultyModule(tmp_path / "hsm"))
    process = await rig.spawn()
    try:
        opening = msgspec.structs.replace(rig.store.opening(1, writable=True), module=str(rig.module.path))
        await process.channel.call(opening, in_s(20))
        found = await process.channel.call(Generate("p256", "p256"), in_s(20))
        assert isinstance(found, KeyFound)
        assert (found.problem, found.guarded) == ("", True)
    finally:
        await process.end()
    assert rig.module.calls("C_GenerateKeyPair") == 1


async def test_counts_calls(rig: Rig) -> None:
    """A test can say that there was exactly one login, and that a signature is one C_Sign."""
    async with rig.member(sessions=3) as process:
        for _ in range(5):
            assert rig.right(await sign(process))
    counted = {
        name: rig.module.calls(name) for name in ("C_Login", "C_OpenSession", "C_SignInit", "C_Sign", "C_Logout")
    }
    assert counted == {"C_Login": 1, "C_OpenSession": 4, "C_SignInit": 5, "C_Sign": 5, "C_Logout": 0}
    with pytest.raises(ValueError, match="C_Sing"):
        rig.module.calls("C_Sing")


async def test_many_threads(rig: Rig) -> None:
    """Eight sessions sign four hundred times at once while rules change under them, and each signature is right."""
    wanted = [SCHEME.digest(b"message %d" % number) for number in range(400)]
    async with rig.member(sessions=8) as process:
        calls = [process.channel.call(Sign("p256", SCHEME.name, digest), in_s(60)) for digest in wanted]
        signing = asyncio.gather(*calls)
        changes = 0
        while not signing.done():
            changes += 1
            rig.module.rules("C_Sign delay 0.5", f"C_Verify rv 0x5 n={changes}")
            await until(lambda: rig.module.fired() > 0 or signing.done(), "the new rule is seen")
        answers = await signing
    assert changes > 1
    assert all(rig.right(answer, digest=digest) for answer, digest in zip(answers, wanted, strict=True))
    assert rig.module.calls("C_Sign") == len(wanted)


# --- what a call can meet ---------------------------------------------------------------------------------------------


async def test_delays(rig: Rig) -> None:
    """Delays add up and the signature is made, no sooner than after them."""
    async with rig.member() as process:
        rig.module.rules("C_SignInit delay 50", "C_Sign delay 60.5", "* delay 10", "C_Sign delay 500 n=0")
        signed = await sign(process)
    assert rig.right(signed)
    assert isinstance(signed, Signature)
    assert signed.executed_s >= 0.130
    assert [rig.module.fired(index) for index in (0, 1, 3)] == [1, 1, 0]


async def test_one_call_at_a_time(rig: Rig) -> None:
    """A device that works on one call at a time does so for all its processes: the last of six waits for the others."""
    rig.module.rules("C_Sign serial 40")
    async with rig.member() as one, rig.member() as other:
        begun = time.monotonic()
        signed = await asyncio.gather(*(sign(process) for process in (one, other) for _ in range(3)))
        took_s = time.monotonic() - begun
    assert all(map(rig.right, signed))
    assert took_s >= 6 * 0.040
    assert rig.module.fired() == 6


async def test_goes_on_after_a_delay(rig: Rig) -> None:
    """A call that is delayed still meets the rule that stands below; what comes after that one is not looked at."""
    rig.module.rules("C_Sign delay 1", "C_Sign rvafter 0x30", "C_Sign delay 1")
    async with rig.member() as process:
        assert await outcomes(process, 1) == [False]
    assert [rig.module.fired(index) for index in range(3)] == [1, 1, 0]


async def test_a_rule_holds_from_the_next_call_on(rig: Rig) -> None:
    """However fast rules follow each other, a signature meets the one that was set last."""
    async with rig.member() as process:
        for _ in range(100):
            for code, text in (("0x30", "CKR_DEVICE_ERROR"), ("0x06", "CKR_FUNCTION_FAILED")):
                with (
                    rig.module.fault(f"C_Sign rvafter {code} n=1"),
                    pytest.raises(MemberLostError, match=text),
                ):
                    await sign(process)


@pytest.mark.parametrize(("code", "text"), [("0x6", "CKR_FUNCTION_FAILED"), ("0x80000012", "code 0x80000012")])
async def test_return_codes(rig: Rig, code: str, text: str) -> None:
    """A function returns the code that it is told to, a vendor's own too, and nothing once the rule is gone."""
    async with rig.member() as process:
        with rig.module.fault(f"C_SignInit rv {code}"), pytest.raises(MemberLostError, match=text):
            await sign(process)
        assert rig.right(await sign(process))


async def test_a_refused_call_is_not_made_and_a_lost_reply_is(rig: Rig) -> None:
    """After `rv` at C_Sign the session is stuck in its operation and is replaced; after `rvafter` it is free."""
    async with rig.member() as process:
        for action, replaced in (("rvafter", 0), ("rv", 1)):
            opened = rig.module.calls("C_OpenSession")
            with rig.module.fault(f"C_Sign {action} 0x30 n=1"), pytest.raises(MemberLostError, match="DEVICE_ERROR"):
                await sign(process)
            assert rig.right(await sign(process))
            assert rig.module.calls("C_OpenSession") - opened == replaced, action


@pytest.mark.parametrize("rule", ["* rv 0x5", "C_Initialize rv 0x5", "C_GetInfo rv 0x5"])
async def test_start_fails(rig: Rig, rule: str) -> None:
    """A module can fail from its very first call on."""
    process, another = await rig.spawn(), await rig.spawn()
    try:
        with rig.module.fault(rule), pytest.raises(MemberLostError, match="CKR_GENERAL_ERROR"):
            await rig.open(process)
        await rig.open(another)
    finally:
        await process.end()
        await another.end()


async def test_hangs(rig: Rig) -> None:
    """One session hangs for good, the others sign, and the process can be killed."""
    async with rig.member(sessions=2) as process:
        rig.module.rules("C_Sign hang n=1")
        hung = asyncio.create_task(sign(process))
        await until(lambda: rig.module.fired() == 1, "a session hangs")
        rig.module.clear()
        for _ in range(3):
            assert rig.right(await sign(process))
        assert not hung.done()
        await process.end()
        with pytest.raises(MemberLostError):
            await hung


async def test_stalls(rig: Rig) -> None:
    """A stalled session signs as soon as the rule is taken away, the others without it."""
    async with rig.member(sessions=2) as process:
        with rig.module.fault("C_Sign stall n=1"):
            stalled = asyncio.create_task(sign(process))
            await until(lambda: rig.module.fired() == 1, "a session is stalled")
            for _ in range(3):
                assert rig.right(await sign(process))
            assert not stalled.done()
        assert rig.right(await stalled)


@pytest.mark.parametrize(
    ("action", "end"),
    [
        ("crash", "it was killed by signal 11 (SIGSEGV): the PKCS#11 module crashed"),
        ("abort", "it was killed by signal 6 (SIGABRT): the PKCS#11 module crashed"),
        ("exit 7", "it ended with status 7"),
    ],
)
async def test_ends_the_process(rig: Rig, action: str, end: str) -> None:
    """A call takes its whole process down, once, whatever number of processes follows."""
    rig.module.rules(f"C_Sign {action} n=1")
    async with rig.member() as process:
        with pytest.raises(MemberLostError):
            await sign(process)
        assert await process.how_it_ended() == end
    async with rig.member() as process:
        assert rig.right(await sign(process))
    assert rig.module.fired() == 1
    assert rig.module.calls("C_Login") == 2


@pytest.mark.parametrize(("key", "scheme"), [("p256", SCHEME.name), ("rsa", "rsa_pkcs1_sha256")])
async def test_corrupts_a_signature(rig: Rig, key: str, scheme: str) -> None:
    """A signature comes without any error and does not verify; the next one does."""
    request = Sign(key, scheme, DIGEST)
    rig.module.rules("C_Sign corrupt n=1")
    async with rig.member() as process:
        for verifies in (False, True):
            signed = await process.channel.call(request, in_s(20))
            assert isinstance(signed, Signature)
            assert SCHEMES[scheme].verifies(public_key(rig.store, key), DIGEST, signed.signature) == verifies


async def test_signs_with_another_key(rig: Rig) -> None:
    """A stale handle: a good signature comes without any error, by another key than was asked for."""
    rig.module.rules("C_SignInit otherkey n=1")
    async with rig.member() as process:
        signed = await sign(process)
        assert rig.right(signed, "p384")
        assert not rig.right(signed)
        assert rig.right(await sign(process))


async def test_there_is_no_other_key(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A rule that asks for another RSA key where there is only one says so and ends the process."""
    rig.module.rules("C_SignInit otherkey")
    async with rig.member() as process:
        with pytest.raises(MemberLostError):
            await process.channel.call(Sign("rsa", "rsa_pkcs1_sha256", DIGEST), in_s(20))
        assert await process.how_it_ended() == "it was killed by signal 6 (SIGABRT): the PKCS#11 module crashed"
    await until(lambda: "found no other private key of the type" in caplog.text, "the module's complaint is in the log")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("C_SignInit logout n=1", "no private key pkcs11:object=p256"),
        ("C_SignInit closeall n=1", "no private key pkcs11:object=p256"),
        ("C_SignInit finalize n=1", "CKR_CRYPTOKI_NOT_INITIALIZED"),
        ("* logout n=1", "no private key pkcs11:object=p256"),
        ("* closeall n=1", "no private key pkcs11:object=p256"),
        ("* finalize n=1", "CKR_CRYPTOKI_NOT_INITIALIZED"),
    ],
)
async def test_loses_its_login(rig: Rig, rule: str, reason: str) -> None:
    """The HSM forgets the login, the sessions or everything under a member: it fails until it is started again."""
    async with rig.member() as process:
        assert rig.right(await sign(process))
        rig.module.rules(rule)
        for _ in range(2):
            with pytest.raises(MemberLostError, match=reason):
                await sign(process)
        assert rig.module.fired() == 1
    async with rig.member() as process:
        assert rig.right(await sign(process))


async def test_waits_for_a_session(rig: Rig) -> None:
    """What needs a session leaves the calls alone that come before there is one, and does not count them."""
    process = await rig.spawn()
    try:
        with (
            rig.module.fault("* closeall n=1"),
            pytest.raises(LoginError, match=r"CKR_SESSION_HANDLE_INVALID .* while logging in"),
        ):
            await rig.open(process)
        rig.module.rules("* logout n=2")  # at C_Login, where nobody is logged in, and at the first search
        assert all(found.missing for found in (await rig.open(process)).keys.values())
    finally:
        await process.end()


async def test_sets_token_flags(rig: Rig) -> None:
    """A token that says that its PIN is locked is not logged in to."""
    process = await rig.spawn()
    try:
        with (
            rig.module.fault(f"C_GetTokenInfo flags {CKF_USER_PIN_LOCKED:#x}"),
            pytest.raises(MisconfiguredError, match="is locked"),
        ):
            await rig.open(process)
        assert rig.module.calls("C_Login") == 0
        assert "USER_PIN_LOCKED" not in (await rig.open(process)).partition.flags
    finally:
        await process.end()


# --- what the HSM is like ---------------------------------------------------------------------------------------------


async def test_limits_sessions(rig: Rig) -> None:
    """A token with room for three sessions gives three to each process, and a fourth when one of them was closed."""
    rig.module.rules("maxsess 3", "C_Sign delay 0")
    for life in (1, 2):
        process = await rig.spawn()
        try:
            assert (await rig.open(process, 5)).sessions == 2
            assert rig.module.fired(0) == life
            assert rig.right(await sign(process))
        finally:
            await process.end()
    async with rig.member(sessions=2) as process:
        opened = rig.module.calls("C_OpenSession")
        rig.module.rules("maxsess 3", "C_SignInit rv 0xB3 n=1")
        assert rig.right(await sign(process))
        assert rig.module.calls("C_OpenSession") == opened + 1
        assert rig.module.fired(0) == 0


async def test_locks_a_pin(rig: Rig) -> None:
    """After two wrong PINs, each tried by another process, the right one is refused; a good login in between helps."""

    async def attempt(given_pin: str, text: str) -> None:
        with pytest.raises(LoginError, match=text):
            async with rig.member(given_pin=given_pin):
                pass

    rig.module.rules("pinlock 2")
    await attempt("wrong", "CKR_PIN_INCORRECT")
    async with rig.member() as process:
        assert rig.right(await sign(process))
    await attempt("wrong", "CKR_PIN_INCORRECT")
    rig.module.rules("C_Sign delay 0", "pinlock 2")
    await attempt("wrong", "CKR_PIN_INCORRECT")
    await attempt("wrong", "CKR_PIN_LOCKED")
    await attempt(PIN, "CKR_PIN_LOCKED")
    assert rig.module.fired(1) == 2
    rig.module.clear()
    async with rig.member() as process:
        assert rig.right(await sign(process))


# --- how often --------------------------------------------------------------------------------------------------------


async def test_counts_over_all_processes(rig: Rig) -> None:
    """A rule that holds three times fails three signatures, whichever processes make them, and again once it is new."""
    for _ in range(2):
        rig.module.rules("C_Sign rvafter 0x30 n=3")
        async with rig.member() as one, rig.member() as another:
            assert await outcomes(one, 1) == [False]
            assert await outcomes(another, 1) == [False]
        async with rig.member() as next_life:
            assert await outcomes(next_life, 3) == [False, True, True]
        assert rig.module.fired() == 3


async def test_counts_over_many_threads(rig: Rig) -> None:
    """Of a hundred signatures at once on eight sessions exactly twenty-five meet a rule that holds that often."""
    async with rig.member(sessions=8) as process:
        for _ in range(10):
            rig.module.rules("C_SignInit delay 0", "C_Sign rvafter 0x30 n=25")
            results = await asyncio.gather(*(sign(process) for _ in range(100)), return_exceptions=True)
            assert sum(isinstance(result, MemberLostError) for result in results) == 25
            assert sum(isinstance(result, Signature) for result in results) == 75
            assert [rig.module.fired(index) for index in range(2)] == [100, 25]


async def test_skips_the_first(rig: Rig) -> None:
    """A rule can let some calls pass first; the question for a signature's length is not taken for a call."""
    rig.module.rules("C_Sign rvafter 0x30 after=2 n=1", "* delay 0 n=4")
    async with rig.member() as process:
        assert await outcomes(process, 5) == [True, True, False, True, True]
    assert [rig.module.fired(index) for index in range(2)] == [1, 4]
    with pytest.raises(IndexError):
        rig.module.fired(2)


async def test_first_rule_wins(rig: Rig) -> None:
    """The first rule that matches is the one that is applied, and the next one once it has run out."""
    rig.module.rules("C_Sign rvafter 0x30 n=1", "C_Sign rvafter 0x6 n=1")
    async with rig.member() as process:
        for text in ("CKR_DEVICE_ERROR", "CKR_FUNCTION_FAILED"):
            with pytest.raises(MemberLostError, match=text):
                await sign(process)
        assert rig.right(await sign(process))


async def test_throws(store: Store, tmp_path: Path) -> None:
    """With a seed the same signatures fail in each life of a process; probability 0 is never, and 1 is always."""
    rig = Rig(store, FaultyModule(tmp_path / "hsm", seed=7))
    lives = []
    for _ in range(2):
        rig.module.rules("C_Sign rvafter 0x30 p=0.3", "C_Sign delay 0 p=1", "C_Sign rv 0x5 p=0")
        async with rig.member() as process:
            lives.append(await outcomes(process, 60))
        failed = lives[-1].count(False)
        assert 0 < failed < 60
        assert [rig.module.fired(index) for index in range(3)] == [failed, 60 - failed, 0]
    assert lives[0] == lives[1]


async def test_two_hsms(rig: Rig, softhsm_module: str, tmp_path: Path) -> None:
    """What one HSM meets, another one in the same run does not."""
    other = Rig(await make_store(tmp_path / "other", {"p256": "p256"}), FaultyModule(tmp_path / "other-hsm"))
    rig.module.rules("C_Sign rvafter 0x30")
    async with rig.member() as failing, other.member() as sound:
        assert await outcomes(failing, 2) == [False, False]
        assert other.right(await sign(sound))
    assert other.module.path == rig.module.path
    assert (rig.module.calls("C_Sign"), other.module.calls("C_Sign")) == (2, 1)


async def test_is_found_again(rig: Rig) -> None:
    """Another process can take over an HSM with the rules and counts that it has."""
    rig.module.rules("C_Sign rvafter 0x30 n=2")
    async with rig.member() as process:
        assert await outcomes(process, 1) == [False]
        again = FaultyModule(Path(rig.module.environment(MODULE)["FAULTY_CONTROL"]).parent)
        assert (again.fired(), again.calls("C_Sign")) == (1, 1)
        assert await outcomes(process, 2) == [False, True]


# --- a rig must not fail to fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("C_Sing rv 0x30", "no such function"),
        ("C_GetFunctionList rv 0x30", "no such function"),
        ("C_Sign explode", "no such action"),
        ("C_Sign", "no such action"),
        ("C_Sign maxsess 3", "no such action"),
        ("C_Verify corrupt", "this action is not for this function"),
        ("C_Sign implicit", "this action is not for this function"),
        ("* otherkey", "this action is not for this function"),
        ("C_Initialize logout", "this action is not for this function"),
        ("C_Sign rv", "a number is missing or wrong"),
        ("C_Sign delay -1", "a number is missing or wrong"),
        ("C_Sign rv CKR_DEVICE_ERROR", "a number is missing or wrong"),
        ("C_Sign rv 30", "a hex number belongs here"),
        ("C_Sign delay 0x30", "a decimal number belongs here"),
        ("C_Sign rv 0x30 n=", "a number is missing or wrong"),
        ("C_Sign rv 0x30 twice", "a number is missing or wrong"),
        ("C_Sign rv 0x30 p=20", "'p=20' is not understood"),
        ("C_Sign rv 0x30 times=2", "'times=2' is not understood"),
        ("", "an empty line"),
        ("\n".join(["C_Sign rv 0x30"] * 32), "more than 32 rules"),
        ("C_Sign rv 0x30 " + "n=1 " * 50, "a line that does not end"),
    ],
)
async def test_a_wrong_line_is_loud(rig: Rig, caplog: pytest.LogCaptureFixture, line: str, complaint: str) -> None:
    """A rule that cannot be understood ends the process that reads it, and says why."""
    async with rig.member() as process:
        rig.module.rules("C_Verify rv 0x30", *line.split("\n"))
        with pytest.raises(HsmitmError):
            await sign(process)
        assert await process.how_it_ended() == "it was killed by signal 6 (SIGABRT): the PKCS#11 module crashed"
    await until(lambda: f"faulty_module: {complaint}" in caplog.text, "the module's complaint is in the log")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"FAULTY_MODULE": None}, "FAULTY_MODULE is not set"),
        ({"FAULTY_MODULE": "/missing.so"}, "/missing.so: cannot open shared object file"),
        ({"FAULTY_MODULE": "libc.so.6"}, "libc.so.6 is no PKCS#11 module"),
        ({"FAULTY_CONTROL": None}, "FAULTY_CONTROL is not set"),
        ({"FAULTY_CONTROL": "/missing"}, "no control file /missing"),
        ({"FAULTY_STATS": None}, "FAULTY_STATS is not set"),
        ({"FAULTY_STATS": "/missing"}, "FAULTY_STATS is no stats page"),
        ({"FAULTY_STATS": __file__}, "FAULTY_STATS is no stats page"),
    ],
)
async def test_a_wrong_environment_is_loud(
    rig: Rig, caplog: pytest.LogCaptureFixture, changed: dict[str, str | None], complaint: str
) -> None:
    """A module that was not told rightly what to do ends its process, and says why."""
    environment = rig.store.environment | rig.module.environment(MODULE) | changed
    process = await MemberProcess.spawn({name: value for name, value in environment.items() if value is not None})
    try:
        with pytest.raises(MemberLostError):
            await rig.open(process)
        assert await process.how_it_ended() == "it was killed by signal 6 (SIGABRT): the PKCS#11 module crashed"
    finally:
        await process.end()
    await until(lambda: f"faulty_module: {complaint}" in caplog.text, "the module's complaint is in the log")


def test_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where gcc is missing, the message says what to install."""
    monkeypatch.setattr(faulty_module, "_built", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MisconfiguredError, match="install gcc"):
        build(tmp_path)


def test_is_compiled_once(tmp_path: Path) -> None:
    """One compilation serves all HSMs of a process."""
    assert build(tmp_path) == FaultyModule(tmp_path / "one").path == FaultyModule(tmp_path / "another").path
