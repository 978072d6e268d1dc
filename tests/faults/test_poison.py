"""Requests that no HSM can fulfil, made to look like an HSM that fails."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import structs

from hsm.errors import HsmitmError
from hsm.member.key import Key
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from tests.faults.rig import Rig, make_rig
from tests.hsm.members import copy_of, key_of, keys_of
from tests.softhsm import MODULE, PIN, Store, in_s, make_store

pytestmark = pytest.mark.alone

ROUNDS, ROUND_S = 334, 0.008
_MAKE_SHORT_KEY = """
import sys
from hsm.wire.member import Selector
from hsm.token.module import Module
from hsm.uri import KeyURI
session = Module(sys.argv[1]).token(Selector(label=sys.argv[2])).log_in(sys.argv[3], writable=True)
session.generate("short", "rsa-1024")
print(session.key(KeyURI(object="short")).spki().hex())
"""


def make_short_key(store: Store) -> Key:
    """An RSA key of 1024 bits: too short for PSS with SHA-512, which SoftHSM tells by CKR_GENERAL_ERROR."""
    made = subprocess.run(
        [sys.executable, "-P", "-c", _MAKE_SHORT_KEY, MODULE, store.label, PIN],
        env=os.environ | store.environment, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    public = load_der_public_key(bytes.fromhex(made.stdout))
    assert isinstance(public, rsa.RSAPublicKey)
    return Key("short", KeyURI(object="short"), public, SCHEMES["rsa_pkcs1_sha256"])


@pytest.fixture
async def poisonable(softhsm_module: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """A group whose keys `short` and `odd` are asked for what their HSM cannot do with them."""
    store = await make_store(tmp_path / "1", {"trust": "rsa-2048", "untrust": "p256"})
    keys = keys_of(store) | {"odd": key_of(store, "untrust", "odd"), "short": make_short_key(store)}
    async with make_rig(tmp_path / "rig", [store, copy_of(store, tmp_path / "2")], keys=keys) as rig:
        rig.group.keys["odd"] = structs.replace(keys["odd"], scheme=SCHEMES["rsa_pss_rsae_sha256"])
        rig.group.keys["short"] = structs.replace(keys["short"], scheme=SCHEMES["rsa_pss_rsae_sha512"])
        for member in rig.group.members:  # as if they had proved it: what they did not prove they are not asked for
            assert member._life is not None
            for name in ("odd", "short"):
                member._life.held.made.take(name, {rig.group.keys[name].scheme.name}, {})
        yield rig


async def poison(rig: Rig) -> Counter[str]:
    """A thousand requests of three kinds, and what each came to."""
    kinds = {"untrust": 31, "odd": 32, "short": 64}  # a digest that is too short, a wrong mechanism, a wrong key size
    ends: Counter[str] = Counter()
    for _ in range(ROUNDS):
        for name, size in kinds.items():
            try:
                await rig.group.sign(name, b"poison", os.urandom(size), in_s(10), "mint")
            except HsmitmError as error:
                ends[f"{name}: {type(error).__name__}"] += 1
        await asyncio.sleep(ROUND_S)  # the pace of the attack; nothing waits for it
    return ends


async def test_poison(poisonable: Rig) -> None:
    """F16: A thousand requests that no HSM can fulfil, some answered as if it had failed, trouble only their sender."""
    rig = poisonable
    async with rig.load(keys=("trust", "untrust")) as load:
        await load.more(200)
        begun = rig.now()
        ends = await poison(rig)
        ended = rig.now()
    assert ends == {f"{name}: RefusedError": ROUNDS for name in ("untrust", "odd", "short")}
    assert rig.counted("hsmitm_signature_retries_total") == ROUNDS, "only the HSM's own word is asked for twice"
    assert rig.path("m1", begun) == rig.path("m2", begun) == []
    assert rig.starts() == [1, 1]
    assert [rig.logins("m1"), rig.logins("m2")] == [1, 1]
    assert load.p99_s(begun, ended) < 3 * load.p99_s(0, begun) + 0.02
