"""A token: the keys that are found and made on it, and what a login risks.

Where a crash is possible, a function of this file runs in a Python process of its own (`run_child`).
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute, KeyType, ObjectClass

from bench.rig.faulty_module import FaultyModule
from hsm.errors import HsmitmError, RefusedError
from hsm.member.process import MemberProcess
from hsm.schemes import SCHEMES, certificate_scheme
from hsm.token.module import Module
from hsm.token.token import KeyMissingError
from hsm.uri import KeyURI
from hsm.wire.member import Generate, Open, Opened, Selector
from tests.hsm.token.children import look, run_child
from tests.hsm.token.objects import Made, Private, made, put, spki_of
from tests.softhsm import MODULE, PIN, Store, in_s, make_store

ECDSA = SCHEMES["ecdsa_secp256r1_sha256"]


@pytest.fixture
async def member(store: Store) -> AsyncIterator[MemberProcess]:
    """A member process that has loaded nothing yet."""
    process = await MemberProcess.spawn(store.environment)
    yield process
    await process.end()


# --- keys -------------------------------------------------------------------------------------------------------------


def read_private_halves(label: str) -> None:
    """In a child: ask the token for the private half of each key; print what it says."""
    token = Module(MODULE).token(Selector(label=label))
    session = token.log_in(PIN)._session
    said = {}
    for key in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
        try:
            said[key.label] = repr(key[Attribute.PRIVATE_EXPONENT if key.key_type is KeyType.RSA else Attribute.VALUE])
        except pkcs11.PKCS11Error as error:
            said[key.label] = type(error).__name__
    sys.stdout.write(msgspec.json.encode(said).decode())
    sys.stdout.flush()
    os._exit(0)


def test_a_new_key_cannot_leave(store: Store) -> None:
    """A key that we make is sensitive and never extractable: its private half cannot be read."""
    for found in store.keys.values():
        assert (found.problem, found.guarded, found.missing) == ("", True, False)
        assert found.spki
    said = msgspec.json.decode(run_child(read_private_halves, store, store.label).stdout)
    assert said == dict.fromkeys(("rsa", "p256", "p384"), "AttributeSensitive")


async def test_a_key_is_never_made_twice(own_store: Store) -> None:
    """A second key of the same label is refused, and the first is left as it is."""
    process = await MemberProcess.spawn(own_store.environment)
    try:
        await process.channel.call(own_store.opening(1, writable=True), in_s(10))
        with pytest.raises(RefusedError, match="has a private key 'p256' already"):
            await process.channel.call(Generate("p256", "rsa-2048"), in_s(60))
    finally:
        await process.end()
    process = await MemberProcess.spawn(own_store.environment)
    try:
        opened = await process.channel.call(own_store.opening(1), in_s(10))
    finally:
        await process.end()
    assert isinstance(opened, Opened)
    assert opened.keys == own_store.keys


async def test_a_member_that_only_signs_makes_no_keys(member: MemberProcess, store: Store) -> None:
    """A partition that was not opened for writing refuses to make a key."""
    await member.channel.call(store.opening(1), in_s(10))
    with pytest.raises(RefusedError, match="CKR_SESSION_READ_ONLY"):
        await member.channel.call(Generate("another", "p256"), in_s(60))


async def test_a_uri_of_the_whole_partition_finds_the_key(member: MemberProcess, store: Store) -> None:
    """A URI with every attribute of the partition, as vendors' tools print it, finds the key."""
    there = (await look(store.environment, MODULE, Selector(label="tests"))).partition
    uri = KeyURI(
        token=there.label, object="p256", serial=there.serial, manufacturer=there.manufacturer, model=there.model
    )
    opening = Open(MODULE, Selector(label="tests"), PIN, 1, {"k": uri})
    opened = await member.channel.call(opening, in_s(10))
    assert isinstance(opened, Opened)
    assert opened.keys == {"k": store.keys["p256"]}


@pytest.mark.parametrize(
    "uri",
    [
        KeyURI(object="p256", token="another"),
        KeyURI(object="p256", serial="0123456789abcdef"),
        KeyURI(object="p256", model="another"),
        KeyURI(object="p256", manufacturer="another"),
        KeyURI(object="absent"),
        KeyURI(object="p256", id=b"\x01"),
    ],
    ids=str,
)
async def test_a_uri_of_another_key_finds_none(member: MemberProcess, store: Store, uri: KeyURI) -> None:
    """A URI that names another token or another key is missing here, never the next best key."""
    opened = await member.channel.call(Open(MODULE, Selector(label="tests"), PIN, 1, {"k": uri}), in_s(10))
    assert isinstance(opened, Opened)
    assert opened.keys["k"].missing
    assert str(uri) in opened.keys["k"].problem
    assert opened.keys["k"].spki == b""


