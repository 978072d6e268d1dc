"""A PKCS#11 module in a process of its own: that threads may use it, and what an operator reads when it is not right.

Where a crash is possible, a function of this file runs in a Python process of its own (`_child`).
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pkcs11
import pytest

from hsm import wire
from hsm.errors import HsmitmError, MisconfiguredError, RefusedError, TryLaterError
from hsm.member import MemberProcess
from hsm.module import Module
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from tests.cas import public_key
from tests.softhsm import MODULE, PIN, SO_PIN, Store, in_s, make_store

ROOT = Path(__file__).parents[2]
ECDSA = SCHEMES["ecdsa_secp256r1_sha256"]
RUNS = 5
"""How often a child without the cure may happen to survive."""
HANG_S = 10
"""A child that hangs, as a corrupted module may, ends by SIGALRM after this long."""


@pytest.fixture
async def member(store: Store) -> AsyncIterator[MemberProcess]:
    """A member process that has loaded nothing yet."""
    process = await MemberProcess.spawn(store.environment)
    yield process
    await process.end()


@pytest.fixture
async def own_store(softhsm_module: str, tmp_path: Path) -> Store:
    """A partition that a test may change, with the key 'p256'."""
    return await make_store(tmp_path / "store", {"p256": "p256"})


def _child(function: str, store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a function of this file in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; from {__name__} import {function}; {function}(*sys.argv[1:])", *arguments],
        cwd=ROOT,
        env=os.environ | store.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def _look(environment: dict[str, str], module: str, selector: wire.Selector) -> wire.Opened:
    """What a member process finds without logging in."""
    process = await MemberProcess.spawn(environment)
    try:
        opened = await process.channel.call(wire.Open(module, selector, None, 0, {}), in_s(10))
    finally:
        await process.end()
    assert isinstance(opened, wire.Opened)
    return opened


# --- threads ----------------------------------------------------------------------------------------------------------


class Signed(msgspec.Struct):
    """What a child that signed with threads tells."""

    signatures: list[bytes]
    errors: list[str]


def sign_with_threads(label: str, locking: str) -> None:
    """In a child: sign with 8 threads, each with a session of its own; print a `Signed`."""
    signal.alarm(HANG_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if locking == "without the cure":
        Module._lock_for_threads = lambda self: None  # type: ignore[method-assign]
    token = Module(MODULE).token(wire.Selector(label=label))
    anchor = token.log_in(PIN)
    result = Signed([], [])
    digest = ECDSA.digest(b"message")
    until = time.monotonic() + 1.5

    def sign() -> None:
        try:
            key = token.session().key(KeyURI(object="p256"))
            while time.monotonic() < until:
                result.signatures.append(key.sign(ECDSA, digest, None))
        except Exception as error:  # noqa: BLE001  # whatever a corrupted module brings about is what we look for
            result.errors.append(repr(error))

    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        anchor.prove_alive()
    except HsmitmError as error:
        result.errors.append(repr(error))
    sys.stdout.write(msgspec.json.encode(result).decode())
    sys.stdout.flush()
    os._exit(0)


def _signed(child: subprocess.CompletedProcess[str]) -> Signed | None:
    """What the child told; None where it crashed."""
    return msgspec.json.decode(child.stdout, type=Signed) if child.returncode == 0 else None


def test_eight_threads_sign_at_once(store: Store) -> None:
    """A module signs with many threads at a time, without a crash, an error or a wrong signature."""
    child = _child("sign_with_threads", store, store.label, "with the cure")
    signed = _signed(child)
    assert signed is not None, f"the child ended with {child.returncode}: {child.stderr}"
    assert signed.errors == []
    assert len(signed.signatures) > 1000
    public, digest = public_key(store, "p256"), ECDSA.digest(b"message")
    assert all(ECDSA.verifies(public, digest, signature) for signature in signed.signatures)


def test_threads_without_the_cure_break_the_module(store: Store) -> None:
    """The module crashes or gives errors if it is used as python-pkcs11 initialises it: the cure is needed."""
    public, digest = public_key(store, "p256"), ECDSA.digest(b"message")
    seen = []
    for _ in range(RUNS):
        child = _child("sign_with_threads", store, store.label, "without the cure")
        signed = _signed(child)
        if signed is None:
            assert child.returncode < 0, f"the child itself is at fault: {child.stderr}"
            return
        if signed.errors or not all(ECDSA.verifies(public, digest, one) for one in signed.signatures):
            return
        seen.append(len(signed.signatures))
    pytest.fail(f"{RUNS} children signed {seen} times without the cure and without a fault")


# --- choosing a partition ---------------------------------------------------------------------------------------------


async def test_finds_a_partition_by_label_serial_and_slot(store: Store) -> None:
    """A partition is the same one whether the operator names its label, its serial number or its slot."""
    by_label = (await _look(store.environment, MODULE, wire.Selector(label="tests"))).partition
    assert (by_label.label, by_label.manufacturer) == ("tests", "SoftHSM project")
    for selector in (wire.Selector(serial=by_label.serial), wire.Selector(slot=by_label.slot)):
        assert (await _look(store.environment, MODULE, selector)).partition == by_label


@pytest.mark.parametrize(
    "selector", [wire.Selector(label="test"), wire.Selector(serial="0123456789abcdef"), wire.Selector(slot=1)], ids=str
)
async def test_lists_the_partitions_when_none_fits(store: Store, selector: wire.Selector) -> None:
    """An operator who misspells a partition reads which ones there are."""
    there = (await _look(store.environment, MODULE, wire.Selector(label="tests"))).partition
    with pytest.raises(MisconfiguredError) as caught:
        await _look(store.environment, MODULE, selector)
    assert f"no partition has {selector}" in str(caught.value)
    assert str(there) in str(caught.value)


async def test_two_partitions_with_one_label_need_a_serial(own_store: Store) -> None:
    """Two partitions of one label are told apart by serial number, and the message says so."""
    first = (await _look(own_store.environment, MODULE, wire.Selector(label="tests"))).partition
    process = await MemberProcess.spawn(own_store.environment)
    await process.channel.call(wire.Initialise(MODULE, "tests", SO_PIN, PIN), in_s(20))
    await process.end()
    with pytest.raises(MisconfiguredError, match=r"2 partitions have label 'tests'.*by 'serial'") as caught:
        await _look(own_store.environment, MODULE, wire.Selector(label="tests"))
    serials = re.findall(r"serial (\w+)", str(caught.value))
    assert len(set(serials)) == 2
    assert first.serial in serials
    for serial in serials:
        assert (await _look(own_store.environment, MODULE, wire.Selector(serial=serial))).partition.serial == serial


async def test_an_empty_store_may_fill_later(softhsm_module: str, tmp_path: Path) -> None:
    """A module that shows no partition at all is tried again: an HSM that cannot be reached looks like that."""
    configuration = tmp_path / "softhsm2.conf"
    (tmp_path / "tokens").mkdir()
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.raises(TryLaterError, match="shows no initialised partition"):
        await _look({"SOFTHSM2_CONF": str(configuration)}, softhsm_module, wire.Selector(label="tests"))


# --- a module that cannot be loaded -----------------------------------------------------------------------------------


async def _why_not(path: str, environment: dict[str, str] | None = None) -> str:
    """What an operator reads of a module that cannot be used."""
    with pytest.raises(MisconfiguredError) as caught:
        await _look(environment or {}, path, wire.Selector(label="tests"))
    message = str(caught.value)
    assert "\n" not in message
    assert path in message
    return message


async def test_the_module_is_not_there(tmp_path: Path) -> None:
    """A wrong path to the vendor's library is called just that."""
    path = str(tmp_path / "missing.so")
    assert await _why_not(path) == f"no PKCS#11 module at {path}; give the path of the vendor's library (.so)"


