"""What tests of members and signers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hsm.certificates.settings import LeafProfile
from hsm.member.process import MemberProcess
from hsm.signer.settings import AuthoritySettings, SignerSettings
from hsm.signer.signer import Signer
from hsm.wire.client import SignerClient
from hsm.wire.member import KeyType
from hsm.wire.run_directory import WORKER_SOCKET, RunDirectory
from hsm.wire.worker import Authority
from tests.hsm.members import make_stores
from tests.hsm.signers import authorities_of, serving
from tests.hsm.sites import add_decrypting_key
from tests.softhsm import Store, make_store


@pytest.fixture(scope="session")
def stores(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """Three HSMs with the same partition and keys, for tests that only read them. Keys: trust, untrust."""
    return asyncio.run(make_stores(tmp_path_factory.mktemp("stores")))


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments of all member processes that are started from here on: each of them can try a PIN once."""
    environments: list[dict[str, str]] = []
    spawn = MemberProcess.spawn

    async def counted(environment: dict[str, str], on_lost: Callable[[], None] | None = None) -> MemberProcess:
        environments.append(environment)
        return await spawn(environment, on_lost)

    monkeypatch.setattr(MemberProcess, "spawn", counted)
    return environments


@pytest.fixture(scope="session")
def authorities(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[Authority, AuthoritySettings]:
    """Both CAs of a signer: 'trust' on a P-256 key, 'untrust' on an RSA key."""
    return asyncio.run(authorities_of(store, tmp_path_factory.mktemp("cas"), "p256", "rsa"))


@pytest.fixture
def settings(store: Store, authorities: dict[Authority, AuthoritySettings], tmp_path: Path) -> SignerSettings:
    """A signer with one member and both CAs."""
    return SignerSettings(
        members=[store.settings()],
        authorities=authorities,
        profile=LeafProfile(),
        run=RunDirectory(tmp_path / "run"),
        state=tmp_path / "state",
    )


@pytest.fixture
async def signer(settings: SignerSettings) -> AsyncIterator[Signer]:
    """A signer that serves."""
    async with serving(settings) as signer:
        yield signer


@pytest.fixture
async def worker(signer: Signer, settings: SignerSettings) -> AsyncIterator[SignerClient]:
    """A worker's connection to it."""
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as connection:
        yield connection


@pytest.fixture(scope="session")
def sites_store(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A partition with keys of CAs and of sites. Keys: trust, untrust, blog (P-256), shop, spare (RSA), and old (RSA,
    decrypts)."""

    async def make() -> Store:
        kinds: dict[str, KeyType] = {"trust": "p256", "untrust": "p256", "blog": "p256", "shop": "rsa-2048",
                                          "spare": "rsa-2048"}  # fmt: skip
        return await make_store(tmp_path_factory.mktemp("sites"), kinds)

    store = asyncio.run(make())
    add_decrypting_key(store, "old")
    return store


@pytest.fixture(scope="session")
def sites_authorities(
    sites_store: Store, tmp_path_factory: pytest.TempPathFactory
) -> dict[Authority, AuthoritySettings]:
    """Both CAs of a signer on that partition."""
    return asyncio.run(authorities_of(sites_store, tmp_path_factory.mktemp("sites-cas"), "trust", "untrust"))


@pytest.fixture
def sites_settings(
    sites_store: Store, sites_authorities: dict[Authority, AuthoritySettings], tmp_path: Path
) -> SignerSettings:
    """A signer with one member and both CAs on that partition, and no site yet."""
    return SignerSettings(
        members=[sites_store.settings()],
        authorities=sites_authorities,
        profile=LeafProfile(),
        run=RunDirectory(tmp_path / "run"),
        state=tmp_path / "state",
    )