# --- keys that members hold under names of their own ------------------------------------------------------------------


class Search(msgspec.Struct):
    """The keys of a partition, and which one is looked for there: `spki` is DER, `scheme` one that it can make."""

    keys: list[Made]
    uri: KeyURI
    spki: bytes
    scheme: str


class Outcome(msgspec.Struct):
    """What a search found, and the signature of `DIGEST` that the key made; `problem` where it found none."""

    problem: str
    missing: bool = False
    spki: bytes = b""
    signature: bytes = b""


MESSAGE = b"message"


def search_for_keys(label: str, wanted: str) -> None:
    """In a child: for each of a list of `Search`, make its keys the only ones and search; print the `Outcome`s. So many
    keys are `wanted`: for many the token's keys are walked over, and the same must be found."""
    token = Module(MODULE).token(Selector(label=label))
    token.keys_wanted = int(wanted)
    anchor = token.log_in(PIN, writable=True)._session
    outcomes = []
    for search in msgspec.json.decode(sys.stdin.read(), type=list[Search]):
        for old in list(anchor.get_objects()):
            old.destroy()
        for one in search.keys:
            put(anchor, one)
        session = token.session()
        scheme = SCHEMES[search.scheme]
        try:
            key = session.key(search.uri, search.spki)
            found = key.describe()
            signature = b"" if found.problem else key.sign(scheme, scheme.digest(MESSAGE), None)
            outcomes.append(Outcome(found.problem, found.missing, found.spki, signature))
        except RefusedError as error:
            outcomes.append(Outcome(str(error), isinstance(error, KeyMissingError)))
        except Exception as error:  # noqa: BLE001  # of one search; the others are to be told
            outcomes.append(Outcome(f"crash: {error!r}"))
        session.close()
    sys.stdout.write(msgspec.json.encode(outcomes).decode())
    sys.stdout.flush()
    os._exit(0)


P256, OTHER_P256 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
P384, P521 = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())
RSA, OTHER_RSA = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
THIRD_RSA, THIRD_P256 = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
CA = KeyURI(object="ca")


