"""PKCS#11 return codes: what each calls for, and the errors they become."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pkcs11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.rig.faulty_module import FaultyModule
from hsm import codes
from hsm.codes import _CLASSES, Kind
from hsm.errors import (
    HsmitmError,
    LoginError,
    MemberLostError,
    MisconfiguredError,
    PinRefusedError,
    RefusedError,
    SessionLostError,
)
from hsm.token.module import Module
from hsm.wire.member import Selector
from tests.softhsm import MODULE, PIN, Store

ROOT = Path(__file__).parents[2]

ROWS: list[tuple[Kind, dict[str, int]]] = [
    # once more on a new session
    (Kind.SESSION, {"SESSION_HANDLE_INVALID": 0xB3, "SESSION_CLOSED": 0xB0}),
    (Kind.SESSION, {"OPERATION_ACTIVE": 0x90, "OPERATION_NOT_INITIALIZED": 0x91}),
    (Kind.SESSION, {"OBJECT_HANDLE_INVALID": 0x82, "KEY_HANDLE_INVALID": 0x60}),
    (Kind.SESSION, {"BUFFER_TOO_SMALL": 0x150}),
    # a process of its own logs in again, or initialises, or finds its slot again
    (Kind.PROCESS, {"USER_NOT_LOGGED_IN": 0x101, "USER_ALREADY_LOGGED_IN": 0x100}),
    (Kind.PROCESS, {"DEVICE_REMOVED": 0x32, "TOKEN_NOT_PRESENT": 0xE0}),
    (Kind.PROCESS, {"TOKEN_NOT_RECOGNIZED": 0xE1, "SLOT_ID_INVALID": 0x03}),
    (Kind.PROCESS, {"CRYPTOKI_NOT_INITIALIZED": 0x190, "CRYPTOKI_ALREADY_INITIALIZED": 0x191}),
    (Kind.PROCESS, {"HOST_MEMORY": 0x02, "MUTEX_BAD": 0x1A0, "MUTEX_NOT_LOCKED": 0x1A1}),
    # a peer, at once, and the member is blamed
    (Kind.DEVICE, {"DEVICE_ERROR": 0x30}),
    (Kind.DEVICE, {"RANDOM_NO_RNG": 0x121, "RANDOM_SEED_NOT_SUPPORTED": 0x120}),
    # a peer, and fewer sessions here
    (Kind.BUSY, {"SESSION_COUNT": 0xB1}),
    (Kind.BUSY, {"DEVICE_MEMORY": 0x31, "TOKEN_RESOURCE_EXCEEDED": 0x201}),
    # a peer's answer tells whose fault it is
    (Kind.AMBIGUOUS, {"GENERAL_ERROR": 0x05}),
    (Kind.AMBIGUOUS, {"FUNCTION_FAILED": 0x06}),
    (Kind.AMBIGUOUS, {"FUNCTION_CANCELED": 0x50, "CANCEL": 0x01}),
    # never tried again: a partition locks
    (Kind.PIN, {"PIN_INCORRECT": 0xA0}),
    (Kind.PIN, {"PIN_LOCKED": 0xA4, "PIN_EXPIRED": 0xA3, "PIN_INVALID": 0xA1, "PIN_LEN_RANGE": 0xA2}),
    (Kind.PIN, {"USER_PIN_NOT_INITIALIZED": 0x102, "PIN_TOO_WEAK": 0x1B8}),
    # an operator must act
    (Kind.PLACE, {"CANT_LOCK": 0x0A, "NEED_TO_CREATE_THREADS": 0x09}),
    (Kind.PLACE, {"USER_TYPE_INVALID": 0x103, "USER_ANOTHER_ALREADY_LOGGED_IN": 0x104, "USER_TOO_MANY_TYPES": 0x105}),
    (Kind.PLACE, {"SESSION_EXISTS": 0xB6, "SESSION_READ_ONLY_EXISTS": 0xB7, "SESSION_READ_WRITE_SO_EXISTS": 0xB8}),
    (Kind.PLACE, {"TOKEN_WRITE_PROTECTED": 0xE2}),
    (Kind.PLACE, {"FIPS_SELF_TEST_FAILED": 0x1B6, "LIBRARY_LOAD_FAILED": 0x1B7}),
    # wrong anywhere
    (Kind.REQUEST, {"FUNCTION_REJECTED": 0x200}),
    (Kind.REQUEST, {"SESSION_READ_ONLY": 0xB5, "ATTRIBUTE_READ_ONLY": 0x10, "ACTION_PROHIBITED": 0x1B}),
    (Kind.REQUEST, {"MECHANISM_INVALID": 0x70, "FUNCTION_NOT_SUPPORTED": 0x54, "CURVE_NOT_SUPPORTED": 0x140}),
    (Kind.REQUEST, {"MECHANISM_PARAM_INVALID": 0x71, "ARGUMENTS_BAD": 0x07}),
    (Kind.REQUEST, {"KEY_TYPE_INCONSISTENT": 0x63, "KEY_SIZE_RANGE": 0x62, "KEY_FUNCTION_NOT_PERMITTED": 0x68}),
    (Kind.REQUEST, {"KEY_NOT_NEEDED": 0x64, "KEY_CHANGED": 0x65, "KEY_NEEDED": 0x66, "KEY_INDIGESTIBLE": 0x67}),
    (Kind.REQUEST, {"KEY_EXHAUSTED": 0x203}),
    (Kind.REQUEST, {"DATA_INVALID": 0x20, "DATA_LEN_RANGE": 0x21, "AEAD_DECRYPT_FAILED": 0x42}),
    (Kind.REQUEST, {"ENCRYPTED_DATA_INVALID": 0x40, "ENCRYPTED_DATA_LEN_RANGE": 0x41}),
    (Kind.REQUEST, {"SIGNATURE_INVALID": 0xC0, "SIGNATURE_LEN_RANGE": 0xC1}),
    (Kind.REQUEST, {"KEY_UNEXTRACTABLE": 0x6A, "KEY_NOT_WRAPPABLE": 0x69}),
    (Kind.REQUEST, {"WRAPPED_KEY_INVALID": 0x110, "WRAPPED_KEY_LEN_RANGE": 0x112}),
    (
        Kind.REQUEST,
        {
            "WRAPPING_KEY_HANDLE_INVALID": 0x113,
            "WRAPPING_KEY_SIZE_RANGE": 0x114,
            "WRAPPING_KEY_TYPE_INCONSISTENT": 0x115,
        },
    ),
    (
        Kind.REQUEST,
        {
            "UNWRAPPING_KEY_HANDLE_INVALID": 0xF0,
            "UNWRAPPING_KEY_SIZE_RANGE": 0xF1,
            "UNWRAPPING_KEY_TYPE_INCONSISTENT": 0xF2,
        },
    ),
    (Kind.REQUEST, {"TEMPLATE_INCOMPLETE": 0xD0, "TEMPLATE_INCONSISTENT": 0xD1, "DOMAIN_PARAMS_INVALID": 0x130}),
    (
        Kind.REQUEST,
        {"ATTRIBUTE_SENSITIVE": 0x11, "ATTRIBUTE_TYPE_INVALID": 0x12, "ATTRIBUTE_VALUE_INVALID": 0x13},
    ),
    (Kind.REQUEST, {"NO_EVENT": 0x08, "EXCEEDED_MAX_ITERATIONS": 0x1B5, "PUBLIC_KEY_INVALID": 0x1B9}),
]
"""What each code calls for, row by row as the taxonomy of HSM faults groups them, names and numbers as PKCS#11 has
them."""
EVERY = [(f"CKR_{name}", code, kind) for kind, row in ROWS for name, code in row.items()]
ERRORS: dict[Kind, type[HsmitmError]] = {
    Kind.SESSION: SessionLostError,
    Kind.PIN: PinRefusedError,
    Kind.REQUEST: RefusedError,
    Kind.PLACE: MisconfiguredError,
    Kind.BUSY: MemberLostError,
    Kind.AMBIGUOUS: MemberLostError,
    Kind.DEVICE: MemberLostError,
    Kind.PROCESS: MemberLostError,
}
STANDARD = range(1, 0x220)
"""All numbers that PKCS#11 v3.1 gives a meaning are among these."""
VENDORS = (0x80000000, 0x80000001, 0x8000003F, 0x80000123, 0xFFFFFFFF)


