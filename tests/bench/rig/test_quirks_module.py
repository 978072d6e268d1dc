"""Every quirk of the quirks module, seen once on a real SoftHSM partition through raw calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from bench.rig.quirks_module import QuirksModule
from tests.bench.rig.raw import USER, RawModule, Template
from tests.softhsm import MODULE, PIN, Store

CLASS, LABEL, ID, EXPONENT, POINT, SIGN, VERIFY, BITS, CURVE = 0, 3, 0x102, 0x122, 0x181, 0x108, 0x10A, 0x121, 0x180
RSA_PAIR, RSA, SHA256_RSA, PSS, X9_31_PAIR, EC_PAIR, ECDSA = 0, 1, 0x40, 0xD, 0xA, 0x1040, 0x1041
CKF_SIGN, LOGIN_REQUIRED = 0x800, 4
PUBLIC, PRIVATE = (2).to_bytes(8, "little"), (3).to_bytes(8, "little")
P256 = bytes.fromhex("06082a8648ce3d030107")
WRONG = "wrong-pin-0815"


class Rig:
    """A partition behind a quirks module, with a process that calls it."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.module = QuirksModule(directory)
        self.raw = self.process()

    def process(self) -> RawModule:
        """One process more."""
        return RawModule(self.module.path, self.store.environment | self.module.environment(MODULE))

    def ask(self, name: str, *arguments: Any) -> Any:
        """One raw call."""
        return self.raw.ask(name, *arguments)

    def slot(self) -> int:
        """Of the partition."""
        return next(one for one in self.ask("slots") if self.ask("token", one)[1] == self.store.label)

    def session(self) -> int:
        """A new one, logged in."""
        session: int = self.ask("open", self.slot())[1]
        assert self.ask("login", session, PIN) in {0, 0x100}
        return session

    def find(self, session: int, label: str, kind: bytes = PRIVATE) -> list[int]:
        """Halves of a key."""
        found: list[int] = self.ask("find", session, [(CLASS, kind), (LABEL, label.encode())])
        return found


@pytest.fixture
def rig(store: Store, tmp_path: Path) -> Iterator[Rig]:
    """The shared partition behind a quirks module of this test's own, initialised as it should be."""
    rig = Rig(store, tmp_path / "hsm")
    with rig.raw:
        assert rig.ask("initialize") == 0
        yield rig


def ec_pair(rig: Rig, session: int, *public: tuple[int, bytes], private: Template | None = None) -> int:
    """The code of making a P-256 pair of session objects with more attributes."""
    code: int = rig.ask("generate", session, EC_PAIR, [(CURVE, P256), *public], private or [])[0]
    return code


# --- mechanisms -------------------------------------------------------------------------------------------------------


def test_a_mechanism_is_missing(rig: Rig) -> None:
    """It is neither listed nor known, and cannot be used; the others can."""
    slot, session = rig.slot(), rig.session()
    key = rig.find(session, "rsa")[0]
    assert PSS in rig.ask("mechanisms", slot)[1]
    with rig.module.quirk("missing CKM_RSA_PKCS_PSS", "missing CKM_RSA_PKCS_KEY_PAIR_GEN"):
        assert not {PSS, RSA_PAIR} & set(rig.ask("mechanisms", slot)[1])
        assert rig.ask("mechanism_flags", slot, PSS)[0] == 0x70
        assert rig.ask("sign", session, key, PSS)[0] == 0x70
        assert rig.ask("generate", session, RSA_PAIR, [], [])[0] == 0x70
        assert rig.ask("sign", session, key, RSA)[:2] == (0, 0)


def test_a_mechanism_without_its_sign_flag(rig: Rig) -> None:
    """C_GetMechanismInfo does not say that it signs."""
    assert rig.ask("mechanism_flags", rig.slot(), RSA)[1] & CKF_SIGN
    rig.module.quirks("nosign CKM_RSA_PKCS")
    assert not rig.ask("mechanism_flags", rig.slot(), RSA)[1] & CKF_SIGN
    assert rig.ask("mechanism_flags", rig.slot(), ECDSA)[1] & CKF_SIGN