FOUND: dict[str, tuple[list[Made], Private]] = {
    "RSA, as named": ([made(RSA, "ca"), made(OTHER_RSA, "y", b"\2")], RSA),
    "RSA, another label": ([made(RSA, "x"), made(OTHER_RSA, "y", b"\2")], RSA),
    "RSA, the label is another key's": ([made(RSA, "x"), made(OTHER_RSA, "ca", b"\2")], RSA),
    "RSA, the label is another key's, and the id": ([made(RSA, "x"), made(OTHER_RSA, "ca")], RSA),
    "RSA, the label is an EC key's, and the id": ([made(RSA, "x"), made(P256, "ca")], RSA),
    "RSA, no public key object": ([made(RSA, "x", public="none")], RSA),
    "RSA, as named and another time": ([made(RSA, "ca"), made(RSA, "y", b"\2")], RSA),
    "EC, as named": ([made(P256, "ca"), made(OTHER_P256, "y", b"\2")], P256),
    "EC, another label": ([made(P256, "x"), made(OTHER_P256, "y", b"\2")], P256),
    "EC, another label, P-384": ([made(P384, "x"), made(P256, "y", b"\2")], P384),
    "EC, the label is another key's": ([made(P256, "x"), made(OTHER_P256, "ca", b"\2")], P256),
    "EC, the label is an RSA key's": ([made(P256, "x"), made(RSA, "ca", b"\2")], P256),
    "EC, the label is an RSA key's, and the id": ([made(P256, "x"), made(RSA, "ca")], P256),
    "EC, the label is of another curve": ([made(P256, "x"), made(P384, "ca", b"\2")], P256),
    "EC, the label is of an unknown curve": ([made(P256, "x"), made(P521, "ca", b"\2")], P256),
    "EC, the label is a DSA key's": ([made(P256, "x"), Made(b"", "ca", b"\2", "wrapped")], P256),
    "EC, the label is a DSA key's, and the id": ([made(P256, "x"), Made(b"", "ca", b"\1", "wrapped")], P256),
    "EC, the label is without a public half": ([made(P256, "x"), made(OTHER_P256, "ca", b"\2", "none")], P256),
    "EC, the label's public half is broken": ([made(P256, "x"), made(OTHER_P256, "ca", b"\2", "broken")], P256),
    "RSA, the label's public half is broken": ([made(RSA, "x"), made(OTHER_RSA, "ca", b"\2", "broken")], RSA),
    "EC, a bare point": ([made(P256, "x", public="bare"), made(OTHER_P256, "y", b"\2", "bare")], P256),
    "EC, two public key objects": ([made(P256, "x"), made(P256, "x", public="only")], P256),
    "EC, the id is an RSA key's too": ([made(P256, "ca"), made(RSA, "y")], P256),
    "EC, the id is an RSA key's too, which is older": ([made(RSA, "y"), made(P256, "ca")], P256),
    "EC, the id is another curve's too": ([made(P256, "ca"), made(P384, "y")], P256),
    "EC, the id is another curve's too, which is older": ([made(P384, "y"), made(P256, "ca")], P256),
    "EC, another label, the id is an RSA key's too": ([made(RSA, "y"), made(P256, "x")], P256),
    "EC, another label, the id is another curve's too": ([made(P384, "y"), made(P256, "x")], P256),
    "RSA, two of the label": ([made(OTHER_RSA, "ca", b"\x0a"), made(RSA, "ca", b"\x0b")], RSA),
    "RSA, two of the label and the id": ([made(OTHER_RSA, "ca"), made(RSA, "ca")], RSA),
    "RSA, the same twice": ([made(RSA, "x", b"\2"), made(RSA, "y", b"\3")], RSA),
    "RSA, the same twice under the label": ([made(RSA, "ca", b"\2"), made(RSA, "ca", b"\3")], RSA),
    "EC, two of the label": ([made(OTHER_P256, "ca", b"\x0a"), made(P256, "ca", b"\x0b")], P256),
    "EC, two of the label and the id": ([made(OTHER_P256, "ca"), made(P256, "ca")], P256),
    "EC, the same twice": ([made(P256, "x", b"\2"), made(P256, "y", b"\3")], P256),
    "EC, the same twice under the label": ([made(P256, "ca", b"\2"), made(P256, "ca", b"\3")], P256),
    "EC, the same twice without a public half": ([made(P256, "x", b"", "none"), made(P256, "y", b"", "none")], P256),
    "EC, two of the id": ([made(OTHER_P256, "y"), made(P256, "x")], P256),
    "EC, two of the id, the label": ([made(OTHER_P256, "y"), made(P256, "ca")], P256),
    "EC, no id": ([made(OTHER_P256, "y", b""), made(P256, "ca", b"")], P256),
    "EC, no id, another label": ([made(OTHER_P256, "y", b""), made(P256, "x", b"")], P256),
    "EC, no id and no label": ([made(OTHER_P256, "", b""), made(P384, "", b""), made(P256, "", b"")], P256),
    "EC, the public half has another label": (
        [made(OTHER_P256, "y"), made(P256, "ca", b"\1", "none"), made(P256, "ca public", b"\1", "only")], P256,
    ),
    "EC, another's public half has the id and the label": (
        [made(OTHER_P256, "ca", b"\1", "only"), made(P256, "ca", b"\1", "none")], P256,
    ),
    "EC, no public half": ([made(P256, "ca", public="none"), made(OTHER_P256, "y", b"\2")], P256),
    "EC, a broken public half": ([made(P256, "ca", public="broken")], P256),
    "EC, another label and no public half": ([made(OTHER_P256, "y"), made(P256, "x", public="none")], P256),
    "EC, another label, no public half has anybody": (
        [made(OTHER_P256, "y", b"\2", "none"), made(P384, "z", b"\3", "none"), made(P256, "x", b"\4", "none")], P256,
    ),
}  # fmt: skip
REFUSED: dict[str, tuple[list[Made], Private, str]] = {
    "RSA, two of the label, neither is it": (
        [made(RSA, "ca", b"\x0a"), made(OTHER_RSA, "ca", b"\x0b")], THIRD_RSA,
        r"2 private keys fit pkcs11:object=ca;type=private \(CKA_ID 0a, 0b\); none of them is the certificate's; "
        r"add id=%.. to the URI",
    ),
    "EC, two of the label, neither is it": (
        [made(P256, "ca", b"\x0a"), made(OTHER_P256, "ca", b"\x0b")], THIRD_P256,
        r"2 private keys fit pkcs11:object=ca;type=private \(CKA_ID 0a, 0b\); none of them is the certificate's; "
        r"add id=%.. to the URI",
    ),
    "EC, two of the label and the id, neither is it": (
        [made(P256, "ca", b"\x0a"), made(OTHER_P256, "ca", b"\x0a")], THIRD_P256,
        r"2 private keys fit pkcs11:object=ca;type=private \(CKA_ID 0a, 0a\); none of them is the certificate's; "
        r"give each a CKA_ID of its own with the HSM's own tool",
    ),
}  # fmt: skip
MISSING: dict[str, tuple[list[Made], Private]] = {
    "RSA, others": ([made(OTHER_RSA, "x"), made(P256, "y", b"\2")], RSA),
    "EC, others": ([made(OTHER_P256, "x"), made(RSA, "y", b"\2")], P256),
    "RSA, none": ([], RSA),
    "EC, none": ([], P256),
    "EC, the public half alone": ([made(P256, "ca", public="only")], P256),
    "EC, the public half alone, with another's id": ([made(P256, "x", public="only"), made(OTHER_P256, "y")], P256),
    "EC, others without an id": ([made(OTHER_P256, "x", b""), made(P384, "y", b"")], P256),
}
ODD: dict[str, tuple[list[Made], Private]] = {
    "RSA, only another key of the label": ([made(OTHER_RSA, "ca")], RSA),
    "EC, only another key of the label": ([made(OTHER_P256, "ca")], P256),
    "EC, only another key of the label, without a public half": ([made(OTHER_P256, "ca", public="none")], P256),
    "EC, only a key of another curve": ([made(P521, "ca")], P256),
}