@pytest.mark.parametrize(("name", "code", "kind"), EVERY, ids=[name for name, _, _ in EVERY])
def test_known_code(name: str, code: int, kind: Kind) -> None:
    """Each code calls for its own step and becomes the error of that, with its name, its value and what was done."""
    assert codes.kind(code) is kind
    error = codes.error(code, "signing")
    assert type(error) is (LoginError if code in codes.OF_NO_PIN else ERRORS[kind])
    assert str(error) == f"{name} (0x{code:x}) while signing"
    assert error.code == code


def test_no_code_is_left_out() -> None:
    """No code has a meaning here that is not shown to be right, and no name stands for two codes."""
    assert {code: name for name, code, _ in EVERY} == codes.NAMES
    assert len(EVERY) == len(codes.NAMES) == len(set(codes.NAMES.values()))
    assert {kind for kind, _ in ROWS} == set(Kind) == ERRORS.keys()


@given(st.integers(1, 2**64 - 1).filter(lambda code: code not in codes.NAMES) | st.sampled_from(VENDORS))
def test_every_other_code_may_be_anybodys_fault(code: int) -> None:
    """Whatever CK_ULONG a module answers, a peer is asked, and neither the PIN nor the request is called wrong."""
    assert codes.kind(code) is Kind.AMBIGUOUS
    error = codes.error(code, "opening a session")
    assert type(error) is MemberLostError
    assert error.code == code
    assert str(error) == f"PKCS#11 code 0x{code:x} while opening a session"


