"""What is kept of a PIN that was tried: it tells this PIN at this place from every other, and nothing else."""

from __future__ import annotations

import pytest

from hsm.secrets.record import Record
from tests.hsm.secrets.secret import SECRET


def test_a_record_knows_its_pin_again() -> None:
    """A PIN is known again at the place where it was tried, and no other PIN or place is taken for it."""
    record = Record.parse(str(Record.of(SECRET, "module\0label 'a'").again()))
    assert record.tries == 1
    assert record.is_of(SECRET, "module\0label 'a'")
    assert not record.is_of(SECRET, "module\0label 'b'")
    assert not record.is_of(f"{SECRET}1", "module\0label 'a'")
    assert SECRET not in str(record)


def test_two_records_of_one_pin_do_not_look_alike() -> None:
    """Nobody sees in two records that they are of the same PIN."""
    assert Record.of(SECRET, "").digest != Record.of(SECRET, "").digest


@pytest.mark.parametrize("line", ["", "00", "00:11", "00:" + "0" * 128 + ":1", "zz:" + "0" * 128, "00:" + "g" * 128])
def test_what_is_no_record_is_refused(line: str) -> None:
    """A line that was cut off or spoilt is not taken for the record of some PIN."""
    with pytest.raises(ValueError):  # noqa: PT011  # of whatever kind: who reads it says the rest
        Record.parse(line)
