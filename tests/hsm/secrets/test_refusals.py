"""The PINs that a token refused: none is tried twice, and none can be read from what remembers it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from hsm.errors import LoginError, MisconfiguredError, PinRefusedError
from hsm.secrets.refusals import Refusals
from tests.hsm.secrets.secret import SECRET, told


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    """The signer's memory of refused PINs, new."""
    found = Refusals(tmp_path / "state" / "hsmitm")
    found.prepare()
    return found


def refuse(refusals: Refusals, member: str, pin: str, place: str = "") -> None:
    """The token refuses this PIN."""
    attempt = refusals.begin(member, pin, place)
    attempt.refused()
    attempt.close()


def test_a_refused_pin_is_not_tried_again(refusals: Refusals, tmp_path: Path) -> None:
    """A PIN that a token refused is refused by us from then on, after a restart too; another PIN is a new try."""
    refusals.check("m1", SECRET)
    refuse(refusals, "m1", SECRET)
    for one in (refusals, Refusals(tmp_path / "state" / "hsmitm")):
        with pytest.raises(PinRefusedError, match=f"remove {one.path('m1')}") as caught:
            one.check("m1", SECRET)
        assert "4711" not in told(caught.value)
        with pytest.raises(PinRefusedError):
            one.begin("m1", SECRET)
        assert not one.tried_path("m1").exists()
        one.check("m1", f"{SECRET}x")
        one.check("m2", SECRET)
        one.check("m1", SECRET, "another partition")


def test_an_accepted_pin_clears_the_memory(refusals: Refusals) -> None:
    """Once the token accepts a PIN, or the operator removes the file, nothing is held against any PIN."""
    refuse(refusals, "m1", "0815")
    attempt = refusals.begin("m1", SECRET)
    attempt.accepted()
    attempt.close()
    refusals.check("m1", "0815")
    assert list(refusals.path("m1").parent.iterdir()) == []


def test_the_last_refused_pin_counts(refusals: Refusals) -> None:
    """After two wrong PINs the second one is refused; the file does not grow."""
    refuse(refusals, "m1", SECRET)
    size = refusals.path("m1").stat().st_size
    refuse(refusals, "m1", "0815")
    assert refusals.path("m1").stat().st_size == size
    refusals.check("m1", SECRET)
    with pytest.raises(PinRefusedError):
        refusals.check("m1", "0815")


def test_the_memory_gives_no_pin_away(refusals: Refusals) -> None:
    """The file is the signer's alone, holds no PIN, and says not even whether two members share one."""
    for member in ("m1", "m2"):
        refuse(refusals, member, SECRET)
        assert stat.S_IMODE(refusals.path(member).stat().st_mode) == 0o600
        assert "4711" not in refusals.path(member).read_text()
    assert stat.S_IMODE(refusals.path("m1").parent.stat().st_mode) == 0o700
    assert refusals.path("m1").read_text() != refusals.path("m2").read_text()


def test_a_memory_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    """Without a place to remember refused PINs the signer does not start: a restart loop would lock the partition."""
    (tmp_path / "file").touch()
    with pytest.raises(MisconfiguredError, match=r"cannot make the state directory .*/file/state: Not a directory"):
        Refusals(tmp_path / "file" / "state").prepare()
    with pytest.raises(MisconfiguredError, match="cannot make the state directory"):
        Refusals(tmp_path / "file").prepare()


@pytest.mark.parametrize(
    "content",
    [b"", b"00", b"zz:11", "00:\u00e9".encode(), b"\xff\xfe:\xff", b"00:" + b"0" * 128 + b":x:y", None],
    ids=["empty", "cut off", "no salt", "not ASCII", "binary", "no number", "directory"],
)
def test_a_memory_that_cannot_be_read_is_not_taken_for_none(refusals: Refusals, content: bytes | None) -> None:
    """A spoilt file may mean this very PIN: nothing is tried until the operator removed it."""
    path = refusals.path("m1")
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(MisconfiguredError, match=str(path)):
        refusals.check("m1", SECRET)


def test_what_an_earlier_version_remembered_counts(refusals: Refusals) -> None:
    """A PIN that a token refused before the update is not tried after it."""
    salt = "00112233445566778899aabbccddeeff"
    digest = hashlib.scrypt(SECRET.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1).hex()
    refusals.path("m1").write_text(f"{salt}:{digest}\n")
    with pytest.raises(PinRefusedError, match="refused this PIN before"):
        refusals.check("m1", SECRET, "any partition")
    refusals.check("m1", "0815", "any partition")


def test_a_try_without_an_answer_is_repeated_once(refusals: Refusals) -> None:
    """A PIN whose try had no answer is tried once more, and then only for an operator, each time he asks."""
    for _ in range(2):
        refusals.check("m1", SECRET)
        refusals.begin("m1", SECRET).close()
    for held in (refusals.check, refusals.begin):
        with pytest.raises(LoginError, match=r"2 logins with .* run 'hsmitm hsm reset m1', or remove .*m1.pin-tried"):
            held("m1", SECRET)
    refusals.begin("m1", SECRET, asked=True).close()
    with pytest.raises(LoginError, match="3 logins with"):
        refusals.check("m1", SECRET)
    refusals.begin("m1", "0815").close()


def test_a_wrong_pin_that_the_token_counts_was_the_one_without_an_answer(refusals: Refusals) -> None:
    """Where the token counts a wrong PIN since a try without an answer, that PIN is taken for refused."""
    refusals.begin("m1", "0815", counted=True).close()
    refusals.begin("m1", SECRET, counted=True).close()
    with pytest.raises(PinRefusedError, match="refused this PIN before"):
        refusals.begin("m1", SECRET, counted=True, asked=True)
    assert not refusals.tried_path("m1").exists()


def test_a_try_that_says_nothing_of_the_pin_is_the_last(refusals: Refusals) -> None:
    """After an answer that names no PIN the same one is tried for an operator alone, who reads what it was."""
    attempt = refusals.begin("m1", SECRET)
    attempt.unclear("CKR_DEVICE_ERROR (0x30)\nwhile logging in")
    attempt.close()
    with pytest.raises(LoginError, match=r"\(CKR_DEVICE_ERROR \(0x30\) while logging in\); it is not tried again"):
        refusals.check("m1", SECRET)
    refusals.check("m1", SECRET, asked=True)


def test_a_try_that_was_not_made_leaves_nothing(refusals: Refusals) -> None:
    """A login that ended before the PIN left us is no try, whatever was noted before it."""
    attempt = refusals.begin("m1", SECRET)
    attempt.undo()
    attempt.close()
    assert not refusals.tried_path("m1").exists()
    refusals.begin("m1", SECRET).close()
    before = refusals.tried_path("m1").read_text()
    attempt = refusals.begin("m1", SECRET)
    attempt.undo()
    attempt.close()
    assert refusals.tried_path("m1").read_text() == before