async def test_the_module_is_a_text_file(tmp_path: Path) -> None:
    """A file that is no library is named, with the loader's own reason."""
    path = tmp_path / "notes.so"
    path.write_text("not a library\n" * 100)
    message = await _why_not(str(path))
    assert message.startswith(f"cannot load the PKCS#11 module {path}: ")
    assert "invalid ELF header" in message


async def test_the_module_is_another_library() -> None:
    """A library that is not a PKCS#11 module is told from one that is missing."""
    assert "is a library but not a PKCS#11 module" in await _why_not("libc.so.6")


async def test_a_library_that_the_module_needs_is_missing(softhsm_module: str, tmp_path: Path) -> None:
    """A vendor's library that is there, but lacks another one, is not called missing: the missing one is named."""
    path = tmp_path / "incomplete.so"
    whole = Path(softhsm_module).read_bytes()
    assert b"libstdc++.so.6\0" in whole
    path.write_bytes(whole.replace(b"libstdc++.so.6\0", b"libstdc--.so.6\0"))
    message = await _why_not(str(path))
    assert "libstdc--.so.6" in message
    assert "no PKCS#11 module at" not in message


async def test_the_modules_configuration_is_missing(softhsm_module: str, tmp_path: Path) -> None:
    """A vendor's library whose configuration file is missing sends the operator to look for that file."""
    message = await _why_not(softhsm_module, {"SOFTHSM2_CONF": str(tmp_path / "missing.conf")})
    assert "is its configuration file in place?" in message


