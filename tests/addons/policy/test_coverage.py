"""Rules that an earlier one leaves nothing for: refused, and only those."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from msgspec import structs

from addons.policy.compiling import CompiledRule
from addons.policy.coverage import covers
from addons.policy.domains import Domains
from addons.policy.rules import compiled
from addons.policy.settings import Policy, Rule
from addons.records.facts import Facts
from tests.addons.policy import reference
from tests.addons.policy.anything import CATEGORIES, numbered, sparse_rules, whole_facts
from tests.addons.policy.making import policy

LISTS = {name: Domains(listed) for name, listed in CATEGORIES.items()}


def _rule(number: int, text: str) -> str:
    action = "" if "action" in text else 'action = "block"\n'
    return f'[[rules]]\nname = "rule{number}"\n{action}{text}\n'


COVERED = [
    ("", ""),
    ("", 'to = { domains = ["x.example"] }'),
    ('to = { domains = [".example"] }', 'to = { domains = ["www.example"] }'),
    ('to = { domains = [".example"] }', 'to = { domains = [".www.example", "example"] }'),
    ('to = { domains = ["a.example", "b.example"] }', 'to = { domains = ["b.example"], ports = [443] }'),
    ('to = { categories = ["news"] }', 'to = { domains = ["www.news.example"] }'),
    ('to = { domains = [".news.example", "evil.example"] }', 'to = { categories = ["news"] }'),
    ('to = { ports = ["1-1000"] }', 'to = { ports = [443, "80-90"] }'),
    ('to = { networks = ["10.0.0.0/9", "10.128.0.0/9"] }', 'to = { networks = ["10.0.0.0/8"] }'),
    ('from = { networks = ["10.0.0.0/8"] }', 'from = { networks = ["10.1.0.0/16"] }'),
    ('from = { networks = ["10.0.0.0/8"], except_networks = ["10.2.0.0/16"] }', 'from = { networks = ["10.1.1.1"] }'),
    ('from = { except_networks = ["10.2.0.0/16"] }', 'from = { except_networks = ["10.0.0.0/8"] }'),
    ('from = { users = ["a", "b"], groups = ["c"] }', 'from = { users = ["b"] }'),
    ('client = { alpn = ["h2", "h3"] }', 'client = { alpn = ["h3"] }'),
    ("", 'when = { days = "mon" }'),
    ('when = { days = "mon-fri" }', 'when = { days = "tue", hours = "08:00-09:00" }'),
    ('when = { hours = "00:00-24:00", zone = "Europe/Rome" }', 'when = { hours = "01:00-02:00" }'),
    ('when = { days = "fri", hours = "20:00-04:00" }', 'when = { days = "sat", hours = "01:00-02:00" }'),
    ("expires = 2027-01-01", "expires = 2026-12-31"),
    ('listener = "a:1"', 'listener = "a:1"'),
    ('action = "bypass"\nto = { everything = true }', 'action = "bypass"\nto = { domains = ["x.example"] }'),
]  # fmt: skip
APART = [
    ('to = { domains = ["www.example"] }', 'to = { domains = [".example"] }'),
    ('to = { domains = ["example"] }', 'to = { domains = ["www.example"] }'),
    ('to = { domains = [".example"] }', 'to = { domains = ["notexample"] }'),
    ('to = { domains = [".example"] }', ""),
    ('to = { domains = [".example"] }', 'to = { networks = ["10.0.0.0/8"] }'),
    ('to = { ports = [443] }', 'to = { ports = ["443-444"] }'),
    ('from = { networks = ["10.0.0.0/8"] }', 'from = { networks = ["0.0.0.0/0"] }'),
    ('from = { networks = ["10.0.0.0/8"], except_networks = ["10.1.2.0/24"] }', 'from = { networks = ["10.0.0.0/9"] }'),
    ('from = { users = ["a"] }', 'from = { users = ["a"], groups = ["b"] }'),
    ('when = { days = "mon-fri" }', 'when = { days = "fri-sat" }'),
    ('when = { hours = "07:00-19:00", zone = "Europe/Rome" }', 'when = { hours = "10:00-11:00" }'),
    ("expires = 2027-01-01", ""),
    ("expires = 2027-01-01", "expires = 2027-01-02"),
    ('listener = "a:1"', 'listener = "a:2"'),
]  # fmt: skip


def _text(earlier: str, later: str) -> str:
    return '[categories]\nnews = [".news.example", "evil.example"]\n' + _rule(1, earlier) + _rule(2, later)


@pytest.mark.parametrize(("earlier", "later"), COVERED)
def test_a_rule_that_never_matches_is_refused(earlier: str, later: str) -> None:
    """A rule for which an earlier one leaves nothing is a mistake, and the earlier one is named."""
    with pytest.raises(ValueError, match=r"^policy.rules\[1\] 'rule2': it can never match, because the rule 'rule1'"):
        policy(_text(earlier, later))


@pytest.mark.parametrize(("earlier", "later"), APART)
def test_a_rule_that_may_match_is_taken(earlier: str, later: str) -> None:
    """A rule that has something of its own is none."""
    assert len(policy(_text(earlier, later)).rules) == 2


def test_what_a_bypass_leaves_is_told() -> None:
    """Behind a bypass of the same names comes what lies about its SNI: no mistake for sure, but worth a word."""
    found = policy(_text('action = "bypass"\nto = { domains = [".example"] }', 'to = { domains = ["www.example"] }'))
    assert [one.partition(",")[0] for one in found.shadows] == [
        "policy.rules[1] 'rule2': the rule 'rule1' before it covers all of it"
    ]


def test_a_bypass_by_network_leaves_addresses() -> None:
    """A bypass needs all addresses of a host inside, a block one: the block behind it has hosts of its own."""
    networks = 'to = { networks = ["10.0.0.0/8"] }'
    assert policy(_text(f'action = "bypass"\n{networks}', networks)).shadows == ()


@settings(max_examples=500, deadline=None)
@given(sparse_rules, sparse_rules, whole_facts)
def test_nothing_matches_what_is_covered(earlier: Rule, later: Rule, facts: Facts) -> None:
    """Whatever a connection is like, a rule that is called covered matches only where the earlier one does, or where
    that one is a bypass whose SNI is not proved."""
    one, other = (CompiledRule(rule, LISTS) for rule in (earlier, later))
    if not covers(one, other, LISTS):
        return
    plain = Policy(categories=CATEGORIES, rules=numbered([earlier, later]))
    if earlier.action == "bypass" and later.action != "bypass":
        assert compiled(plain).shadows, "it was looked for in the wrong place"
    else:
        with pytest.raises(ValueError, match="can never match"):
            compiled(plain)
    if earlier.action == "bypass" and later.action != "bypass":
        earlier = structs.replace(earlier, action="decrypt")
    if reference.matches(later, facts, plain) == "yes":
        assert reference.matches(earlier, facts, plain) == "yes"
