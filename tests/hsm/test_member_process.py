"""A member process on a real partition, over its own socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm import wire
from hsm.member import MemberProcess
from hsm.schemes import SCHEMES
from tests.softhsm import Store, in_s


@pytest.fixture
async def member(store: Store) -> AsyncIterator[MemberProcess]:
    """A member process that waits for its first frame."""
    process = await MemberProcess.spawn(store.environment)
    yield process
    await process.end()


@pytest.mark.parametrize("key", ["rsa", "p256", "p384"])
async def test_signs_every_scheme_of_its_keys(member: MemberProcess, store: Store, key: str) -> None:
    """Each scheme that a key reports gives a signature that verifies with the key's public half."""
    opened = await member.channel.call(store.opening(), in_s(10))
    assert isinstance(opened, wire.Opened)
    found = opened.keys[key]
    assert found.guarded
    assert found.schemes
    public = load_der_public_key(found.spki)
    for name in found.schemes:
        scheme = SCHEMES[name]
        digest = scheme.digest(b"message")
        signed = await member.channel.call(wire.Sign(key, name, digest), in_s(10))
        assert isinstance(signed, wire.Signature)
        assert scheme.verifies(public, digest, signed.signature), name
        assert not scheme.verifies(public, scheme.digest(b"another"), signed.signature), name
