"""Times of the week as a mask of its minutes: days, hours over midnight, in a zone. Pure, but for the zone database.

Hours that go over midnight belong to the day on which they begin.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import zoneinfo

from msgspec import Struct

from addons.policy.settings import When

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 24 * 60
_WEEK = 7 * _DAY
_ALWAYS = (1 << _WEEK) - 1
_HOURS = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


class Week(Struct, frozen=True):
    """The minutes of a week that are meant, from Monday's midnight on, as bits; and in which zone."""

    zone: str
    mask: int

    @classmethod
    def parse(cls, when: When) -> Week:
        """Raises ValueError with the field's name in front."""
        try:
            zone(when.zone)
        except ValueError as error:
            raise ValueError(f"zone: {error}") from None
        days = _days(when.days) if when.days else range(7)
        spans = _spans(when.hours) if when.hours else [(0, _DAY)]
        mask = 0
        for day in days:
            for first, last in spans:
                mask |= ((1 << last - first) - 1) << (day * _DAY + first)
        return cls(when.zone, (mask | mask >> _WEEK) & _ALWAYS)  # Sunday night goes on at the week's beginning

    def __contains__(self, at: dt.datetime) -> bool:
        local = at.astimezone(zone(self.zone))
        return bool(self.mask >> (local.weekday() * _DAY + local.hour * 60 + local.minute) & 1)

    def covers(self, other: Week) -> bool:
        """Whether every minute of `other` is one of this, as far as that can be said without a calendar."""
        return not other.mask & ~self.mask if self.zone == other.zone else self.mask == _ALWAYS


@functools.cache
def zone(name: str) -> dt.tzinfo:
    """A zone of the IANA database ("Europe/Rome"). Raises ValueError."""
    if name == "UTC":
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"'{name}' is no zone that this machine knows; write one as 'Europe/Rome', or install tzdata where that is "
            "unknown, too"
        ) from None


def _days(text: str) -> list[int]:
    found: list[int] = []
    for one in text.split(","):
        first, dash, last = one.strip().lower().partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"days: '{text}' are none; write 'mon-fri' or 'sat,sun'")
        begin = DAYS.index(first)
        span = (DAYS.index(last) - begin) % 7 if dash else 0
        found += [(begin + day) % 7 for day in range(span + 1)]
    return found


def _spans(text: str) -> list[tuple[int, int]]:
    """Minutes from the day's midnight; the end may be on the next day."""
    found = []
    for one in text.split(","):
        matched = _HOURS.fullmatch(one.strip())
        if not matched:
            raise ValueError(f"hours: '{text}' are none; write '07:00-19:00', or '22:00-06:00' over midnight")
        numbers = list(map(int, matched.groups()))
        first, last = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
        if first >= _DAY or last > _DAY or first == last:
            raise ValueError(f"hours: '{text}' begin from 00:00 on and end by 24:00, at another time than they begin")
        found.append((first, last if last > first else last + _DAY))
    return found


def is_over(expires: dt.date, at: dt.datetime) -> bool:
    """Whether what holds through the day `expires` (UTC) is over."""
    return at.astimezone(dt.UTC).date() > expires
