"""PKCS#11 return codes and the errors they become."""

from __future__ import annotations

import re
from itertools import combinations

import pkcs11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm import codes
from hsm.codes import _CLASSES
from hsm.errors import HsmitmError, MemberLostError, MisconfiguredError, PinRefusedError, RefusedError, SessionLostError

SETS: list[tuple[dict[int, str], type[HsmitmError]]] = [
    (codes.SESSION, SessionLostError),
    (codes.PIN, PinRefusedError),
    (codes.REQUEST, RefusedError),
    (codes.PLACE, MisconfiguredError),
    (codes.MEMBER, MemberLostError),
]
EVERY = [(code, kind) for known, kind in SETS for code in known]


@pytest.mark.parametrize(("code", "kind"), EVERY, ids=[codes.NAMES[code] for code, _ in EVERY])
def test_known_code(code: int, kind: type[HsmitmError]) -> None:
    """Each code becomes the error of the step that follows it, with its name, its value and what was being done."""
    error = codes.error(code, "signing")
    assert type(error) is kind
    assert str(error) == f"{codes.NAMES[code]} (0x{code:x}) while signing"
    if isinstance(error, MemberLostError):
        assert error.code == code


@pytest.mark.parametrize("code", [0x80000001, 0x80000000 | 0x3F, 0x4, 0x1A0, 0x201, codes.USER_ALREADY_LOGGED_IN])
def test_unknown_code(code: int) -> None:
    """A vendor's code, or one that no set has, loses the member and is not forgotten."""
    error = codes.error(code, "opening a session")
    assert type(error) is MemberLostError
    assert error.code == code
    assert f"0x{code:x}" in str(error)
    assert str(error).endswith("while opening a session")


@given(st.integers(0, 2**64 - 1).filter(lambda code: code not in codes.NAMES))
def test_every_other_code_loses_the_member(code: int) -> None:
    """Whatever CK_ULONG a module answers, the request goes to a peer and no PIN is called wrong."""
    error = codes.error(code, "signing")
    assert type(error) is MemberLostError
    assert error.code == code
    assert codes.name(code) == f"PKCS#11 code 0x{code:x}"


def test_sets_are_disjoint() -> None:
    """No code asks for two different steps, and no name stands for two codes."""
    for (one, _), (other, _) in combinations(SETS, 2):
        assert not one.keys() & other.keys()
    assert len(set(codes.NAMES.values())) == len(codes.NAMES)
    assert len(codes.NAMES) == len(EVERY) + 1  # CKR_USER_ALREADY_LOGGED_IN is a success that needs a name


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


def test_names_agree_with_python_pkcs11() -> None:
    """The library that meets a code first calls it the same; a number mistyped here would take the wrong step."""
    spelt = {"AnotherUserAlreadyLoggedIn": "UserAnotherAlreadyLoggedIn", "FunctionCancelled": "FunctionCanceled",
             "TokenNotRecognised": "TokenNotRecognized"}  # fmt: skip
    for kind, code in _CLASSES.items():
        assert issubclass(getattr(pkcs11.exceptions, kind), pkcs11.PKCS11Error)
        assert codes.NAMES[code] == "CKR_" + re.sub("(?<=[a-z])(?=[A-Z])|(?<=ID)", "_", spelt.get(kind, kind)).upper()
