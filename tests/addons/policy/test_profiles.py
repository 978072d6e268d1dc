"""Profiles: fields whose type does not say all that they may be."""

from __future__ import annotations

from typing import Any

import pytest

from addons.policy.rules import compiled
from addons.policy.settings import Fault, Policy, Profile


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("versions", "1.3-1.2", "'1.3-1.2' are none; write '1.2-1.3', the older one first"),
        ("versions", "", "'' are none"),
        ("versions", "1.4", "'1.4' are none"),
        ("versions", "TLS1.2", "'TLS1.2' are none"),
        ("suites", "old", "'old' is none; use modern, compatible, or a list"),
        ("suites", [], r"\[\] is none"),
        ("suites", ["TLS_AES_128_GCM_SHA256"], "'TLS_AES_128_GCM_SHA256' is no cipher suite of TLS 1.2"),
        ("client_certificate", "allow", "'allow' is none; write block, without, bypass, or present:NAME"),
        ("client_certificate", "present:", "'present:' is none"),
    ],
)
def test_what_is_wrong_in_a_profile_is_named(field: str, value: Any, said: str) -> None:
    """A profile with a mistake is refused with its name and the field."""
    with pytest.raises(ValueError, match=rf"^profiles\.careful\.{field}: {said}"):
        compiled(Policy(), {"careful": Profile(**{field: value})})


@pytest.mark.parametrize("value", ["1.2-1.3", "1.3", "1.0-1.2", "1.2-1.2"])
def test_versions_as_they_are_written(value: str) -> None:
    """One version, or from one to another."""
    assert compiled(Policy(), {"careful": Profile(versions=value)}).profile("careful").versions == value


def test_a_profile_has_a_name_like_a_rule() -> None:
    """A profile's name is one word, for log and commands."""
    with pytest.raises(ValueError, match=r"^profiles: 'a b': a name has letters"):
        compiled(Policy(), {"a b": Profile()})


@pytest.mark.parametrize(
    ("revoked", "unknown", "timeout", "waits"),
    [
        ("block", "allow", "allow", 1.0),  # the built-in profile
        ("untrusted", "allow", "allow", 1.0),
        ("allow", "allow", "allow", None),
        ("allow", "untrusted", "allow", 5.0),
        ("block", "block", "allow", 5.0),
        ("block", "allow", "block", 5.0),
    ],
)
def test_how_long_a_connection_waits_for_a_status(
    revoked: Fault, unknown: Fault, timeout: Fault, waits: float | None
) -> None:
    """Nobody waits where nothing depends on it, and for long only where the lack of an answer counts."""
    profile = Profile(revoked=revoked, status_unknown=unknown, status_timeout=timeout)
    assert profile.status_wait_s == waits
    assert Profile().status_wait_s == 1.0
