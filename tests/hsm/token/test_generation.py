"""Key pairs on tokens that take other templates than SoftHSM: made once, as guarded as the token allows, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pkcs11 import Attribute, Mechanism

from bench.rig.faulty_module import FaultyModule
from bench.rig.quirks_module import QuirksModule
from hsm.errors import MemberLostError, RefusedError
from hsm.member.process import MemberProcess
from hsm.schemes import SCHEMES
from hsm.token.attributes import KMS_ALGORITHM
from hsm.token.generation import _attempts
from hsm.uri import KeyURI
from hsm.wire.member import Generate, KeyFound, KeyType, Open, Opened, Selector, Sign, Signature
from tests.softhsm import MODULE, PIN, Store, in_s, make_store

URI = KeyURI(object="ca")
TPM = [f"template private {one} 0x13 false" for one in ("CKA_DECRYPT", "CKA_UNWRAP", "CKA_DERIVE")]
QUIRKS: dict[str, list[str]] = {
    "as SoftHSM": [],
    "false usages refused, as a TPM does": [*TPM, "template public CKA_ENCRYPT 0x13 false"],
    "false usages refused with a general error": [one.replace("0x13", "0x5") for one in TPM],
    "an id of 8 bytes refused, as YubiHSM does": ["template * CKA_ID 0x13 length=8"],
    "any id refused": ["template * CKA_ID 0x10"],
    "no random numbers": ["answer C_GenerateRandom 0x54"],
    "a public label and id refused": ["template public CKA_LABEL 0xd1", "template public CKA_ID 0xd1"],
    "CKA_EXTRACTABLE refused": ["template private CKA_EXTRACTABLE 0x12"],
    "CKA_PRIVATE and CKA_VERIFY refused": ["template private CKA_PRIVATE 0x12", "template public CKA_VERIFY 0x12"],
    "no public template, as Google KMS": ["template public * 0xd1", "generates"],
    "a vendor's own code": [one.replace("0x13", "0x80000123") for one in TPM],
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One partition for all: a key is made and looked at once in each test, under a label of its own."""
    return asyncio.run(make_store(tmp_path_factory.mktemp("generation") / "store", {}))


@asynccontextmanager
async def opened(
    store: Store, module: QuirksModule | FaultyModule, uri: KeyURI = URI
) -> AsyncIterator[tuple[MemberProcess, Opened]]:
    """A member that may make keys, on a module that is otherwise."""
    process = await MemberProcess.spawn(store.environment | module.environment(MODULE))
    try:
        opening = Open(str(module.path), Selector(label=store.label), PIN, 1, {"ca": uri}, writable=True)
        answer = await process.channel.call(opening, in_s(20))
        assert isinstance(answer, Opened)
        yield process, answer
    finally:
        await process.end()


async def make(process: MemberProcess, label: str, key_type: KeyType) -> KeyFound:
    """The key, made now."""
    made = await process.channel.call(Generate(label, key_type), in_s(60))
    assert isinstance(made, KeyFound)
    return made


async def signs(process: MemberProcess, scheme: str) -> bool:
    """Whether the key of this member signs."""
    digest = SCHEMES[scheme].digest(b"message")
    return isinstance(await process.channel.call(Sign("ca", scheme, digest), in_s(10)), Signature)


@pytest.mark.parametrize("key_type", ["rsa-2048", "p256"])
@pytest.mark.parametrize("quirk", QUIRKS)
async def test_a_key_is_made_with_what_the_token_takes(
    shared: Store, tmp_path: Path, quirk: str, key_type: KeyType
) -> None:
    """Whatever a token refuses of a full template, it makes one key of the label, which is sensitive, never
    extractable, and signs."""
    label = f"{quirk} {key_type}"
    async with opened(shared, QuirksModule(tmp_path / "q", *QUIRKS[quirk]), KeyURI(object=label)) as (process, found):
        assert found.keys["ca"].missing
        assert key_type in found.makes
        made = await make(process, label, key_type)
        assert (made.problem, made.exposure, made.guarded, made.uri) == ("", "", True, None)
        assert await signs(process, "rsa_pkcs1_sha256" if key_type == "rsa-2048" else "ecdsa_secp256r1_sha256")
        with pytest.raises(RefusedError, match=r"has a private key '.*' already; it is left as it is"):
            await make(process, label, key_type)