# --- keys -------------------------------------------------------------------------------------------------------------


def read_private_half(label: str) -> None:
    """In a child: ask the token for the private half of 'fresh'; print what it says."""
    token = Module(MODULE).token(wire.Selector(label=label))
    session = token.log_in(PIN)._session
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="fresh")
    rsa = key.key_type is pkcs11.KeyType.RSA
    try:
        sys.stdout.write(repr(key[pkcs11.Attribute.PRIVATE_EXPONENT if rsa else pkcs11.Attribute.VALUE]))
    except pkcs11.PKCS11Error as error:
        sys.stdout.write(type(error).__name__)
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.parametrize("key_type", ["rsa-2048", "p256", "p384"])
async def test_a_new_key_cannot_leave(softhsm_module: str, tmp_path: Path, key_type: wire.KeyType) -> None:
    """A key that we make is sensitive and never extractable: its private half cannot be read."""
    own = await make_store(tmp_path / "store", {"fresh": key_type})
    found = own.keys["fresh"]
    assert (found.problem, found.guarded, found.missing) == ("", True, False)
    assert found.spki
    assert _child("read_private_half", own, own.label).stdout == "AttributeSensitive"


async def test_a_key_is_never_made_twice(own_store: Store) -> None:
    """A second key of the same label is refused, and the first is left as it is."""
    process = await MemberProcess.spawn(own_store.environment)
    try:
        await process.channel.call(own_store.opening(1, writable=True), in_s(10))
        with pytest.raises(RefusedError, match="has a private key 'p256' already"):
            await process.channel.call(wire.Generate("p256", "rsa-2048"), in_s(60))
    finally:
        await process.end()
    process = await MemberProcess.spawn(own_store.environment)
    try:
        opened = await process.channel.call(own_store.opening(1), in_s(10))
    finally:
        await process.end()
    assert isinstance(opened, wire.Opened)
    assert opened.keys == own_store.keys


async def test_a_member_that_only_signs_makes_no_keys(member: MemberProcess, store: Store) -> None:
    """A partition that was not opened for writing refuses to make a key."""
    await member.channel.call(store.opening(1), in_s(10))
    with pytest.raises(RefusedError, match="CKR_SESSION_READ_ONLY"):
        await member.channel.call(wire.Generate("another", "p256"), in_s(60))


async def test_a_uri_of_the_whole_partition_finds_the_key(member: MemberProcess, store: Store) -> None:
    """A URI with every attribute of the partition, as vendors' tools print it, finds the key."""
    there = (await _look(store.environment, MODULE, wire.Selector(label="tests"))).partition
    uri = KeyURI(
        token=there.label, object="p256", serial=there.serial, manufacturer=there.manufacturer, model=there.model
    )
    opening = wire.Open(MODULE, wire.Selector(label="tests"), PIN, 1, {"k": uri})
    opened = await member.channel.call(opening, in_s(10))
    assert isinstance(opened, wire.Opened)
    assert opened.keys == {"k": store.keys["p256"]}


@pytest.mark.parametrize(
    "uri",
    [
        KeyURI(object="p256", token="another"),
        KeyURI(object="p256", serial="0123456789abcdef"),
        KeyURI(object="p256", model="another"),
        KeyURI(object="p256", manufacturer="another"),
        KeyURI(object="absent"),
        KeyURI(object="p256", id=b"\x01"),
    ],
    ids=str,
)
async def test_a_uri_of_another_key_finds_none(member: MemberProcess, store: Store, uri: KeyURI) -> None:
    """A URI that names another token or another key is missing here, never the next best key."""
    opened = await member.channel.call(wire.Open(MODULE, wire.Selector(label="tests"), PIN, 1, {"k": uri}), in_s(10))
    assert isinstance(opened, wire.Opened)
    assert opened.keys["k"].missing
    assert str(uri) in opened.keys["k"].problem
    assert opened.keys["k"].spki == b""
