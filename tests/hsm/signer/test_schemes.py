"""A signer whose partitions forbid some of what they list: what it offers workers, and how its CAs sign."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from msgspec import structs

from hsm.certificates.settings import LeafProfile
from hsm.errors import UnavailableError
from hsm.schemes import SCHEMES
from hsm.signer.settings import AuthoritySettings, InboundSettings, SignerSettings
from hsm.uri import KeyURI
from hsm.wire.client import SignerClient
from hsm.wire.run_directory import WORKER_SOCKET, RunDirectory
from tests.cas import make_ca
from tests.hsm.restricted import PKCS1, PSS, RSA_PKCS, RSA_PSS, SHA256_RSA_PKCS, SHA256_RSA_PSS, put_key
from tests.hsm.signers import mint, serving, why_not
from tests.hsm.sites import name_of, signs, site_of, terms
from tests.softhsm import Store, make_store


async def settings_with(store: Store, directory: Path, *, scheme: str = "", **more: object) -> SignerSettings:
    """A signer on the partition: a CA with its key "ca", whose certificate is signed in `scheme`."""
    directory.mkdir(exist_ok=True)
    path = await make_ca(store, "ca", directory, scheme=SCHEMES[scheme] if scheme else None)
    return SignerSettings(
        members=[store.settings()],
        authorities={"trust": AuthoritySettings(path, KeyURI(object="ca"))},
        profile=LeafProfile(),
        run=RunDirectory(directory / "run"),
        state=directory / "state",
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
async def store(softhsm_module: str, tmp_path: Path) -> Store:
    """An empty partition."""
    return await make_store(tmp_path / "store", {})


@pytest.mark.parametrize(
    ("allowed", "scheme"),
    [
        (RSA_PKCS, "rsa_pkcs1_sha256"),
        (SHA256_RSA_PKCS, "rsa_pkcs1_sha256"),
        (0x42, "rsa_pkcs1_sha512"),
        (RSA_PSS, "rsa_pss_rsae_sha256"),
        (SHA256_RSA_PSS, "rsa_pss_rsae_sha256"),
    ],
)
async def test_a_ca_signs_as_its_partition_lets_it(store: Store, tmp_path: Path, allowed: int, scheme: str) -> None:
    """Leaves are signed in the first scheme that the partition makes with the CA's key, and verify with the CA's
    certificate."""
    put_key(store, "ca", "rsa", [allowed])
    settings = await settings_with(store, tmp_path / "signer", scheme=scheme)
    ca = x509.load_pem_x509_certificate(settings.authorities["trust"].certificate.read_bytes())
    async with serving(settings) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        leaf = x509.load_der_x509_certificate((await mint(worker, "a.example")).certificate)
        leaf.verify_directly_issued_by(ca)
        pss = isinstance(leaf.signature_algorithm_parameters, padding.PSS)
        assert (pss, type(leaf.signature_hash_algorithm)) == (
            SCHEMES[scheme].family == "rsa_pss", type(SCHEMES[scheme].hash)
        )  # fmt: skip
        (member,) = signer.status().members
        assert member.schemes == {"trust": [scheme]}
        assert ("rsa_pkcs1_sha256" in member.lacking.get("trust", {})) is (scheme != "rsa_pkcs1_sha256")


async def test_workers_learn_what_was_proved(store: Store, tmp_path: Path) -> None:
    """A worker is told of the schemes that each site's key makes, gets signatures in those, and in no other; the status
    shows what is lacking, and why."""
    for label, allowed in {"ca": [], "old": [RSA_PKCS], "new": [RSA_PSS]}.items():
        put_key(store, label, "rsa", allowed)
    sites = [site_of(store, "old", tmp_path)]
    settings = await settings_with(store, tmp_path / "signer", inbound=sites)
    with_new = [InboundSettings("new.example.com", sites[0].certificate, KeyURI(object="new"))]
    for inbound, label, made, lacking in ((sites, "old", PKCS1, PSS), (with_new, "new", PSS, PKCS1)):
        title = f"key of {label}.example.com"
        own = structs.replace(
            settings, inbound=inbound, authorities={}, run=RunDirectory(tmp_path / label)
        )  # one public key for all of them
        async with serving(own) as signer, SignerClient(own.run.socket(WORKER_SOCKET)) as worker:
            assert (await terms(worker)).keys == {name_of(store, label): made}
            for scheme in made:
                assert await signs(worker, store, label, scheme)
            for scheme in lacking:
                with pytest.raises(UnavailableError, match=f"no member of the HSM in service makes {scheme}"):
                    await signs(worker, store, label, scheme)
            (member,) = signer.status().members
            assert member.schemes == {title: made}
            assert member.lacking[title].keys() == set(lacking)
            assert signer.status().certificates[0].proved == ["m1"]


async def test_a_key_that_may_do_nothing(store: Store, tmp_path: Path) -> None:
    """A site whose key no scheme can be made with stops the start; each kind of scheme has its reason."""
    put_key(store, "ca", "rsa", [])
    put_key(store, "shop", "rsa", [SHA256_RSA_PSS])
    settings = await settings_with(store, tmp_path / "signer", inbound=[site_of(store, "shop", tmp_path)])
    said = await why_not(structs.replace(settings, authorities={}))
    assert (
        "no rsa_pkcs1_sha256, 384 and 512, rsa_pss_rsae_sha384 and 512: it did not sign a challenge: CKR_MECH" in said
    )
    assert "no rsa_pss_rsae_sha256: the partition makes it only where it hashes the message itself" in said