@pytest.mark.parametrize("code", [0x68, 0x70, 0x71])
def test_a_mechanism_is_listed_and_forbidden(rig: Rig, code: int) -> None:
    """The token lists it, and C_SignInit or C_Sign refuses it for one key, with any code, as often as it is asked."""
    session = rig.session()
    rsa, p256 = rig.find(session, "rsa")[0], rig.find(session, "p256")[0]
    with rig.module.quirk(f"forbid C_SignInit CKM_RSA_PKCS {code:#x} label=rsa"):
        assert [rig.ask("sign", session, rsa, RSA)[0] for _ in range(2)] == [code, code]
        assert rig.ask("sign", session, rsa, SHA256_RSA)[:2] == (0, 0)
    with rig.module.quirk(f"forbid C_Sign * {code:#x} label=rsa"):
        assert [rig.ask("sign", session, rsa, RSA)[:2] for _ in range(2)] == [(0, code)] * 2
        assert rig.ask("sign", session, p256, ECDSA)[:2] == (0, 0)
    with rig.module.quirk(f"forbid C_SignInit !0x1 {code:#x} label=rsa"):
        assert [rig.ask("sign", session, rsa, one)[0] for one in (RSA, SHA256_RSA)] == [0, code]
    with rig.module.quirk(f"forbid C_DecryptInit CKM_RSA_PKCS {code:#x}"):
        assert rig.ask("decrypt", session, rsa, RSA) == code
    assert rig.module.signed_with(SHA256_RSA) == 2


def test_ecdsa_in_der(rig: Rig) -> None:
    """An ECDSA signature is a DER SEQUENCE of two numbers."""
    session = rig.session()
    key = rig.find(session, "p256")[0]
    assert len(rig.ask("sign", session, key, ECDSA)[2]) == 64
    rig.module.quirks("ecdsa_der")
    for _ in range(8):
        r, s = decode_dss_signature(rig.ask("sign", session, key, ECDSA)[2])
        assert max(r, s) < 2**256


# --- making keys ------------------------------------------------------------------------------------------------------


def test_templates_are_refused(rig: Rig) -> None:
    """An attribute, an id of eight bytes, CK_FALSE, or any public template at all is refused with a code."""
    session = rig.session()
    assert ec_pair(rig, session, (ID, bytes(8)), (VERIFY, b"\1")) == 0
    with rig.module.quirk("template public CKA_VERIFY 0xD1"):
        assert ec_pair(rig, session, (VERIFY, b"\1")) == 0xD1
        assert ec_pair(rig, session, private=[(VERIFY, b"\1")]) != 0xD1
    with rig.module.quirk("template * CKA_ID 0x13 length=8"):
        assert [ec_pair(rig, session, (ID, bytes(size))) for size in (8, 4)] == [0x13, 0]
        assert ec_pair(rig, session, private=[(ID, bytes(8))]) == 0x13
    with rig.module.quirk("template * * 0xD1 false"):
        assert [ec_pair(rig, session, private=[(SIGN, one)]) for one in (b"\0", b"\1")] == [0xD1, 0]
    with rig.module.quirk("template public * 0xD1"):
        assert ec_pair(rig, session) == 0xD1
    with rig.module.quirk("template object CKA_LABEL 0xD1"):
        assert rig.ask("create", session, [(LABEL, b"x")]) == 0xD1


def test_keys_without_a_public_template(rig: Rig) -> None:
    """Where none is taken, the module itself knows what to make."""
    session = rig.session()
    assert rig.ask("generate", session, RSA_PAIR, [], [])[0] == 0xD0
    rig.module.quirks("template public * 0xD1", "generates")
    assert rig.ask("generate", session, RSA_PAIR, [], [])[0] == 0
    assert rig.ask("generate", session, EC_PAIR, [], [])[0] == 0


