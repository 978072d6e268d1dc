"""Domains: what is below what, in whichever spelling a client has it."""

from __future__ import annotations

import pytest

from addons.policy.domains import Domain, Domains, DomainTable, met
from addons.policy.settings import Suffix


@pytest.mark.parametrize(
    ("name", "exact", "below"),
    [
        ("example.com", True, True),
        ("www.example.com", False, True),
        ("a.b.example.com", False, True),
        ("WWW.EXAMPLE.COM", False, True),
        ("example.com.", True, True),
        ("notexample.com", False, False),
        ("example.com.evil.test", False, False),
        ("com", False, False),
        ("", False, False),
        ("example.com..", False, False),
        ("10.0.0.1", False, False),
        ("\u24e6ww.example.com", False, True),
    ],
)
def test_a_name_and_what_is_below(name: str, exact: bool, below: bool) -> None:  # a table's columns
    """A domain is that name; with a dot in front it is everything below, too, and nothing that only ends alike."""
    assert (met(name) in Domains(["example.com"])) is exact
    assert (met(name) in Domains([".example.com"])) is below


def test_a_public_suffix() -> None:
    """A suffix that is meant has all hosts below it."""
    found = Domains([Suffix(".co.uk")])
    assert met("shop.co.uk") in found
    assert met("shop.uk") not in found


def test_a_very_long_name_is_no_name() -> None:
    """Whoever asks for a name of a megabyte has it neither matched nor remembered."""
    assert met("a." * 500_000 + "example.com").text == ""


def test_covering() -> None:
    """What is below a domain is covered by it, and a domain by itself alone."""
    below, exact = Domain("example.com", below=True), Domain("www.example.com", below=False)
    assert (below.covers(exact), exact.covers(below), below.covers(below)) == (True, False, True)


def test_a_table_has_every_domain_of_a_name() -> None:
    """A name is found under itself and under each domain above it."""
    written = [".example.com", "www.example.com", ".www.example.com", "example.com", ".test"]
    table = DomainTable((one, str(one)) for one in Domains(written).all)
    assert sorted(table.find(met("www.example.com"))) == [".example.com", ".www.example.com", "www.example.com"]