def test_a_loss_without_a_code_is_the_devices() -> None:
    """A member whose socket closed under a request has failed it, whatever the request was."""
    assert codes.kind(0) is codes.kind(MemberLostError("the connection was closed").code) is Kind.DEVICE


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0x30, "CKR_DEVICE_ERROR (0x30)"),
        (0xA0, "CKR_PIN_INCORRECT (0xa0)"),
        (0x100, "CKR_USER_ALREADY_LOGGED_IN (0x100)"),
        (0x80000001, "PKCS#11 code 0x80000001"),
    ],
)
def test_name(code: int, text: str) -> None:
    """An operator reads the standard's name and the value to look up in the vendor's manual."""
    assert codes.name(code) == text


# --- what python-pkcs11 makes of them ---------------------------------------------------------------------------------


class Raised(msgspec.Struct):
    """An exception of python-pkcs11, as the code met it."""

    code: int
    kind: str
    text: str


def raise_every_code(label: str) -> None:
    """In a child: have the module answer one code after another; print what python-pkcs11 raised for each."""
    module = FaultyModule(Path(os.environ["FAULTY_CONTROL"]).parent)
    session = Module(str(module.path)).token(Selector(label=label)).log_in(PIN)._session
    raised = []
    for code in (*STANDARD, *VENDORS):
        module.rules(f"C_GenerateRandom rv {code:#x}")
        try:
            session.generate_random(8)
        except pkcs11.PKCS11Error as error:
            raised.append(Raised(code, type(error).__name__, str(error)))
    sys.stdout.write(msgspec.json.encode(raised).decode())
    sys.stdout.flush()
    os._exit(0)


@pytest.fixture(scope="module")
def raised(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Raised]:
    """What python-pkcs11 raises for every code."""
    environment = FaultyModule(tmp_path_factory.mktemp("hsm")).environment(MODULE)
    run = f"import sys; from {__name__} import raise_every_code; raise_every_code(*sys.argv[1:])"
    child = subprocess.run(
        [sys.executable, "-c", run, store.label],
        cwd=ROOT,
        env=os.environ | store.environment | environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    return msgspec.json.decode(child.stdout, type=list[Raised])


def test_every_code_is_read_from_the_librarys_exception(raised: list[Raised]) -> None:
    """No code is lost on its way through python-pkcs11, whether it has a class there, a number or only a sentence."""
    assert [one.code for one in raised] == [*STANDARD, *VENDORS]
    misread = [(hex(one.code), one.kind, one.text) for one in raised if codes.of(one.kind, one.text) != one.code]
    assert misread == []


def test_every_class_of_the_library_is_known(raised: list[Raised]) -> None:
    """The classes that stand for a code are those that python-pkcs11 raises, and no other."""
    assert {one.kind: one.code for one in raised if one.kind != "PKCS11Error"} == _CLASSES


def test_names_agree_with_python_pkcs11() -> None:
    """The library that meets a code first calls it the same; a number mistyped here would take the wrong step."""
    spelt = {"AnotherUserAlreadyLoggedIn": "UserAnotherAlreadyLoggedIn", "FunctionCancelled": "FunctionCanceled",
             "TokenNotRecognised": "TokenNotRecognized",
             "SessionReadWriteSOExists": "SessionReadWriteSo_Exists"}  # fmt: skip
    for kind, code in _CLASSES.items():
        assert issubclass(getattr(pkcs11.exceptions, kind), pkcs11.PKCS11Error)
        name = "CKR_" + re.sub("(?<=[a-z])(?=[A-Z])|(?<=ID)", "_", spelt.get(kind, kind)).upper()
        assert codes.NAMES.get(code, name) == name


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("NoSuchKey", ""),
        ("MultipleObjectsReturned", "More than 1 key"),
        ("PKCS11Error", "OS exception while loading /opt/hsm-0x31/p11.so: not found"),
        ("PKCS11Error", "something of a later version"),
        ("SomethingOfALaterVersion", ""),
    ],
)
def test_what_has_no_code_is_given_none(kind: str, text: str) -> None:
    """An exception that stands for no return code is not taken for one, whatever its text names."""
    assert codes.of(kind, text) == 0