def test_another_mechanism_makes_rsa_keys(rig: Rig) -> None:
    """Luna's FIPS mode: the usual mechanism is missing, X9.31 is there and works."""
    session, slot = rig.session(), rig.slot()
    public = [(BITS, (2048).to_bytes(8, "little")), (EXPONENT, b"\1\0\1")]
    rig.module.quirks("missing CKM_RSA_PKCS_KEY_PAIR_GEN", "maps CKM_RSA_X9_31_KEY_PAIR_GEN CKM_RSA_PKCS_KEY_PAIR_GEN")
    assert X9_31_PAIR in rig.ask("mechanisms", slot)[1]
    assert rig.ask("mechanism_flags", slot, X9_31_PAIR)[0] == 0
    assert [rig.ask("generate", session, one, public, [])[0] for one in (RSA_PAIR, X9_31_PAIR)] == [0x70, 0]


def test_no_random_numbers(rig: Rig) -> None:
    """C_GenerateRandom is not there, or gives no less than some bytes."""
    with rig.module.quirk("answer C_GenerateRandom 0x54"):
        assert rig.ask("random", 16) == 0x54
    with rig.module.quirk("least_random 8 0x7"):
        assert [rig.ask("random", size) for size in (7, 8)] == [7, 0]


# --- slots ------------------------------------------------------------------------------------------------------------


def test_a_slot_that_fails(rig: Rig) -> None:
    """There is one slot more, and it answers with an error: to every call, or to one."""
    slots, slot = rig.ask("slots"), rig.slot()
    with rig.module.quirk("extra_slot 0x30 first"):
        bad, *others = rig.ask("slots")
        assert others == slots
        assert rig.ask("token", bad)[0] == rig.ask("mechanisms", bad)[0] == rig.ask("open", bad)[0] == 0x30
        assert rig.ask("token", slot)[0] == 0
    with rig.module.quirk("extra_slot 0x30 only=C_GetMechanismList"):
        *others, bad = rig.ask("slots")
        assert others == slots
        assert (rig.ask("token", bad)[0], rig.ask("mechanisms", bad)[0]) == (0, 0x30)
    with rig.module.quirk("slot_fails 0xE0 label=tests"):
        assert rig.ask("token", slot)[0] == 0xE0
        assert all(rig.ask("token", one)[0] == 0 for one in slots if one != slot)


def test_slots_that_come_late(rig: Rig) -> None:
    """A token is away until it is there; or nothing is there until the module was initialised often enough."""
    slots, slot = rig.ask("slots"), rig.slot()
    with rig.module.quirk("slot_hidden label=tests"):
        assert rig.ask("slots") == [one for one in slots if one != slot]
    with rig.module.quirk("slot_hidden"):
        assert rig.ask("slots") == []
    with rig.module.quirk("late 2"):
        assert rig.ask("slots") == []
        for seen in (False, True):
            with rig.process() as other:
                assert other.ask("initialize") == 0
                assert bool(other.ask("slots")) == seen
    assert rig.ask("slots") == slots


# --- login ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x07, 0x30, 0x101, 0x200, 0xB3, 0xA4])
def test_a_wrong_pin_is_answered_otherwise(rig: Rig, code: int) -> None:
    """A wrong PIN gets any code, and the token says that its count is low until the right one comes."""
    rig.module.quirks(f"wrong_pin {code:#x} flags=0x20000")
    session = rig.ask("open", rig.slot())[1]
    assert [rig.ask("login", session, WRONG) for _ in range(2)] == [code, code]
    assert rig.ask("token", rig.slot())[2] & 0x20000
    assert (rig.module.wrong_pins, rig.module.calls("C_Login")) == (2, 2)
    assert rig.ask("login", session, PIN) == 0
    assert not rig.ask("token", rig.slot())[2] & 0x20000