@pytest.fixture(scope="module", params=["1", "16"])
def searches(
    softhsm_module: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Outcome]:
    """The outcome of every search, made one after another on one partition."""
    wanted = {name: (case[0], case[1]) for case_of in (FOUND, REFUSED, MISSING, ODD) for name, case in case_of.items()}
    given = [
        Search(keys, CA, spki_of(private), certificate_scheme(private.public_key()).name)
        for keys, private in wanted.values()
    ]
    own = asyncio.run(make_store(tmp_path_factory.mktemp("searches") / "store", {}))
    child = run_child(search_for_keys, own, own.label, request.param, given=msgspec.json.encode(given).decode())
    assert child.returncode == 0, child.stderr
    return dict(zip(wanted, msgspec.json.decode(child.stdout, type=list[Outcome]), strict=True))


def signed_by(outcome: Outcome, private: Private) -> bool:
    """Whether the search's signature is by this key."""
    scheme = certificate_scheme(private.public_key())
    return scheme.verifies(private.public_key(), scheme.digest(MESSAGE), outcome.signature)


@pytest.mark.parametrize("case", FOUND)
def test_the_public_half_finds_the_key(searches: dict[str, Outcome], case: str) -> None:
    """The key of the certificate is found whatever a member calls it, and never another one in its place."""
    wanted, outcome = FOUND[case][1], searches[case]
    assert (outcome.problem, outcome.spki) == ("", spki_of(wanted))
    assert signed_by(outcome, wanted)


@pytest.mark.parametrize("wanted", ["1", "16"])
@pytest.mark.parametrize("uri", [KeyURI(object="ca", id=b"\2"), KeyURI(id=b"\2")])
async def test_the_id_tells_keys_apart(softhsm_module: str, tmp_path: Path, uri: KeyURI, wanted: str) -> None:
    """Two keys of one label: a URI with the id, too, is the one's."""
    keys = [made(P256, "ca"), made(OTHER_P256, "ca", b"\2")]
    own = await make_store(tmp_path / "store", {})
    given = msgspec.json.encode([Search(keys, uri, b"", ECDSA.name)]).decode()
    child = run_child(search_for_keys, own, own.label, wanted, given=given)
    (outcome,) = msgspec.json.decode(child.stdout, type=list[Outcome])
    assert (outcome.problem, outcome.spki) == ("", spki_of(OTHER_P256))
    assert signed_by(outcome, OTHER_P256)


@pytest.mark.parametrize("case", REFUSED)
def test_of_several_keys_none_is_picked_that_is_another(searches: dict[str, Outcome], case: str) -> None:
    """Where keys of the name are there and none is the certificate's, an operator is told which, and none is used."""
    outcome = searches[case]
    assert re.fullmatch(REFUSED[case][2], outcome.problem)
    assert (outcome.missing, outcome.signature) == (False, b"")


