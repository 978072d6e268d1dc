"""The worker's own leaf keys: one of each kind in a worker's life."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from addons.forward import leaf_keys
from addons.forward.leaf_keys import LeafKeys, LeafKind


async def test_p_256_is_the_usual_kind() -> None:
    """Most clients are served with a P-256 key, the cheapest handshake."""
    key = await LeafKeys().key("p256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"


async def test_rsa_has_2048_bits() -> None:
    """A client that cannot verify ECDSA gets an RSA key that every client of the last decade accepts."""
    key = await LeafKeys().key("rsa-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    assert key.public_key().public_numbers().e == 65537


@pytest.mark.parametrize("kind", ["p256", "rsa-2048"])
@pytest.mark.parametrize("factory", [None, asyncio.eager_task_factory], ids=["plain tasks", "eager tasks"])
async def test_callers_at_once_get_one_key(kind: LeafKind, factory: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty first clients at the same moment do not make twenty RSA keys."""
    asyncio.get_running_loop().set_task_factory(factory)
    made: list[int] = []
    really = rsa.generate_private_key
    monkeypatch.setattr(leaf_keys.rsa, "generate_private_key", lambda e, bits: made.append(bits) or really(e, bits))
    keys = LeafKeys()
    found = await asyncio.gather(*(keys.key(kind) for _ in range(20)))
    assert {id(key) for key in found} == {id(await keys.key(kind))}
    assert made == ([2048] if kind == "rsa-2048" else [])


async def test_other_clients_are_served_while_an_rsa_key_is_made() -> None:
    """Making an RSA key takes 100 ms and more; the event loop goes on meanwhile."""
    keys = LeafKeys()
    making = asyncio.create_task(keys.key("rsa-2048"))
    turns = 0
    while not making.done():
        turns += 1
        await asyncio.sleep(0)
    assert isinstance(making.result(), rsa.RSAPrivateKey)
    assert turns > 10


async def test_a_modern_client_does_not_wait_for_an_old_ones_rsa_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The P-256 key is there from the start: its clients are served while the RSA key is still being made."""
    begun, going_on = asyncio.Event(), asyncio.Event()

    async def held_up(*_: object) -> object:
        begun.set()
        await going_on.wait()
        return rsa.generate_private_key(65537, 2048)

    monkeypatch.setattr(leaf_keys.asyncio, "to_thread", held_up)
    keys = LeafKeys()
    old = asyncio.create_task(keys.key("rsa-2048"))
    await begun.wait()
    modern = asyncio.create_task(keys.key("p256"))
    try:
        async with asyncio.timeout(1):
            served = await asyncio.shield(modern)
    except TimeoutError:
        served = None
    going_on.set()
    await asyncio.gather(old, modern)
    assert served is not None, "it waited for the RSA key"


@pytest.mark.parametrize(("kind", "expected"), [("p256", ec.EllipticCurvePublicKey), ("rsa-2048", rsa.RSAPublicKey)])
async def test_the_public_half_is_what_a_mint_carries(kind: LeafKind, expected: type) -> None:
    """The signer is told the public half in DER, and never sees the rest."""
    keys = LeafKeys()
    public = load_der_public_key(await keys.spki(kind))
    assert isinstance(public, expected)
    assert public == (await keys.key(kind)).public_key()


async def test_each_worker_has_keys_of_its_own() -> None:
    """Two workers, or a worker and the one that takes its place, share no key."""
    assert await LeafKeys().spki("p256") != await LeafKeys().spki("p256")