def test_every_login_is_answered_so(rig: Rig) -> None:
    """A PIN that has expired, is locked, or was never set: whatever PIN comes, the code is the same."""
    rig.module.quirks("login 0x102 flags=0x80000")
    assert rig.ask("login", rig.ask("open", rig.slot())[1], PIN) == 0x102
    assert rig.ask("token", rig.slot())[2] & 0x80000


def test_token_flags_and_limits(rig: Rig) -> None:
    """The token says what flags it is told to, and its limit of sessions is any number."""
    rig.module.quirks("token_flags set=0x40000 clear=0x4", "sessions 18446744073709551614")
    _, _, flags, limit = rig.ask("token", rig.slot())
    assert (flags & 0x40004, limit) == (0x40000, 2**64 - 2)


def test_no_login_is_needed(rig: Rig) -> None:
    """Keys are there without a login, the token says that it needs none, and C_Login is answered with a code."""
    rig.module.quirks(f"no_login {PIN} 0x102")
    sessions = [rig.ask("open", rig.slot(), 0)[1] for _ in range(2)]
    assert all(rig.find(one, "rsa") for one in sessions)
    assert not rig.ask("token", rig.slot())[2] & LOGIN_REQUIRED
    assert rig.ask("login", sessions[0], PIN) == 0x102


def test_the_empty_pin(rig: Rig) -> None:
    """The empty PIN is right, and every other one is wrong."""
    rig.module.quirks(f"empty_pin {PIN}")
    session = rig.ask("open", rig.slot())[1]
    assert [rig.ask("login", session, one) for one in (PIN, "")] == [0xA0, 0]
    assert rig.find(session, "rsa")


def test_a_pin_pad(rig: Rig) -> None:
    """A PIN is typed at the HSM where C_Login brings none, and the token says that it has a pad."""
    rig.module.quirks(f"pin_pad {PIN}")
    session = rig.ask("open", rig.slot())[1]
    assert rig.ask("token", rig.slot())[2] & 0x100
    assert [rig.ask("login", session, one) for one in (WRONG, None)] == [0xA0, 0]
    assert rig.find(session, "rsa")


def test_another_user_type(rig: Rig) -> None:
    """Luna's Crypto User logs in as 0x80000001; CKU_USER is no user type there."""
    rig.module.quirks("user_type 0x80000001")
    session = rig.ask("open", rig.slot())[1]
    assert [rig.ask("login", session, PIN, one) for one in (USER, 0x80000001)] == [0x103, 0]


def test_read_only_sessions_are_refused(rig: Rig) -> None:
    """Sessions must be read-write."""
    rig.module.quirks("read_write 0xB5")
    assert [rig.ask("open", rig.slot(), flags)[0] for flags in (0, 2)] == [0xB5, 0]


# --- objects ----------------------------------------------------------------------------------------------------------


def test_attributes_are_otherwise(rig: Rig) -> None:
    """An attribute of one half cannot be read, is empty or is another; a search goes by what is shown."""
    session = rig.session()
    key, other = rig.find(session, "rsa")[0], rig.find(session, "p256")[0]
    public = rig.find(session, "rsa", PUBLIC)[0]
    real_id = rig.ask("attribute", session, key, ID)[1]
    with rig.module.quirk("attribute private CKA_PUBLIC_EXPONENT unreadable label=rsa"):
        assert rig.ask("attribute", session, key, EXPONENT) == (0x12, None)
        assert rig.ask("attribute", session, public, EXPONENT) == (0, b"\1\0\1")
    with rig.module.quirk("attribute * CKA_PUBLIC_EXPONENT sensitive"):
        assert rig.ask("attribute", session, public, EXPONENT) == (0x11, None)
    with rig.module.quirk("attribute private CKA_ID empty", "attribute public CKA_EC_POINT flip"):
        assert rig.ask("attribute", session, other, ID) == (0, b"")
        half = rig.find(session, "p256", PUBLIC)[0]
        shown = rig.ask("attribute", session, half, POINT)[1]
        rig.module.quirks()
        assert shown != rig.ask("attribute", session, half, POINT)[1]
    with rig.module.quirk("attribute * CKA_LABEL is else label=rsa", "attribute private CKA_ID is 0x0102 label=rsa"):
        assert rig.find(session, "rsa") == []
        assert rig.find(session, "else") == [key]
        assert rig.ask("find", session, [(ID, b"\1\2")]) == [key]
    with rig.module.quirk("attribute * CKA_LABEL hexid"):
        assert rig.find(session, real_id.hex()) == [key]


