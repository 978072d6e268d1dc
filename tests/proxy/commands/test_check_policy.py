"""`hsmitm check` on the policy: what it is, and what an operator should know of it."""

from __future__ import annotations

from pathlib import Path

from proxy.commands.check_policy import check_policy
from proxy.commands.findings import Findings
from proxy.config.file import parse
from tests.proxy.config.test_worker import EXAMPLE


def _said(text: str) -> list[str]:
    lines: list[str] = []
    check_policy(parse((EXAMPLE + text).encode(), Path("/etc/hsmitm.toml")), Findings(lines.append))
    return lines


def test_a_policy_without_rules() -> None:
    """Where there is no rule everything is decrypted, and check says so in a line."""
    (line,) = _said("")
    assert line.startswith("ok     policy ")
    assert line.endswith(": 0 rules, default decrypt, mode enforce; profiles default")


def test_what_is_over_is_a_warning() -> None:
    """A rule that is over is no fault, and worth a word."""
    _, line = _said('[[policy.rules]]\nname = "old"\naction = "block"\nexpires = 2020-01-31')
    assert line == "WARN   policy.rules[0] 'old': expires: 2020-01-31 is over, so it no longer holds"
