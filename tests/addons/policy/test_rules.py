"""A policy as it is loaded: what is refused, in which words, and what is only told."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from addons.policy.case import Case
from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Accept, Policy, Profile, Rule, To
from tests.addons.policy.making import MONDAY, facts, policy

BYPASS = '[[rules]]\nname = "one"\naction = "bypass"\n'


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "to: a bypass of every destination; write to = { everything = true } where that is meant"),
        ("to = {}", "to: a bypass of every destination"),
        ('from = { networks = ["10.0.0.0/8"] }', "to: a bypass of every destination"),
        ('to = { everything = true, domains = ["a.example"] }', "to.everything: it is said beside domains"),
        ('to = { domains = ["10.0.0.1"] }', "to.domains: '10.0.0.1' is an address; write it under networks"),
        ('to = { domains = ["10.0.0.0/8"] }', "to.domains: '10.0.0.0/8' is an address"),
        ('to = { domains = ["::1"] }', "to.domains: '::1' is an address"),
        ('to = { domains = ["[::1]"] }', "to.domains: '[::1]' is an address"),
        ('to = { domains = [".10.0.0.1"] }', "to.domains: '.10.0.0.1' is an address"),
        ('to = { domains = [{ suffix = "10.0.0.1" }] }', "to.domains: '10.0.0.1' is an address"),
        ('to = { domains = ["*.a.example"] }', "to.domains: '*.a.example' has a wildcard; '.example.com' means"),
        ('to = { domains = ["https://a.example/"] }', "to.domains: 'https://a.example/' is no domain; write the name"),
        ('to = { domains = ["a.example:443"] }', "to.domains: 'a.example:443' is no domain"),
        ('to = { domains = ["a b"] }', "to.domains: 'a b' is no domain: "),
        ('to = { domains = [""] }', "to.domains: '' is no domain: "),
        ('to = { domains = ["."] }', "to.domains: '.' is no domain: "),
        ('to = { domains = ["..example"] }', "to.domains: '..example' is no domain: "),
        ('to = { domains = [".com"] }', "to.domains: '.com' is a public suffix, below which everybody has names"),
        ('to = { domains = ["com"] }', "to.domains: 'com' is a public suffix"),
        ('to = { domains = [".co.uk"] }', "to.domains: '.co.uk' is a public suffix"),
        ('to = { domains = [".github.io"] }', "to.domains: '.github.io' is a public suffix"),
        ('to = { categories = ["bank"] }', "to.categories: there is no category 'bank'; [policy.categories] has none"),
        (
            'to = { networks = ["10.0.0.1/8"] }',
            "to.networks: '10.0.0.1/8' has bits set behind its prefix; write 10.0.0.",
        ),
        (
            'to = { networks = ["fd00::1/8"] }',
            "to.networks: 'fd00::1/8' has bits set behind its prefix; write fd00::/8",
        ),
        ('to = { networks = ["a.example"] }', "to.networks: 'a.example' is no network"),
        ('to = { ports = [443, "400-500"] }', "to.ports: '400-500' overlaps 443"),
        ('to = { ports = ["400-500", 443] }', "to.ports: '443' overlaps 400-500"),
        ("to = { ports = [443, 443] }", "to.ports: '443' overlaps 443"),
        ("to = { ports = [0] }", "to.ports: '0': ports are 1 to 65535"),
        ("to = { ports = [-1] }", "to.ports: '-1' is no port"),
        ('to = { ports = ["9-8"] }', "to.ports: '9-8': ports are 1 to 65535, the smaller one first"),
        ('to = { ports = ["https"] }', "to.ports: 'https' is no port"),
        ('from = { networks = ["10.0.0.1/8"] }\nto = { everything = true }', "from.networks: '10.0.0.1/8' has bits"),
        ('from = { except_networks = ["x"] }\nto = { everything = true }', "from.except_networks: 'x' is no network"),
        ('to = { ports = [443] }\nwhen = { days = "mo-fr" }', "when.days: 'mo-fr' are none; write 'mon-fri'"),
        ('to = { ports = [443] }\nwhen = { hours = "7-19" }', "when.hours: '7-19' are none; write '07:00-19:00'"),
        ('to = { ports = [443] }\nwhen = { hours = "07:00-07:00" }', "when.hours: '07:00-07:00' begin from 00:00 on"),
        ('to = { ports = [443] }\nwhen = { hours = "24:00-07:00" }', "when.hours: '24:00-07:00' begin from 00:00 on"),
        ('to = { ports = [443] }\nwhen = { hours = "07:00-24:01" }', "when.hours: '07:00-24:01' begin from 00:00 on"),
        ('to = { ports = [443] }\nwhen = { zone = "Mars/North" }', "when.zone: 'Mars/North' is no zone"),
        ('to = { ports = [443] }\nwhen = { zone = "../../etc/passwd" }', "when.zone: '../../etc/passwd' is no zone"),
        ('to = { ports = [443] }\nclient = { ja4 = ["abc"] }', "client.ja4: 'abc' is no JA4 fingerprint"),
        ('from = { users = [""] }\nto = { ports = [443] }', "from.users: an empty name; leave the list empty"),
        ('from = { groups = ["a", ""] }\nto = { ports = [443] }', "from.groups: an empty name"),
        ('to = { ports = [443] }\nclient = { alpn = [""] }', "client.alpn: an empty name"),
        ('to = { ports = [443] }\nprofile = "careful"', "profile: there is no profile 'careful'; there are default"),
    ],
)
def test_what_is_wrong_in_a_rule_is_named(written: str, said: str) -> None:
    """A rule with a mistake is refused, and the operator reads which rule, which field and what would be right."""
    with pytest.raises(ValueError, match="policy") as caught:
        policy(BYPASS + written)
    assert str(caught.value).startswith(f"policy.rules[0] 'one': {said}")


@pytest.mark.parametrize("name", ["default", "no_sni"])
def test_names_that_the_log_needs(name: str) -> None:
    """A rule is not called like a decision that no rule made."""
    with pytest.raises(ValueError, match=rf"policy.rules\[0\] '{name}': name: '{name}' is what the log calls"):
        policy(f'[[rules]]\nname = "{name}"\naction = "block"')


def test_two_rules_of_one_name() -> None:
    """Log and page tell rules apart by their names."""
    with pytest.raises(ValueError, match=r"policy.rules\[1\] 'one': name: another rule has this name"):
        policy(BYPASS + "to = { ports = [1] }\n" + BYPASS + "to = { ports = [2] }")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('bank = ["10.0.0.1"]', "policy.categories.bank: '10.0.0.1' is an address"),
        ("bank = []", "policy.categories.bank: a category without domains"),
        ('"a b" = ["a.example"]', "policy.categories.a b: a name has letters"),
    ],
)
def test_what_is_wrong_in_a_category_is_named(written: str, said: str) -> None:
    """A category is checked whether a rule names it or not."""
    with pytest.raises(ValueError, match="policy") as caught:
        policy(f"[categories]\n{written}")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("accepted", "said"),
    [
        ("a b", r"upstream.accept\[0\]: host: 'a b' has the label 'a b'"),
        ("*.nas.example", r"upstream.accept\[0\]: host: '\*.nas.example' stands for many hosts"),
    ],
)
def test_what_is_wrong_in_an_acceptance_is_named(accepted: str, said: str) -> None:
    """A certificate is accepted for one host."""
    with pytest.raises(ValueError, match=said):
        compiled(Policy(), accepts=[_accept(accepted)])


def _accept(host: str, expires: dt.date = dt.date(2027, 1, 1)) -> Accept:
    return Accept(host=host, spki_sha256="0" * 64, reason="test", expires=expires)


def test_hosts_are_as_names_are_checked() -> None:
    """An accepted host is found however the operator wrote it; an address is one, too."""
    found = compiled(Policy(), accepts=[_accept("NAS.Example."), _accept("10.0.0.1"), _accept("b\u00fccher.example")])
    assert [one.host for one in found.accepts] == ["nas.example", "10.0.0.1", "xn--bcher-kva.example"]


def test_public_suffixes_where_they_are_meant() -> None:
    """`{ suffix = ".com" }` is everything below it; a suffix of the operator's own needs no such word, and one of two
    labels may be a host itself."""
    found = policy(BYPASS + 'to = { domains = [{ suffix = ".com" }, { suffix = "co.uk" }, ".corp", "gov.uk", "nas"] }')
    assert [str(one) for one in found.rules[0].domains.all] == [".com", ".co.uk", ".corp", "gov.uk", "nas"]


def test_profiles_and_rules_by_name() -> None:
    """There is a profile for every rule, the built-in one among them, which the operator may change."""
    strict = Profile(expired="allow")
    written = Policy(rules=(Rule(name="one", action="block", profile="strict"),))
    found = compiled(written, {"strict": strict})
    assert (found.profile("strict"), found.profile("default")) == (strict, Profile())
    assert compiled(Policy(), {"default": strict}).profile("default") == strict
    assert found.rule("one") is written.rules[0]
    assert found.rule("default") is None


def test_what_ends_is_told_thirty_days_before() -> None:
    """A rule and an acceptance that ended, or will within 30 days, are told of; neither is refused."""
    today = MONDAY.date()
    days = {"over": -1, "today": 0, "soon": 30, "later": 31}
    rules = tuple(
        Rule(name=name, action="block", to=To(domains=(f"{name}.example",)), expires=today + dt.timedelta(days=day))
        for name, day in days.items()
    )
    found = compiled(Policy(rules=rules), accepts=[_accept("nas.example", today)])
    assert found.warnings(MONDAY) == [
        "policy.rules[0] 'over': expires: 2026-03-01 is over, so it no longer holds",
        "policy.rules[1] 'today': expires: it ends with 2026-03-02",
        "policy.rules[2] 'soon': expires: it ends with 2026-04-01",
        "upstream.accept[0] 'nas.example': expires: it ends with 2026-03-02",
    ]


def test_users_that_nobody_tells() -> None:
    """A rule that asks for users or groups never matches while nothing tells who a client is: that is said."""
    found = policy('[[rules]]\nname = "staff"\naction = "block"\nfrom = { groups = ["staff"] }')
    (said,) = found.warnings(MONDAY)
    assert said.startswith("policy.rules[0] 'staff': from.groups: nothing tells users and groups yet")


def test_the_version_is_that_of_the_content() -> None:
    """The log says by which policy a connection was decided: another policy has another version, the same one not."""

    def of(text: str) -> str:
        return policy(text).version

    assert of("") == of('default = "decrypt"') != of('default = "block"')
    assert compiled(Policy(), {"strict": Profile()}).version != of("")
    assert compiled(Policy(), accepts=[_accept("nas.example")]).version != of("")


def test_a_thousand_rules_are_walked_in_a_few_steps() -> None:
    """What a connection costs hardly depends on how many rules there are: it is asked of those alone that name it."""
    rules = tuple(
        Rule(name=f"r{number}", action="block", to=To(domains=(f".site{number}.example",))) for number in range(1000)
    )
    found: Compiled = compiled(Policy(rules=rules))
    case = Case(facts("www.site7.example"), found.categories)
    assert [one.rule.name for one in found.candidates(case)] == ["r7"]


def test_settings_have_no_unknown_fields() -> None:
    """A field that is not in a table is an error, in every table of the policy."""
    for written in ("x = 1", BYPASS + "x = 1", BYPASS + "to = { x = 1 }", BYPASS + "from = { x = 1 }"):
        with pytest.raises(msgspec.ValidationError, match="unknown field `x`"):
            policy(written)
