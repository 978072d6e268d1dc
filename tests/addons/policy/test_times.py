"""Days and hours of a week, over midnight and over the days when clocks are changed."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest

from addons.policy.settings import When
from addons.policy.times import Week, is_over

ROME = zoneinfo.ZoneInfo("Europe/Rome")


def _at(text: str, zone: dt.tzinfo = dt.UTC) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=zone)


@pytest.mark.parametrize(
    ("days", "hours", "at", "meant"),
    [
        ("", "", "2026-03-02T00:00", True),
        ("mon-fri", "", "2026-03-06T23:59", True),
        ("mon-fri", "", "2026-03-07T00:00", False),
        ("sat,sun", "", "2026-03-08T12:00", True),
        ("Sat, Sun", "", "2026-03-08T12:00", True),
        ("fri-mon", "", "2026-03-08T12:00", True),
        ("fri-mon", "", "2026-03-03T12:00", False),
        ("", "07:00-19:00", "2026-03-02T06:59", False),
        ("", "07:00-19:00", "2026-03-02T07:00", True),
        ("", "07:00-19:00", "2026-03-02T18:59", True),
        ("", "07:00-19:00", "2026-03-02T19:00", False),
        ("", "08:00-12:00,13:00-17:00", "2026-03-02T12:30", False),
        ("", "08:00-12:00, 13:00-17:00", "2026-03-02T13:30", True),
        ("fri", "22:00-06:00", "2026-03-06T22:00", True),
        ("fri", "22:00-06:00", "2026-03-07T05:59", True),
        ("fri", "22:00-06:00", "2026-03-07T06:00", False),
        ("fri", "22:00-06:00", "2026-03-06T05:00", False),
        ("sun", "22:00-06:00", "2026-03-02T05:00", True),
        ("", "20:00-24:00", "2026-03-02T23:59", True),
    ],
)
def test_times_of_the_week(days: str, hours: str, at: str, meant: bool) -> None:  # a table's columns
    """Hours over midnight belong to the day on which they begin, Sunday's to Monday's morning."""
    assert (_at(at) in Week.parse(When(days=days, hours=hours))) is meant


def test_a_zone_has_its_own_hours() -> None:
    """Seven in Rome is five or six in UTC, by the time of year."""
    week = Week.parse(When(hours="07:00-08:00", zone="Europe/Rome"))
    assert _at("2026-01-05T06:30") in week
    assert _at("2026-07-06T06:30") not in week
    assert _at("2026-07-06T05:30") in week
    assert _at("2026-07-06T07:30", ROME) in week


def test_hours_that_a_change_of_clocks_leaves_out_or_repeats() -> None:
    """What the clock on the wall shows counts, also where it is set forward or back."""
    week = Week.parse(When(hours="02:00-03:00", zone="Europe/Rome"))
    forward = [_at("2026-03-29T00:30") + dt.timedelta(minutes=30 * step) for step in range(4)]
    assert [one in week for one in forward] == [False, False, False, False]
    back = [_at("2026-10-25T00:00") + dt.timedelta(minutes=30 * step) for step in range(5)]
    assert [one in week for one in back] == [True, True, True, True, False]


def test_the_last_day_counts() -> None:
    """What expires with a day holds through it (UTC)."""
    assert not is_over(dt.date(2026, 3, 2), _at("2026-03-03T00:30", ROME))
    assert not is_over(dt.date(2026, 3, 2), _at("2026-03-02T23:59"))
    assert is_over(dt.date(2026, 3, 2), _at("2026-03-03T00:00"))
