"""Servers that asked for a client's certificate are passed by, for a while, and no others are."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from addons.policy.exclusions import FOR_S, Exclusions
from addons.records.facts import Facts

EXPLICIT = Facts(id="1", began=0.0, began_monotonic=0.0, host="api.example", port=443, sni="api.example")
REDIRECTED = Facts(id="2", began=0.0, began_monotonic=0.0, destination="192.0.2.7", port=443, sni="api.example")


@pytest.mark.parametrize("facts", [EXPLICIT, REDIRECTED])
def test_a_server_is_remembered_for_half_a_day(facts: Facts) -> None:
    """From the moment at which it was last seen to ask."""
    known = Exclusions()
    assert not known.holds(facts, 0.0)
    assert known.note(facts, 0.0)
    assert not known.note(facts, 1.0)
    assert known.holds(facts, FOR_S + 0.5)
    assert not known.holds(facts, FOR_S + 1.5)
    assert len(known) == 0


@pytest.mark.parametrize(
    "other",
    [
        replace(EXPLICIT, host="evil.example"),
        replace(EXPLICIT, port=8443),
        replace(EXPLICIT, sni="other.example"),
        replace(EXPLICIT, host="", destination="192.0.2.66"),
    ],
)
def test_another_server_under_its_name_is_another(other: Facts) -> None:
    """The SNI of a server that is passed by opens no way to another one."""
    known = Exclusions()
    known.note(EXPLICIT, 0.0)
    assert not known.holds(other, 1.0)


def test_there_is_a_bound() -> None:
    """Whoever makes up servers pushes out the oldest, and takes no more memory."""
    known = Exclusions(most=3)
    made = [replace(EXPLICIT, host=f"h{number}.example") for number in range(5)]
    for number, one in enumerate(made):
        known.note(one, float(number))
    assert [known.holds(one, 9.0) for one in made] == [False, False, True, True, True]