@pytest.mark.parametrize("case", MISSING)
def test_a_key_that_is_not_there_is_missing(searches: dict[str, Outcome], case: str) -> None:
    """Where no private key has the public half, the key is missing, and is looked for again later."""
    outcome = searches[case]
    assert re.fullmatch(r"no private key pkcs11:object=ca;type=private on partition 'tests' \(.*\)", outcome.problem)
    assert (outcome.missing, outcome.signature) == (True, b"")


@pytest.mark.parametrize(
    ("case", "there"),
    [
        ("RSA, only another key of the label", OTHER_RSA),
        ("EC, only another key of the label", OTHER_P256),
        ("EC, only another key of the label, without a public half", None),
    ],
)
def test_another_key_of_the_label_is_shown_as_what_it_is(
    searches: dict[str, Outcome], case: str, there: Private | None
) -> None:
    """Where only another key is there, it is told with its own public half, for a message that says what is wrong."""
    assert (searches[case].problem, searches[case].spki) == ("", spki_of(there) if there else b"")
    assert not signed_by(searches[case], P256)


def test_a_key_of_a_curve_that_tls_lacks_says_so(searches: dict[str, Outcome]) -> None:
    """A P-521 key of the name is told with what TLS would need for it, and what to use."""
    assert searches["EC, only a key of another curve"].problem == (
        "an elliptic curve key on secp521r1, for which TLS needs ecdsa_secp521r1_sha512, and many clients do not offer "
        "it; use P-256 or P-384"
    )


# --- logging in -------------------------------------------------------------------------------------------------------

COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000
ODD_CODES, PIN_CODES = [0x80000123, 0x05, 0x06], [0xA0, 0xA1, 0xA2, 0x1B8]
LOST_CODES = [0x30, 0x32, 0xE0, 0x190, 0xB1, 0xB3, 0x02, 0x101, 0x103]
REQUEST_CODES = [0x07, 0x54, 0x200]
OF_NO_PIN = [0xA3, 0xA4, 0x102]


class Login(msgspec.Struct):
    """How a login came out: the error's class name, or "" with the flags of the token; and the C_Login that it cost."""

    kind: str
    text: str
    code: int
    logins: int
    flags: list[str]


def log_in_under_rules(label: str) -> None:
    """In a child: log in under each of a list of rules, the last of which lets it succeed; print the `Login`s.

    A rule for C_GetTokenInfo ends in `after=`: it holds from the last call on, the one after the login.
    """
    faulty = FaultyModule(Path(os.environ["FAULTY_CONTROL"]).parent)
    module = Module(str(faulty.path))
    found, asked = [], 0
    for rules in msgspec.json.decode(sys.stdin.read(), type=list[list[str]]):
        faulty.rules(*(rule + str(asked - 1) if rule.endswith("after=") else rule for rule in rules))
        logins, asked_before = faulty.calls("C_Login"), faulty.calls("C_GetTokenInfo")
        token = module.token(Selector(label=label))
        kind, text, code = "", "", 0
        try:
            token.log_in(PIN)
        except HsmitmError as error:
            kind, text, code = type(error).__name__, str(error), error.code
        asked = faulty.calls("C_GetTokenInfo") - asked_before
        found.append(Login(kind, text, code, faulty.calls("C_Login") - logins, token.info.flags))
    sys.stdout.write(msgspec.json.encode(found).decode())
    sys.stdout.flush()
    os._exit(0)


@pytest.fixture(scope="module")
def logins(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Login]:
    """How a login comes out under each fault."""
    low = f"C_GetTokenInfo flags {COUNT_LOW:#x}"
    rules = {f"odd {code:#x}": [f"C_Login rv {code:#x}"] for code in ODD_CODES}
    for code in ODD_CODES:
        rules[f"odd again {code:#x}"] = [f"C_Login rv {code:#x}"]
        rules[f"odd, low since {code:#x}"] = [f"C_Login rv {code:#x}", f"{low} after="]
        rules[f"odd, low before {code:#x}"] = [f"C_Login rv {code:#x}", low]
    rules |= {f"lost, low before {code:#x}": [f"C_Login rv {code:#x}", low] for code in LOST_CODES}
    plain = [*LOST_CODES, *REQUEST_CODES, *OF_NO_PIN, *PIN_CODES, 0x100]
    rules |= {f"plain {code:#x}": [f"C_Login rv {code:#x}"] for code in plain}
    rules |= {f"flag {flag:#x}": [f"C_GetTokenInfo flags {flag:#x}"] for flag in (LOCKED, FINAL_TRY, COUNT_LOW)}
    faulty = FaultyModule(tmp_path_factory.mktemp("logins"))
    given = msgspec.json.encode(list(rules.values())).decode()
    child = run_child(log_in_under_rules, store, store.label, given=given, environment=faulty.environment(MODULE))
    assert child.returncode == 0, child.stderr
    return dict(zip(rules, msgspec.json.decode(child.stdout, type=list[Login]), strict=True))


