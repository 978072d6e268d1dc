"""Return codes of vendors' own: what an operator may write, what is known of Luna, and how it travels."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm import codes, vendor_codes
from hsm.codes import Kind
from hsm.errors import (
    HsmitmError,
    MemberLostError,
    MisconfiguredError,
    PinRefusedError,
    RefusedError,
    SessionLostError,
    from_wire,
)
from hsm.wire import frames
from hsm.wire.frames import Answer
from hsm.wire.member import CODEC

CODE = 0x80000383
WORDS: list[tuple[str, Kind, type[HsmitmError]]] = [
    ("busy", Kind.BUSY, MemberLostError),
    ("lost", Kind.PROCESS, MemberLostError),
    ("device", Kind.DEVICE, MemberLostError),
    ("session", Kind.SESSION, SessionLostError),
    ("refused", Kind.REQUEST, RefusedError),
    ("pin", Kind.PIN, PinRefusedError),
    ("ambiguous", Kind.AMBIGUOUS, MemberLostError),
]


@pytest.mark.parametrize(("word", "kind", "family"), WORDS, ids=[word for word, _, _ in WORDS])
def test_each_word_is_a_kind(word: str, kind: Kind, family: type[HsmitmError]) -> None:
    """An operator's word for a code decides which error it is in the member process and what the signer makes of it."""
    assert vendor_codes.row("0x80000383", word) == (CODE, kind)
    error = codes.error(CODE, "signing", {CODE: kind})
    assert type(error) is family
    assert str(error) == "PKCS#11 code 0x80000383 while signing"
    (told,) = CODEC.answered().feed(frames.encode(frames.fault(7, error)))
    assert not isinstance(told, Answer)
    arrived = from_wire(told.kind, told.message, told.code, told.calls_for)
    assert (type(arrived), arrived.code, codes.called_for(arrived)) == (family, CODE, kind)


def test_every_word_is_shown() -> None:
    """No word is offered that the table above does not explain."""
    assert [word for word, _, _ in WORDS] == list(get_args(vendor_codes.Word))


@pytest.mark.parametrize(
    ("code", "word", "why"),
    [
        ("383", "busy", "'383' is no return code; write it as the vendor's header does, like \"0x80000383\""),
        ("2147484547", "busy", "'2147484547' is no return code"),
        ("CKR_BUSY", "busy", "'CKR_BUSY' is no return code"),
        ("0x", "busy", "'0x' is no return code"),
        ("0x8000zz", "busy", "'0x8000zz' is no return code"),
        ("0x-80000383", "busy", "'0x-80000383' is no return code"),
        ("", "busy", "'' is no return code"),
        ("0x30", "busy", "0x30 is no code of a vendor's own; those begin at 0x80000000"),
        ("0x7fffffff", "busy", "0x7fffffff is no code of a vendor's own"),
        ("0x10000000000000000", "busy", "0x10000000000000000 is no code of a vendor's own"),
        (
            "0x80000383",
            "later",
            "'later' for 0x80000383 is none of busy, lost, device, session, refused, pin, ambiguous",
        ),
    ],
)
def test_a_wrong_row_is_refused(code: str, word: str, why: str) -> None:
    """What is no vendor's code, or no word, is told with what would be right."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared
        vendor_codes.row(code, word)
    assert str(caught.value).startswith(why)


@given(st.integers(vendor_codes.FIRST, vendor_codes.LAST), st.sampled_from(get_args(vendor_codes.Word)))
def test_every_vendors_code_can_be_written(code: int, word: str) -> None:
    """Any code that a vendor may use is taken, in either case of its digits."""
    assert vendor_codes.row(f"0x{code:x}", word) == vendor_codes.row(f"0X{code:X}", word)
    assert vendor_codes.row(f"0x{code:x}", word)[0] == code


def test_a_code_of_the_standard_stays_what_it_is() -> None:
    """No row can make a wrong PIN a busy token."""
    assert type(codes.error(0xA0, "logging in", {0xA0: Kind.BUSY})) is PinRefusedError


@pytest.mark.parametrize("description", ["Chrystoki", "CHRYSTOKI 10.3", "LunaSA 7.4.0", "Luna K7"])
def test_luna_is_known(description: str) -> None:
    """A Luna's own codes have their meaning without any configuration, and each is a vendor's code."""
    rows = vendor_codes.built_in(description)
    assert (rows[0x80001604], rows[0x80001605], rows[0x80000067]) == (Kind.BUSY, Kind.PROCESS, Kind.PIN)
    for code in rows:
        vendor_codes.check(code)
    assert isinstance(codes.error(0x8000008D, "signing", rows), MisconfiguredError)


@pytest.mark.parametrize("description", ["SoftHSM v2", "nCipher Corp. Ltd", "CloudHSM", "CryptoServer PKCS#11", ""])
def test_others_have_no_rows(description: str) -> None:
    """The codes of one vendor are not read as another's."""
    assert vendor_codes.built_in(description) == {}


def test_a_word_of_a_newer_process_is_ambiguous() -> None:
    """A process of another version may know more kinds: nobody is blamed for what we do not understand."""
    assert codes.called_for(from_wire("MemberLostError", "failed", CODE, "quantum")) is Kind.AMBIGUOUS