@pytest.mark.parametrize("mechanism", ["0xa", "0x80000143", "0x80000142"])
async def test_another_mechanism_makes_rsa_keys(shared: Store, tmp_path: Path, mechanism: str) -> None:
    """FIPS modes have no CKM_RSA_PKCS_KEY_PAIR_GEN, but CKM_RSA_X9_31_KEY_PAIR_GEN, or Luna's own mechanisms."""
    quirks = [f"maps {mechanism} 0x0", "missing CKM_RSA_PKCS_KEY_PAIR_GEN"]
    async with opened(shared, QuirksModule(tmp_path / "q", *quirks), KeyURI(object=mechanism)) as (process, found):
        assert "rsa-3072" in found.makes
        assert (await make(process, mechanism, "rsa-2048")).guarded
        assert await signs(process, "rsa_pkcs1_sha256")


async def test_a_listed_mechanism_that_is_refused_gives_way_to_the_other(shared: Store, tmp_path: Path) -> None:
    """A mechanism may be listed and forbidden: the other one is tried."""
    quirks = ["maps 0xa 0x0", "forbid C_GenerateKeyPair CKM_RSA_PKCS_KEY_PAIR_GEN 0x70"]
    async with opened(shared, QuirksModule(tmp_path / "q", *quirks), KeyURI(object="forbidden")) as (process, _):
        assert (await make(process, "forbidden", "rsa-2048")).guarded


@pytest.mark.parametrize(
    ("quirks", "makes"),
    [
        (["missing CKM_EC_KEY_PAIR_GEN"], ["rsa-2048", "rsa-3072", "rsa-4096"]),
        (["missing CKM_ECDSA", "missing CKM_ECDSA_SHA256"], ["rsa-2048", "rsa-3072", "rsa-4096"]),
        (["missing CKM_RSA_PKCS_KEY_PAIR_GEN"], ["p256", "p384"]),
        (["missing CKM_RSA_PKCS_KEY_PAIR_GEN", "missing CKM_EC_KEY_PAIR_GEN"], []),
    ],
)
async def test_what_a_token_can_make_is_told_before(
    shared: Store, tmp_path: Path, quirks: list[str], makes: list[str]
) -> None:
    """Which types the mechanisms allow, to make and to sign with, is known when the partition is opened."""
    async with opened(shared, QuirksModule(tmp_path / "q", *quirks)) as (process, found):
        assert found.makes == makes
        for missing in {"rsa-2048", "p256"} - set(makes):
            with pytest.raises(RefusedError, match=f"no mechanism that makes {missing} keys"):
                await make(process, "ca", missing)  # type: ignore[arg-type]  # one of the two


@pytest.mark.parametrize(("key_type", "algorithm"), [("p256", 12), ("p384", 13), ("rsa-2048", 5), ("rsa-4096", 7)])
def test_googles_tokens_are_told_which_algorithm_a_key_is_for(key_type: KeyType, algorithm: int) -> None:
    """Google KMS takes a label and its own attribute, and nothing else (its user guide); no other token is asked so."""
    mechanism = Mechanism.EC_KEY_PAIR_GEN
    *_, last = _attempts("ca", key_type, [mechanism], "Google Inc.")
    assert (last.public, last.private) == ({}, {Attribute.LABEL: "ca", KMS_ALGORITHM: algorithm})
    others = list(_attempts("ca", key_type, [mechanism], "SoftHSM project"))
    assert not any(KMS_ALGORITHM in one.private for one in others)
    assert [one.private.get(Attribute.EXTRACTABLE) for one in others[:4]] == [False] * 4


async def test_what_a_token_did_not_honour_is_said(shared: Store, tmp_path: Path) -> None:
    """A token that says of the new key that it can leave is believed."""
    quirks = ["attribute private CKA_EXTRACTABLE is 0x01", "attribute private CKA_SENSITIVE is 0x00"]
    async with opened(shared, QuirksModule(tmp_path / "q", *quirks), KeyURI(object="leaves")) as (process, _):
        made = await make(process, "leaves", "p256")
        assert (made.problem, made.guarded) == ("", False)
        assert made.exposure == "it can leave now, in the clear: CKA_SENSITIVE is false and CKA_EXTRACTABLE is true"


