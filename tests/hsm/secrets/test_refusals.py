"""The PINs that a token refused: none is tried twice, and none can be read from what remembers it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hsm.errors import MisconfiguredError, PinRefusedError
from hsm.secrets.refusals import Refusals
from tests.hsm.secrets.secret import SECRET, told


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    """The signer's memory of refused PINs, new."""
    found = Refusals(tmp_path / "state" / "hsmitm")
    found.prepare()
    return found


def test_a_refused_pin_is_not_tried_again(refusals: Refusals, tmp_path: Path) -> None:
    """A PIN that a token refused is refused by us from then on, after a restart too; another PIN is a new try."""
    refusals.check("m1", SECRET)
    refusals.remember("m1", SECRET)
    for one in (refusals, Refusals(tmp_path / "state" / "hsmitm")):
        with pytest.raises(PinRefusedError, match=f"remove {one.path('m1')}") as caught:
            one.check("m1", SECRET)
        assert "4711" not in told(caught.value)
        one.check("m1", f"{SECRET}x")
        one.check("m2", SECRET)


def test_an_accepted_pin_clears_the_memory(refusals: Refusals) -> None:
    """Once the token accepts a PIN, or the operator removes the file, nothing is held against any PIN."""
    refusals.remember("m1", SECRET)
    refusals.forget("m1")
    refusals.check("m1", SECRET)
    assert not refusals.path("m1").exists()
    refusals.forget("m1")


def test_the_last_refused_pin_counts(refusals: Refusals) -> None:
    """After two wrong PINs the second one is refused; the file does not grow."""
    refusals.remember("m1", SECRET)
    size = refusals.path("m1").stat().st_size
    refusals.remember("m1", "0815")
    assert refusals.path("m1").stat().st_size == size
    refusals.check("m1", SECRET)
    with pytest.raises(PinRefusedError):
        refusals.check("m1", "0815")


def test_the_memory_gives_no_pin_away(refusals: Refusals) -> None:
    """The file is the signer's alone, holds no PIN, and says not even whether two members share one."""
    for member in ("m1", "m2"):
        refusals.remember(member, SECRET)
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
    [b"", b"00", b"zz:11", "00:\u00e9".encode(), b"\xff\xfe:\xff", None],
    ids=["empty", "cut off", "no salt", "not ASCII", "binary", "directory"],
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
