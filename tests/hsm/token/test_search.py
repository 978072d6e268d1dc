"""Many keys of one member: found in one walk over the token, and found anew where they came later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from bench.rig.faulty_module import FaultyModule
from hsm.member.process import MemberProcess
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from hsm.wire.member import Describe, Generate, KeyFound, KeysFound, Open, Opened, Selector, Sign, Signature
from tests.softhsm import MODULE, PIN, Store, in_s, make_store

MANY = 16
SCHEME = SCHEMES["ecdsa_secp256r1_sha256"]
DIGEST = SCHEME.digest(b"message")


class Counted:
    """A partition with so many P-256 keys behind a module that counts its calls."""

    def __init__(self, store: Store, module: FaultyModule) -> None:
        self.store, self.module = store, module

    @property
    def searches(self) -> int:
        """How often C_FindObjectsInit was called."""
        return self.module.calls("C_FindObjectsInit")

    def opening(self, names: list[str], sessions: int) -> Open:
        """A member that has these keys."""
        uris = {name: KeyURI(object=name) for name in names}
        return Open(str(self.module.path), Selector(label="tests"), PIN, sessions, uris)

    @asynccontextmanager
    async def member(self, names: list[str], sessions: int) -> AsyncIterator[tuple[MemberProcess, Opened]]:
        """It, open."""
        process = await MemberProcess.spawn(self.store.environment | self.module.environment(MODULE))
        try:
            opened = await process.channel.call(self.opening(names, sessions), in_s(20))
            assert isinstance(opened, Opened)
            yield process, opened
        finally:
            await process.end()


async def counted(directory: Path, keys: int) -> Counted:
    """A new one with the keys k0, k1, ..."""
    store = await make_store(directory / "store", {f"k{number}": "p256" for number in range(keys)})
    return Counted(store, FaultyModule(directory / "faults"))


@pytest.fixture
async def many(softhsm_module: str, tmp_path: Path) -> Counted:
    """As many keys as are worth a walk."""
    return await counted(tmp_path, MANY)


async def signed(process: MemberProcess, store: Store, name: str) -> bool:
    """Whether the member signs with the very key of that name."""
    signature = await process.channel.call(Sign(name, SCHEME.name, DIGEST), in_s(10))
    assert isinstance(signature, Signature)
    public = load_der_public_key(store.keys[name].spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return SCHEME.verifies(public, DIGEST, signature.signature)


async def test_many_keys_are_found_in_one_walk(many: Counted) -> None:
    """One search for all private halves and one for all public ones, at start and in each session; and each name gets
    its own key."""
    names = list(many.store.keys)
    before = many.searches
    async with many.member(names, sessions=2) as (process, opened):
        assert opened.keys == many.store.keys
        assert many.searches - before == 2
        for _ in range(3):
            assert all(await asyncio.gather(*(signed(process, many.store, name) for name in names)))
        walked = many.searches
        assert walked - before <= 2 + 2 * 2
        found = await process.channel.call(Describe(), in_s(10))
        assert found == KeysFound(many.store.keys)
        assert many.searches - walked == 2, "what a walk found may have changed since: it is walked anew"


async def test_few_keys_are_searched_for(many: Counted) -> None:
    """Up to 15 keys are asked for one by one: the token may hold any number of others."""
    names = list(many.store.keys)[: MANY - 1]
    before = many.searches
    async with many.member(names, sessions=1) as (process, opened):
        assert opened.keys == {name: many.store.keys[name] for name in names}
        assert many.searches - before == 2 * len(names)
        assert await signed(process, many.store, "k3")


async def test_a_token_with_far_more_is_not_walked_over(softhsm_module: str, tmp_path: Path) -> None:
    """The walk is broken off, its session is free for searches, and they find the keys."""
    far = await counted(tmp_path, 4 * MANY + 1)
    names = list(far.store.keys)[-MANY:]
    before = far.searches
    async with far.member(names, sessions=1) as (process, opened):
        assert opened.keys == {name: far.store.keys[name] for name in names}
        assert far.searches - before == 1 + 2 * MANY
        assert await signed(process, far.store, names[0])
        assert far.searches - before == 1 + 2 * MANY + 2


@pytest.mark.parametrize("code", ["0x30", "0x11", "0x80000001"])
async def test_a_walk_that_fails(many: Counted, code: str) -> None:
    """A walk that meets what it cannot read ends, and each key is searched for."""
    names = list(many.store.keys)
    with many.module.fault(f"C_FindObjects rv {code} n=1"):
        async with many.member(names, sessions=1) as (process, opened):
            assert opened.keys == many.store.keys
            assert many.module.fired() == 1
            assert await signed(process, many.store, "k7")


async def test_a_key_that_came_later(many: Counted) -> None:
    """A key that was not there at the walk is found when it is looked for again, and by the sessions that walked."""
    names = [*many.store.keys, "late"]
    async with many.member(names, sessions=2) as (process, opened):
        assert opened.keys["late"].missing
        assert all(await asyncio.gather(*(signed(process, many.store, name) for name in many.store.keys)))
        other = await MemberProcess.spawn(many.store.environment)
        await other.channel.call(many.store.opening(1, writable=True), in_s(10))
        made = await other.channel.call(Generate("late", "p256"), in_s(20))
        await other.end()
        assert isinstance(made, KeyFound)
        many.store.keys["late"] = made
        for _ in range(2):  # whichever session it is
            found = await process.channel.call(Describe(), in_s(10))
            assert isinstance(found, KeysFound)
            assert found.keys["late"] == made
        assert all(await asyncio.gather(*(signed(process, many.store, "late") for _ in range(8))))