async def test_a_token_that_calls_the_key_otherwise_is_asked_how(softhsm_module: str, tmp_path: Path) -> None:
    """NetHSM names a key by its id: the new key is used, and its name is told."""
    store = await make_store(tmp_path / "store", {})
    quirks = QuirksModule(tmp_path / "q", "attribute private CKA_LABEL is 6b1f")
    async with opened(store, quirks, KeyURI(object="ours")) as (process, _):
        made = await make(process, "ours", "p256")
        assert made.problem == ""
        assert made.uri == KeyURI(object="6b1f")
        assert await signs(process, "ecdsa_secp256r1_sha256")


async def test_what_no_template_helps_is_said(shared: Store, tmp_path: Path) -> None:
    """Every refusal was tried further: what the token said to them is told."""
    quirks = ["template private CKA_LABEL 0xd1", "template public CKA_LABEL 0x13"]
    async with opened(shared, QuirksModule(tmp_path / "q", *quirks)) as (process, _):
        with pytest.raises(
            RefusedError,
            match=r"the partition makes no p256 key: CKR_ATTRIBUTE_VALUE_INVALID \(0x13\), "
            r"CKR_TEMPLATE_INCONSISTENT \(0xd1\)$",
        ):
            await make(process, "never", "p256")
    async with opened(shared, QuirksModule(tmp_path / "r"), KeyURI(object="never")) as (_, found):
        assert found.keys["ca"].missing


@pytest.mark.parametrize("code", ["0x5", "0x6", "0x13", "0xd1", "0x54", "0x80000001"])
async def test_a_key_that_was_made_all_the_same_is_not_made_twice(
    softhsm_module: str, tmp_path: Path, code: str
) -> None:
    """A token that makes the pair and answers with an error: the key is found, and there is one."""
    store = await make_store(tmp_path / "store", {})
    faulty = FaultyModule(tmp_path / "faults")
    async with opened(store, faulty) as (process, _):
        with faulty.fault(f"C_GenerateKeyPair rvafter {code}"):
            made = await make(process, "ca", "p256")
        assert (made.problem, made.guarded) == ("", True)
        assert faulty.calls("C_GenerateKeyPair") == 1
        assert await signs(process, "ecdsa_secp256r1_sha256")


async def test_a_lost_hsm_is_not_asked_again(softhsm_module: str, tmp_path: Path) -> None:
    """An HSM that fails while it makes a key: one try, an error, and the next run finds what was made."""
    store = await make_store(tmp_path / "store", {})
    faulty = FaultyModule(tmp_path / "faults")
    async with opened(store, faulty) as (process, _):
        with faulty.fault("C_GenerateKeyPair rvafter 0x30"), pytest.raises(MemberLostError, match="CKR_DEVICE_ERROR"):
            await make(process, "ca", "p256")
        assert faulty.calls("C_GenerateKeyPair") == 1
    async with opened(store, faulty) as (_, found):
        assert (found.keys["ca"].problem, found.keys["ca"].missing) == ("", False)


async def test_half_a_pair_is_taken_away(softhsm_module: str, tmp_path: Path) -> None:
    """A token that leaves a public half behind at each refusal: it is removed before the next try, and one that stood
    there before is left."""
    store = await make_store(tmp_path / "store", {"ca": "p256"})
    quirks = QuirksModule(tmp_path / "q", "hide private")
    faulty = FaultyModule(tmp_path / "faults")
    environment = store.environment | quirks.environment(faulty.path) | faulty.environment(MODULE)
    process = await MemberProcess.spawn(environment)
    try:
        opening = Open(str(quirks.path), Selector(label=store.label), PIN, 1, {"ca": URI}, writable=True)
        await process.channel.call(opening, in_s(20))
        with faulty.fault("C_GenerateKeyPair rvafter 0x13"), pytest.raises(RefusedError, match=r"\(0x13\); \d+ public"):
            await make(process, "ca", "p256")
        tries = faulty.calls("C_GenerateKeyPair")
        assert tries > 10
        assert faulty.calls("C_DestroyObject") > 10
    finally:
        await process.end()
    async with opened(store, QuirksModule(tmp_path / "r")) as (_, found):
        assert "private keys fit" in found.keys["ca"].problem  # those that the quirk hid
