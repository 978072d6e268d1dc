"""Logs of connections: what is read, and what is refused with its line."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.arrival_log import Arrival, arrival, load, read
from hsm.errors import MisconfiguredError

_NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1763640000 example.com", Arrival(1763640000, "example.com")),
        ("1763640000.25,example.com\n", Arrival(1763640000.25, "example.com")),
        ("1763640000\texample.com", Arrival(1763640000, "example.com")),
        ("  1763640000 ,\t example.com  \r\n", Arrival(1763640000, "example.com")),
        ("2026-11-20T12:00:00Z example.com", Arrival(_NOON, "example.com")),
        ("2026-11-20T13:00:00+01:00 example.com", Arrival(_NOON, "example.com")),
        ("2026-11-20T12:00:00 example.com", Arrival(_NOON, "example.com")),
        ("2026-11-20 12:00:00 example.com", Arrival(_NOON, "example.com")),
        ("2026-11-20 12:00:00.5,example.com", Arrival(_NOON + 0.5, "example.com")),
        ("0 Example.COM.", Arrival(0, "example.com")),
        ("0 bücher.example", Arrival(0, "xn--bcher-kva.example")),
        ("0 [2001:DB8::1]", Arrival(0, "2001:db8::1")),
    ],
)
def test_line(line: str, expected: Arrival) -> None:
    """A time as ISO 8601 or seconds since the epoch; white space, comma or tab; the host as a leaf would carry it."""
    assert arrival(line) == expected


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("example.com", "1 fields"),
        ("0 example.com GET", "3 fields"),
        ("yesterday example.com", "'yesterday' is not an ISO 8601 time"),
        ("2026-13-01 example.com", "is not an ISO 8601 time"),
        ("nan example.com", "'nan' is not"),
        ("inf example.com", "'inf' is not"),
        ("-5 example.com", "'-5' is not"),
        ("1763640000000 example.com", "not milliseconds"),
        ("0 example.com:443", "is no part of a host name"),
        ("0 https://example.com/", "is no part of a host name"),
        ("0 -", "is no part of a host name"),
        ("0 \ufffd.example", "has no IDNA form"),
    ],
)
def test_refused(line: str, why: str) -> None:
    """What is no time or no host is refused, with the number of its line and the reason; the others are used."""
    found = read(["# a comment", "", "0 before.example", line, "9 after.example"])
    assert [one.host for one in found.arrivals] == ["before.example", "after.example"]
    (refused,) = found.refused
    assert refused.number == 4
    assert why in str(refused)


def test_order() -> None:
    """Lines that are out of order are put in order, and counted."""
    found = read(["5 b.example", "3 a.example", "7 c.example"])
    assert [one.at for one in found.arrivals] == [3, 5, 7]
    assert found.disordered == 1


@given(st.lists(st.text(max_size=40), max_size=20))
def test_any_lines(lines: list[str]) -> None:
    """Whatever stands in the file: each line is used, refused, or none, and nothing else happens."""
    found = read(lines)
    assert len(found.arrivals) + len(found.refused) <= len(lines)
    assert all(math.isfinite(one.at) for one in found.arrivals)


def test_file(tmp_path: Path) -> None:
    """A file that is not there, is empty or holds nothing of use ends the plan with a sentence; odd bytes do not."""
    path = tmp_path / "log"
    with pytest.raises(MisconfiguredError, match="No such file"):
        load(path)
    path.write_text("# nothing\n")
    with pytest.raises(MisconfiguredError, match="no lines; write one TIME HOST"):
        load(path)
    path.write_text("GET /\n" * 5)
    with pytest.raises(MisconfiguredError, match="no line could be used: line 1: 'GET'"):
        load(path)
    path.write_bytes(b"\xef\xbb\xbf1 a.example\n2 \xff.example\n")
    assert [one.host for one in load(path).arrivals] == ["a.example"]
