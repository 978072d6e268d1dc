"""A PKCS#11 module in a process of its own: that threads may use it, and what an operator reads when it is not right.

Where a crash is possible, a function of this file runs in a Python process of its own (`run_child`).
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
from pathlib import Path

import msgspec
import pytest
from pkcs11 import _pkcs11

from hsm.errors import HsmitmError, MisconfiguredError, TryLaterError
from hsm.member.process import MemberProcess
from hsm.schemes import SCHEMES
from hsm.token.library import Library
from hsm.token.module import Module
from hsm.uri import KeyURI
from hsm.wire.member import Initialise, Inspect, Inspected, Opened, Selector
from tests.cas import public_key
from tests.hsm.token.children import look, run_child
from tests.softhsm import MODULE, PIN, SO_PIN, Store, in_s

ECDSA = SCHEMES["ecdsa_secp256r1_sha256"]
RUNS = 5
"""How often a child without the cure may happen to survive."""
HANG_S = 10
"""A child that hangs, as a corrupted module may, ends by SIGALRM after this long."""


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
        Library.initialize = _pkcs11.lib.initialize  # type: ignore[method-assign]
    token = Module(MODULE).token(Selector(label=label))
    anchor = token.log_in(PIN)
    result = Signed([], [])
    digest = ECDSA.digest(b"message")
    until = time.monotonic() + 0.8

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
    child = run_child(sign_with_threads, store, store.label, "with the cure")
    signed = _signed(child)
    assert signed is not None, f"the child ended with {child.returncode}: {child.stderr}"
    assert signed.errors == []
    assert len(signed.signatures) > 500
    public, digest = public_key(store, "p256"), ECDSA.digest(b"message")
    assert all(ECDSA.verifies(public, digest, signature) for signature in signed.signatures)


def test_threads_without_the_cure_break_the_module(store: Store) -> None:
    """The module crashes or gives errors if it is used as python-pkcs11 initialises it: the cure is needed."""
    public, digest = public_key(store, "p256"), ECDSA.digest(b"message")
    seen = []
    for _ in range(RUNS):
        child = run_child(sign_with_threads, store, store.label, "without the cure")
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
    by_label = (await look(store.environment, MODULE, Selector(label="tests"))).partition
    assert (by_label.label, by_label.manufacturer) == ("tests", "SoftHSM project")
    for selector in (Selector(serial=by_label.serial), Selector(slot=by_label.slot)):
        assert (await look(store.environment, MODULE, selector)).partition == by_label


@pytest.mark.parametrize(
    "selector", [Selector(label="test"), Selector(serial="0123456789abcdef"), Selector(slot=1)], ids=str
)
async def test_lists_the_partitions_when_none_fits(store: Store, selector: Selector) -> None:
    """An operator who misspells a partition reads which ones there are; it is tried again, for one that is not there
    yet looks the same."""
    there = (await look(store.environment, MODULE, Selector(label="tests"))).partition
    with pytest.raises(TryLaterError) as caught:
        await look(store.environment, MODULE, selector)
    assert f"no partition has {selector}. This module shows: {there}" in str(caught.value)


async def test_two_partitions_with_one_label_need_a_serial(own_store: Store) -> None:
    """Two partitions of one label are told apart by serial number, and the message says so."""
    first = (await look(own_store.environment, MODULE, Selector(label="tests"))).partition
    process = await MemberProcess.spawn(own_store.environment)
    await process.channel.call(Initialise(MODULE, "tests", SO_PIN, PIN), in_s(20))
    await process.end()
    with pytest.raises(MisconfiguredError, match=r"2 partitions have label 'tests'.*by 'serial'") as caught:
        await look(own_store.environment, MODULE, Selector(label="tests"))
    serials = re.findall(r"serial (\w+)", str(caught.value))
    assert len(set(serials)) == 2
    assert first.serial in serials
    for serial in serials:
        assert (await look(own_store.environment, MODULE, Selector(serial=serial))).partition.serial == serial


async def test_an_empty_store_may_fill_later(softhsm_module: str, tmp_path: Path) -> None:
    """A module that shows no partition at all is tried again: an HSM that cannot be reached looks like that."""
    configuration = tmp_path / "softhsm2.conf"
    (tmp_path / "tokens").mkdir()
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.raises(TryLaterError, match="shows no initialised partition"):
        await look({"SOFTHSM2_CONF": str(configuration)}, softhsm_module, Selector(label="tests"))


# --- a module that cannot be loaded -----------------------------------------------------------------------------------


async def _why_not(path: str, environment: dict[str, str] | None = None) -> str:
    """What an operator reads of a module that cannot be used."""
    with pytest.raises(MisconfiguredError) as caught:
        await look(environment or {}, path, Selector(label="tests"))
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
    assert message.endswith(f": SOFTHSM2_CONF names {tmp_path / 'missing.conf'}, which is not there")


# --- what a module tells of itself ------------------------------------------------------------------------------------


async def test_inspects_every_partition(own_store: Store) -> None:
    """An operator sees each partition of a module, its mechanisms by name, and no number that a token does not tell."""
    process = await MemberProcess.spawn(own_store.environment)
    try:
        await process.channel.call(Initialise(MODULE, "second", SO_PIN, PIN), in_s(20))
        opened = await process.channel.call(own_store.opening(1), in_s(20))
        inspected = await process.channel.call(Inspect(), in_s(20))
    finally:
        await process.end()
    assert isinstance(opened, Opened)
    assert isinstance(inspected, Inspected)
    assert (inspected.module, inspected.module_version) == (MODULE, opened.module_version)
    assert sorted(slot.partition.label for slot in inspected.slots) == ["second", own_store.label]
    (slot,) = (slot for slot in inspected.slots if slot.partition.label == own_store.label)
    assert slot.partition == opened.partition
    assert {"CKM_RSA_PKCS", "CKM_ECDSA", "CKM_RSA_PKCS_PSS"} <= set(slot.mechanisms)
    assert slot.mechanisms == sorted(slot.mechanisms)
    assert slot.hardware.startswith("SoftHSM slot ID ")
    memory = (slot.free_public_memory, slot.total_public_memory, slot.free_private_memory, slot.total_private_memory)
    assert {slot.sessions, slot.rw_sessions, slot.max_rw_sessions, *memory} == {None}
