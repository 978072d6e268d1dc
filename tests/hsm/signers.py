"""A signer in this process, and workers' requests to it: for tests of the signer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.errors import MisconfiguredError
from hsm.signer.settings import AuthoritySettings, SignerSettings
from hsm.signer.signer import Signer
from hsm.uri import KeyURI
from hsm.wire.client import SignerClient
from hsm.wire.worker import Authority, Mint, Minted
from tests.cas import make_ca
from tests.softhsm import Store
from tests.waiting import until


async def authorities_of(store: Store, directory: Path, trust: str, untrust: str) -> dict[Authority, AuthoritySettings]:
    """Both CAs of a signer, on the keys of `store` with these labels."""
    return {
        "trust": AuthoritySettings(await make_ca(store, trust, directory), KeyURI(object=trust)),
        "untrust": AuthoritySettings(await make_ca(store, untrust, directory), KeyURI(object=untrust)),
    }


@asynccontextmanager
async def serving(
    settings: SignerSettings, reread: Callable[[], SignerSettings] | None = None
) -> AsyncIterator[Signer]:
    """A signer that serves. It keeps its run directory's lock, as it does for the life of a process."""
    signer = Signer(settings, reread=reread)
    try:
        await signer.open()
        yield signer
    finally:
        await signer.close()


async def all_up(signer: Signer) -> None:
    """Return once each member is in service: `Signer.open` does not wait for those that are not needed."""
    await until(lambda: all(member.serving for member in signer.group.members), "all members are in service")


async def why_not(settings: SignerSettings) -> str:
    """What an operator reads of a signer that does not start."""
    with pytest.raises(MisconfiguredError) as caught:
        async with serving(settings):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leaf_spki() -> bytes:
    """A new public key of a worker."""
    return ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip


async def mint(worker: SignerClient, *names: str, authority: Authority = "trust") -> Minted:
    """A leaf."""
    minted = await worker.call(Mint(authority, list(names or ["a.example"]), leaf_spki()), 10)
    assert isinstance(minted, Minted)
    return minted
