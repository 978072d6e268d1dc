"""What ends soon is said in the log while hsmitm runs."""

from __future__ import annotations

import datetime as dt

import pytest

from addons.policy.notices import Notices
from tests.addons.policy.making import policy

RULE = '[[rules]]\nname = "old"\naction = "block"\nexpires = 2026-03-31'


def test_an_end_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """An operator reads it once when it is near and once when it is there, however often somebody looks."""
    notices, found = Notices(), policy(RULE)
    day = dt.datetime(2026, 2, 20, 12, tzinfo=dt.UTC)
    told = []
    while day.date() < dt.date(2026, 4, 5):
        for _ in range(3):
            notices.look(found, day)
        told += [(day.date().isoformat(), one.message) for one in caplog.records]
        caplog.clear()
        day += dt.timedelta(hours=12)
    assert told == [
        ("2026-03-01", "policy.rules[0] 'old': expires: it ends with 2026-03-31"),
        ("2026-04-01", "policy.rules[0] 'old': expires: 2026-03-31 is over, so it no longer holds"),
    ]


def test_another_policy_has_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """After a reload only what is new is said."""
    notices, now = Notices(), dt.datetime(2026, 3, 20, tzinfo=dt.UTC)
    notices.look(policy(RULE), now)
    notices.look(policy(f"{RULE}\nto = {{ ports = [1] }}\n{RULE.replace('old', 'new')}"), now)
    assert [one.message.split("'")[1] for one in caplog.records] == ["old", "new"]