@pytest.mark.parametrize("code", ODD_CODES)
def test_an_odd_code_at_login_may_mean_the_pin(logins: dict[str, Login], code: int) -> None:
    """A vendor's code at the login means the PIN where the token counts a wrong one since, and is never tried again."""
    plain, counted = logins[f"odd {code:#x}"], logins[f"odd, low since {code:#x}"]
    assert (plain.kind, plain.code, plain.logins) == ("LoginError", code, 1)
    assert (counted.kind, counted.code, counted.logins) == ("PinRefusedError", code, 1)
    assert counted.text == f"{plain.text}, and the token now counts a wrong PIN"
    assert "USER_PIN_COUNT_LOW" not in counted.flags


@pytest.mark.parametrize("code", ODD_CODES)
def test_an_odd_code_risks_no_further_try(logins: dict[str, Login], code: int) -> None:
    """Where the token counted a wrong PIN before, an odd code at the login is taken for another one."""
    login = logins[f"odd, low before {code:#x}"]
    assert (login.kind, login.code, login.logins) == ("PinRefusedError", code, 1)


@pytest.mark.parametrize("code", LOST_CODES)
def test_a_lost_device_at_login_may_mean_the_pin(logins: dict[str, Login], code: int) -> None:
    """Tokens say a wrong PIN in words of a lost session or device, too: nobody repeats that login, and where the token
    counts a wrong PIN it is one."""
    plain, counted = logins[f"plain {code:#x}"], logins[f"lost, low before {code:#x}"]
    assert (plain.kind, plain.code, plain.logins) == ("LoginError", code, 1)
    assert (counted.kind, counted.code, counted.logins) == ("PinRefusedError", code, 1)


@pytest.mark.parametrize("code", [*PIN_CODES, *REQUEST_CODES])
def test_a_refused_pin_is_called_so(logins: dict[str, Login], code: int) -> None:
    """Every code that names the PIN, or says that this login cannot be, refuses it, with one C_Login."""
    login = logins[f"plain {code:#x}"]
    assert (login.kind, login.code, login.logins) == ("PinRefusedError", code, 1)


@pytest.mark.parametrize("code", OF_NO_PIN)
def test_a_pin_that_is_locked_or_not_set_is_not_called_wrong(logins: dict[str, Login], code: int) -> None:
    """What a token says of any PIN is not held against the one that was given, which may be right."""
    login = logins[f"plain {code:#x}"]
    assert (login.kind, login.code, login.logins) == ("LoginError", code, 1)


def test_a_login_that_was_made_already_is_one(logins: dict[str, Login]) -> None:
    """Where a module says that the user is logged in already, the member goes on."""
    login = logins["plain 0x100"]
    assert (login.kind, login.text, login.logins) == ("", "", 1)


@pytest.mark.parametrize(
    ("flag", "text"), [(LOCKED, "is locked; its security officer"), (FINAL_TRY, "one more wrong PIN locks it")]
)
def test_the_last_try_is_left_to_the_operator(logins: dict[str, Login], flag: int, text: str) -> None:
    """A partition that is locked, or one wrong PIN from it, is not logged in to, and the PIN is not called wrong."""
    login = logins[f"flag {flag:#x}"]
    assert (login.kind, login.logins) == ("MisconfiguredError", 0)
    assert text in login.text


def test_a_low_count_alone_does_not_stop_a_login(logins: dict[str, Login]) -> None:
    """A partition that counted a wrong PIN is logged in to, and the operator can see the flag."""
    login = logins[f"flag {COUNT_LOW:#x}"]
    assert (login.kind, login.text, login.logins) == ("", "", 1)
    assert "USER_PIN_COUNT_LOW" in login.flags
