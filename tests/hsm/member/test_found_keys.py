"""Keys that a partition holds in disorder: shared or missing ids, no public halves, the same key twice, hundreds of
them. Whoever signs is the key of the certificate, or nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec import structs

from bench.rig.faulty_module import FaultyModule
from bench.rig.quirks_module import QuirksModule
from hsm.member.key import Key
from hsm.member.states import State
from hsm.schemes import certificate_scheme
from hsm.token.challenges import MOST
from hsm.uri import KeyURI
from tests.hsm.members import make_group, running, sign, verifies
from tests.hsm.token.objects import Made, Private, made, put_keys, spki_of
from tests.softhsm import MODULE, Store, make_store

P256, OTHER, P384 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP256R1(), ec.SECP384R1()))
RSA = rsa.generate_private_key(65537, 2048)


def key(private: Private, name: str, uri: KeyURI, *, members: frozenset[str] | None = None) -> Key:
    """What the certificate of `private` makes of it."""
    public = private.public_key()
    return Key(name, uri, public, certificate_scheme(public), members)


async def holding(directory: Path, keys: list[Made]) -> Store:
    """A partition with these keys alone."""
    store = await make_store(directory, {})
    put_keys(store, keys)
    return store


DISORDER = {
    "one id for all": [made(OTHER, "other"), made(P256, "ec"), made(P384, "large"), made(RSA, "rsa")],
    "no id": [made(OTHER, "other", b""), made(P256, "ec", b""), made(P384, "large", b""), made(RSA, "rsa", b"")],
    "no public half": [
        made(OTHER, "other", b"\1", "none"), made(P256, "ec", b"\2", "none"), made(P384, "large", b"\3", "none"),
        made(RSA, "rsa", b"\4", "none"),
    ],
    "public halves under each other's ids": [
        made(OTHER, "other", b"\1", "none"), made(P256, "ec", b"\2", "none"), made(P384, "large", b"\3"),
        made(RSA, "rsa", b"\4"), made(P256, "other", b"\1", "only"), made(OTHER, "ec", b"\2", "only"),
    ],
    "one label for all": [
        made(one, "x", bytes([number])) for number, one in enumerate([OTHER, P256, P384, RSA])
    ],
    "each twice": [
        made(one, label, bytes([number]))
        for number, (one, label) in enumerate([(P256, "ec"), (P384, "large"), (RSA, "rsa")] * 2)
    ],
}  # fmt: skip


@pytest.mark.parametrize("alone", [True, False], ids=["its URI's", "a group's"])
@pytest.mark.parametrize("case", DISORDER)
async def test_each_certificate_is_signed_for_by_its_own_key(
    softhsm_module: str, tmp_path: Path, case: str, alone: bool
) -> None:
    """Where labels name the keys, each is the right one, with high availability and without."""
    store = await holding(tmp_path, DISORDER[case])
    members = frozenset({"m1"}) if alone else None
    label = "x" if case == "one label for all" else ""
    keys = {
        name: key(private, name, KeyURI(object=label or name), members=members)
        for name, private in {"ec": P256, "large": P384, "rsa": RSA}.items()
    }
    async with make_group([store], keys=keys) as group:
        assert {name: group.members[0].problem(name) for name in keys} == dict.fromkeys(keys, "")
        for name in keys:
            for _ in range(4):  # on both sessions
                assert verifies(group, await sign(group, name), name)


HIDDEN = {
    "the exponent": ["attribute private CKA_PUBLIC_EXPONENT unreadable"],
    "the exponent, empty": ["attribute private CKA_PUBLIC_EXPONENT empty"],
    "the modulus": ["attribute private CKA_MODULUS unreadable"],
    "the modulus, of both halves": ["attribute * CKA_MODULUS unreadable"],
    "the curve": ["attribute private CKA_EC_PARAMS unreadable"],
    "ids": ["attribute * CKA_ID unreadable"],
    "all ids": ["attribute * CKA_ID empty"],
    "public keys": ["hide public"],
    "what may be done": [f"attribute private {one} unreadable" for one in ("CKA_SIGN", "CKA_DECRYPT", "CKA_DERIVE")],
    "sensitive attributes are named so": ["attribute private CKA_PUBLIC_EXPONENT sensitive"],
    "signatures in DER": ["ecdsa_der"],
    "labels of another character set": ["attribute * CKA_LABEL is 0xff6162fe label=other"],
    "key types of a vendor's own": ["attribute private CKA_KEY_TYPE is 0x0100008000000000 label=other"],
    "wrong points beside the keys": ["attribute public CKA_EC_POINT flip"],
    "the public half in the private one": [
        "hide public", f"attribute private 0x129 is 0x{spki_of(P256).hex()} label=ec",
    ],
    "a point in the private half": [
        "hide public", f"attribute private CKA_EC_POINT is 0x04{spki_of(P256)[-64:].hex()} label=ec",
    ],
}  # fmt: skip


@pytest.mark.parametrize("alone", [True, False], ids=["its URI's", "a group's"])
@pytest.mark.parametrize("hidden", HIDDEN)
async def test_what_a_token_does_not_tell_costs_nothing(
    softhsm_module: str, tmp_path: Path, hidden: str, alone: bool
) -> None:
    """Keys with attributes that cannot be read are found by their names, their certificates and their signatures."""
    keys = [made(OTHER, "other"), made(P256, "ec", b"\2"), made(P384, "large", b"\3"), made(RSA, "rsa", b"\4")]
    store = await holding(tmp_path / "store", keys)
    quirks = QuirksModule(tmp_path / "quirks", *HIDDEN[hidden])
    settings = structs.replace(
        store.settings(), module=str(quirks.path), environment=store.environment | quirks.environment(MODULE)
    )
    wanted = {
        name: key(private, name, KeyURI(object=name), members=frozenset({"m1"}) if alone else None)
        for name, private in {"ec": P256, "large": P384, "rsa": RSA}.items()
    }
    async with make_group([settings], keys=wanted) as group:
        assert {name: group.members[0].problem(name) for name in wanted} == dict.fromkeys(wanted, "")
        for name in wanted:
            assert verifies(group, await sign(group, name), name)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("0x4000000000000000", "key type EC_EDWARDS; RSA and EC"),
        ("0x0100008000000000", "key type 0x80000001; RSA and EC"),
    ],
)
async def test_a_key_of_another_type_is_named(softhsm_module: str, tmp_path: Path, kind: str, says: str) -> None:
    """An Ed25519 key, or one of a vendor's own type, under the URI's label: an operator reads what it is."""
    store = await holding(tmp_path / "store", [made(P256, "ec", b"\2"), made(P384, "large", b"\3")])
    quirks = QuirksModule(tmp_path / "quirks", f"attribute private CKA_KEY_TYPE is {kind} label=ec")
    settings = structs.replace(
        store.settings(), module=str(quirks.path), environment=store.environment | quirks.environment(MODULE)
    )
    keys = {name: key(one, name, KeyURI(object=name)) for name, one in {"ec": P256, "large": P384}.items()}
    async with running(settings, keys=keys) as member:
        assert says in member.problem("ec")
        assert member.problem("large") == ""


async def test_a_member_may_call_its_keys_as_it_likes(softhsm_module: str, tmp_path: Path) -> None:
    """In a group, keys without a label, an id or a public half are found by their signatures."""
    nameless = [made(one, "", b"", "none") for one in (OTHER, P256, P384, RSA)]
    store = await holding(tmp_path, nameless)
    keys = {
        name: key(private, name, KeyURI(object=name))
        for name, private in {"ec": P256, "large": P384, "rsa": RSA}.items()
    }
    async with make_group([store], keys=keys) as group:
        for name in keys:
            for _ in range(4):
                assert verifies(group, await sign(group, name), name)


async def test_a_key_among_hundreds_costs_a_bounded_number_of_signatures(softhsm_module: str, tmp_path: Path) -> None:
    """150 keys of a curve that nothing tells apart: so many challenges at a start, and one key is not found by luck.
    What is not found yet is said, with what to do."""
    many = [made(ec.derive_private_key(number, ec.SECP256R1()), "", b"", "none") for number in range(1, 151)]
    store = await holding(tmp_path / "store", many)
    faulty = FaultyModule(tmp_path / "faults")
    settings = structs.replace(
        store.settings(), module=str(faulty.path), environment=store.environment | faulty.environment(MODULE)
    )
    keys = {"ca": key(P384, "ca", KeyURI(object="ca")), "absent": key(P256, "absent", KeyURI(object="absent"))}
    put_keys(store, [made(P384, "ca", b"\1")])
    async with running(settings, keys=keys) as member:
        assert member.state is State.UP
        assert MOST < faulty.calls("C_Sign") <= MOST + 5
        problem = member.problem("absent")
        assert problem.startswith("no private key pkcs11:object=absent;type=private on partition 'tests'")
        assert problem.endswith(
            f"; {150 - MOST} more private keys could be it, and are tried later: name it by its CKA_ID"
        )
