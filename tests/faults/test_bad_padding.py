"""Clients whose encrypted premaster secrets have wrong padding: an attack on the key that looks like a failing HSM."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from hsm.errors import HsmitmError
from hsm.member.key import inbound_key
from hsm.uri import KeyURI
from tests.cas import public_key
from tests.faults.rig import Rig, make_rig, module_rules
from tests.hsm.members import copy_of, keys_of
from tests.hsm.sites import add_decrypting_key, badly_padded, encrypted
from tests.softhsm import in_s, make_store

pytestmark = pytest.mark.alone  # what a neighbour holds up is tried at the peer, and no retry may be seen here

SECRET = b"\3\3" + os.urandom(46)
ROUNDS = 60
CODES = [0x05, 0x06, 0x20, 0x21, 0x40, 0x41, 0x80000123]
"""CKR_GENERAL_ERROR (SoftHSM's), CKR_FUNCTION_FAILED, those that name bad data, and a vendor's own."""


@pytest.fixture
async def site(softhsm_module: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """A group that holds the key of a site beside the CAs'; m1 and m2 decrypt with it."""
    store = await make_store(tmp_path / "1", {"trust": "rsa-2048", "untrust": "p256"})
    keys = keys_of(store)
    add_decrypting_key(store, "old")
    old = inbound_key(KeyURI(object="old"), public_key(store, "old"), ("old.example.com",), decrypts=True)
    async with make_rig(tmp_path / "rig", [store, copy_of(store, tmp_path / "2")], keys=keys | {old.name: old}) as rig:
        yield rig


def name(rig: Rig) -> str:
    """The site's key."""
    return next(name for name, key in rig.group.keys.items() if key.inbound)


def decryptions(rig: Rig) -> int:
    """How often both HSMs were asked to decrypt, but for the proof at each start: C_Decrypt is called for the length,
    then for the plaintext."""
    begun, called = (sum(one.calls(what) for one in rig.hsms.values()) for what in ("C_DecryptInit", "C_Decrypt"))
    assert called == 2 * begun
    return begun - sum(rig.starts())


async def test_bad_padding(site: Rig) -> None:
    """F20: Ciphertexts with wrong padding are answered as right ones are, by one call each, and trouble no member."""
    rig, key = site, name(site)
    store = rig.stores["m1"]
    good, bad = encrypted(store, "old", SECRET), list(badly_padded(store, "old").values())
    async with rig.load(keys=("trust", "untrust")) as load:
        await load.more(100)
        begun = rig.now()
        for number in range(ROUNDS):
            answer = await rig.group.decrypt(key, bad[number % len(bad)], in_s(10))
            assert answer == b""
            assert await rig.group.decrypt(key, good, in_s(10)) == SECRET
        await load.more(100)
    assert decryptions(rig) == 2 * ROUNDS
    assert rig.counted("hsmitm_signature_retries_total") == 0
    assert rig.counted("hsmitm_signature_errors_total") == 0
    assert rig.counted("hsmitm_signatures_total", purpose="decrypt") == 2 * ROUNDS
    assert rig.path("m1", begun) == rig.path("m2", begun) == []
    assert rig.starts() == [1, 1]
    assert [rig.logins("m1"), rig.logins("m2")] == [1, 1]
    assert [one.last_error for one in rig.group.members] == ["", ""]
    assert rig.replaced("m1") == rig.replaced("m2") == 0


async def test_a_token_that_rejects_implicitly(site: Rig) -> None:
    """F20: A token that answers wrong padding with bytes of its own, and no error, is no trouble: they come through."""
    rig, key = site, name(site)
    bad = badly_padded(rig.stores["m1"], "old")["block type"]
    with module_rules(rig, "m1", "m2", rules=["C_Decrypt implicit"]):
        answers = [await rig.group.decrypt(key, bad, in_s(10)) for _ in range(4)]
        assert len(set(answers)) == 1
        assert answers[0] != b""
        assert await rig.group.decrypt(key, encrypted(rig.stores["m1"], "old", SECRET), in_s(10)) == SECRET


@pytest.mark.parametrize("code", CODES, ids=hex)
async def test_whatever_a_token_calls_it(site: Rig, code: int) -> None:
    """F20: Whichever return code a token has for wrong padding, it is one call, no retry, and nobody's fault."""
    rig, key = site, name(site)
    good = encrypted(rig.stores["m1"], "old", SECRET)
    begun, tests = rig.now(), rig.counted("hsmitm_signatures_total", purpose="test")
    for _ in range(15):
        with module_rules(rig, "m1", "m2", rules=[f"C_Decrypt rvafter {code:#x} n=1 after=1"]):
            assert await rig.group.decrypt(key, good, in_s(10)) == b""
    assert decryptions(rig) == 15
    due = 2 * (1 + (rig.now() - begun) / rig.group.failover.keep_alive_s)
    assert rig.counted("hsmitm_signatures_total", purpose="test") - tests <= due, "no ciphertext has a member tested"
    assert await rig.group.decrypt(key, good, in_s(10)) == SECRET
    assert rig.counted("hsmitm_signature_retries_total") == 0
    assert rig.path("m1", begun) == rig.path("m2", begun) == []
    assert rig.starts() == [1, 1]
    for member in rig.group.members:
        assert member._life is not None
        await member._life.vital(in_s(5))
    assert rig.replaced("m1") == rig.replaced("m2") == 0, "no session was given up"


async def test_a_member_that_really_fails(site: Rig) -> None:
    """F20: A member that answers everything with the code that may be bad padding is found out by the test signature
    that it makes now and then, and by no decryption: whoever sends ciphertexts cannot have it examined."""
    rig, key = site, name(site)
    good = encrypted(rig.stores["m1"], "old", SECRET)
    rig.group.failover = structs.replace(rig.group.failover, keep_alive_s=0.5)
    await rig.group.reset("m1")  # which waits by the new time from now on
    await rig.until_up("m1")
    rig.prefer("m1")
    begun = rig.now()
    rig.hsm("m1").rules("C_Decrypt rv 0x5", "C_Sign rv 0x5")
    assert await rig.group.decrypt(key, good, in_s(10)) == b""
    await rig.until_path("m1", ["suspect", "down"], begun)
    assert await rig.group.decrypt(key, good, in_s(10)) == SECRET
    rig.hsm("m1").clear()
    await rig.until_up("m1")


async def test_a_member_lost_under_a_decryption(site: Rig) -> None:
    """F20: A failure that no client can cause is tried at a peer, as it is for a signature."""
    rig, key = site, name(site)
    good = encrypted(rig.stores["m1"], "old", SECRET)
    rig.prefer("m1")
    with rig.hsm("m1").fault("C_Decrypt rv 0x30"):
        assert await rig.group.decrypt(key, good, in_s(10)) == SECRET
    assert rig.counted("hsmitm_signature_retries_total", step="next member") == 1
    rig.prefer("m1")
    with rig.hsm("m1").fault("C_Decrypt rv 0xb3 n=1"):
        assert await rig.group.decrypt(key, good, in_s(10)) == SECRET
    assert rig.counted("hsmitm_signature_retries_total") == 1, "a lost session heals inside the member"


async def test_an_attack_beside_handshakes(site: Rig) -> None:
    """F20: While one client tries thousands of ciphertexts, others' signatures are made."""
    rig, key = site, name(site)
    bad = list(badly_padded(rig.stores["m1"], "old").values())
    begun, stop = rig.now(), asyncio.Event()
    failed: list[HsmitmError] = []

    async def attack() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                await rig.group.decrypt(key, bad[number % len(bad)], in_s(10))
            except HsmitmError as error:
                failed.append(error)

    async with rig.load(keys=("trust", "untrust")) as load:
        attackers = [asyncio.create_task(attack()) for _ in range(4)]
        await load.more(200)
        stop.set()
        await asyncio.gather(*attackers)
    assert failed == []
    # A pause of this machine may have a member doubted for a moment: for being late, and for nothing that it answered.
    moves = [*rig.history.of("m1", begun), *rig.history.of("m2", begun)]
    assert {one.reason.partition(" within ")[0] for one in moves} <= {"it did not answer", "its test signature is good"}
    assert rig.starts() == [1, 1]