def test_objects_are_hidden(rig: Rig) -> None:
    """Public objects, or those of one label, are not found."""
    session = rig.session()
    with rig.module.quirk("hide public label=p256"):
        assert rig.find(session, "p256", PUBLIC) == []
        assert len(rig.find(session, "p256")) == len(rig.find(session, "rsa", PUBLIC)) == 1
    with rig.module.quirk("hide public"):
        assert rig.ask("find", session, [(CLASS, PUBLIC)]) == []


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_serial_and_slow(rig: Rig) -> None:
    """Signatures take their time, and where the HSM does one at a time four take four times as long."""
    sessions = [rig.session() for _ in range(4)]
    key = rig.find(sessions[0], "rsa")[0]
    taken = []
    for quirks in (["slow 100"], ["slow 100", "serial"]):
        rig.module.quirks(*quirks)
        began = time.monotonic()
        assert rig.ask("sign_at_once", sessions, key, RSA) == [0] * 4
        taken.append(time.monotonic() - began)
    assert 0.1 <= taken[0] < 0.3
    assert taken[1] >= 0.4
    assert rig.module.most_at_once == 4


def test_initialised_without_locking(rig: Rig) -> None:
    """As tpm2-pkcs11: once it came without locking, calls at the same time fail for good; else they do not."""
    sessions = [rig.session() for _ in range(4)]
    key = rig.find(sessions[0], "rsa")[0]
    rig.module.quirks("unlocked 0x5", "slow 100")
    assert rig.ask("sign_at_once", sessions, key, RSA) == [0] * 4
    assert rig.module.initialized_without_locking == 0
    assert [rig.ask("finalize"), rig.ask("initialize", False), rig.ask("finalize"), rig.ask("initialize")] == [0] * 4
    sessions = [rig.session() for _ in range(4)]
    key = rig.find(sessions[0], "rsa")[0]
    assert 5 in rig.ask("sign_at_once", sessions, key, RSA)
    assert rig.module.initialized_without_locking == 1


def test_the_first_initialisations_fail(rig: Rig) -> None:
    """A service that comes late: the first few C_Initialize fail, whichever process calls."""
    rig.module.quirks("initialize 0x5 2")
    for code in (5, 5, 0):
        with rig.process() as other:
            assert other.ask("initialize") == code


def test_another_function_list(rig: Rig) -> None:
    """Each C_GetFunctionList gives another pointer."""
    assert rig.ask("pointers") == 1
    rig.module.quirks("another_list")
    assert rig.ask("pointers") == 2


@pytest.mark.parametrize(
    "line",
    [
        "", "mising CKM_RSA_PKCS", "missing", "missing CKM_RSA", "missing CKM_RSA_PKCS label=rsa",
        "forbid C_Sign * 112", "forbid C_Verify * 0x70", "slow", "slow 0x5", "slow 5 flags=0x1", "login 0x7 flags=1",
        "slow 5 only=C_Sing", "attribute private CKA_ID gone", "attribute private CKA_ID is",
        "template them CKA_ID 0xD1", "login 0x7 again",
    ],
)  # fmt: skip
def test_a_wrong_line_is_loud(rig: Rig, line: str) -> None:
    """A quirk that cannot be understood ends the process that reads it."""
    rig.module.quirks("serial", line)
    with pytest.raises(BrokenProcessPool):
        rig.ask("slots")
