"""A list of who was asked for and when: one `TIME HOST` on a line. No clock; the file is opened by `load` alone.

TIME is ISO 8601 or seconds since the epoch; between it and HOST are white space, a comma or a tab. ISO times without an
offset are UTC: what counts is the time between two lines. Empty lines and lines that begin with # are no lines. What
cannot be read is refused by its number, and the rest is used: one bad line in a million must not end a plan.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from hsm import names
from hsm.errors import MisconfiguredError

_SEPARATOR = re.compile(r"[\s,]+")
_YEAR_9999 = dt.datetime(9999, 12, 31, tzinfo=dt.UTC).timestamp()
_NEVER = "not an ISO 8601 time, nor seconds since the epoch"


class Arrival(Struct, frozen=True, gc=False):
    """A new connection to `host` (a checked name), `at` seconds since the epoch."""

    at: float
    host: str


class Refused(Struct, frozen=True):
    """Line `number` (from 1), and why it was not used."""

    number: int
    why: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.why}"


class ArrivalLog(Struct, frozen=True):
    """The arrivals in the order of their times. `disordered` counts lines that stood behind a later one."""

    arrivals: list[Arrival]
    refused: list[Refused]
    disordered: int


def load(path: Path) -> ArrivalLog:
    """Read `path`. Raises MisconfiguredError where it cannot be read, or holds nothing that can be used."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            found = read(lines)
    except OSError as error:
        raise MisconfiguredError(f"--log {path}: {error.strerror}") from error
    if found.arrivals:
        return found
    if not found.refused:
        raise MisconfiguredError(f"--log {path}: the file has no lines; write one TIME HOST on each")
    first = "; ".join(str(one) for one in found.refused[:3])
    raise MisconfiguredError(f"--log {path}: no line could be used: {first}; write one TIME HOST on each")


def read(lines: Iterable[str]) -> ArrivalLog:
    """The arrivals of `lines`, and what was refused."""
    arrivals: list[Arrival] = []
    refused: list[Refused] = []
    hosts: dict[str, str] = {}
    disordered, latest = 0, -math.inf
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            arrived = arrival(line)
        except ValueError as error:
            refused.append(Refused(number, str(error)))
            continue
        disordered += arrived.at < latest
        latest = max(latest, arrived.at)
        # A log has few hosts and many lines: each name once.
        arrivals.append(Arrival(arrived.at, hosts.setdefault(arrived.host, arrived.host)))
    arrivals.sort(key=lambda one: one.at)
    return ArrivalLog(arrivals, refused, disordered)


def arrival(line: str) -> Arrival:
    """One line. Raises ValueError with the reason."""
    fields = [one for one in _SEPARATOR.split(line.strip()) if one]
    if len(fields) == 3 and _is_day(fields[0]):
        fields = [f"{fields[0]}T{fields[1]}", fields[2]]  # ISO's T is a space in many logs
    if len(fields) != 2:
        raise ValueError(f"{len(fields)} fields; it takes two, TIME and HOST")
    return Arrival(_time(fields[0]), names.to_ascii(fields[1]))


def _is_day(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None


def _time(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return _iso(text)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{text!r} is {_NEVER}")
    if seconds > _YEAR_9999:
        raise ValueError(f"{text!r} would be after the year 9999: seconds are meant, not milliseconds")
    return seconds


def _iso(text: str) -> float:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is {_NEVER}") from None
    return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
