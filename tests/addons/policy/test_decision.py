"""The decision: which rule, what becomes of the connection, what is still to be learned."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import pytest
from hypothesis import given, settings
from msgspec import structs

from addons.policy.decision import decide, explained
from addons.policy.settings import Policy
from addons.records.facts import Facts
from tests.addons.policy import reference
from tests.addons.policy.anything import Known, compiled_without_shadows, known, policies, whole_facts
from tests.addons.policy.making import facts, greeted, policy

BANK = policy("""
[[rules]]
name = "bank"
action = "bypass"
profile = "default"
to = { domains = [".bank.example"] }
""")
SANDBOX = policy("""
default = "block"
[[rules]]
name = "api"
action = "decrypt"
to = { domains = ["api.example"] }
""")


def test_the_honest_client_of_a_bank_is_bypassed() -> None:
    """Whoever asks for the bank and means the bank is not inspected."""
    found = decide(greeted("www.bank.example"), BANK)
    assert (found.rule, found.action, found.settled) == ("bank", "bypass", True)


def test_a_connect_without_its_hello_is_not_settled() -> None:
    """Before the ClientHello nobody knows whether the SNI is the host that was asked for."""
    found = decide(facts("www.bank.example"), BANK)
    assert (found.rule, found.settled, found.missing) == ("default", False, ("hello",))


@pytest.mark.parametrize(
    ("host", "sni", "known"),
    [
        ("evil.example", "www.bank.example", {}),
        ("www.bank.example", "evil.example", {}),
        ("www.bank.example", "www.bank.example.evil.example", {}),
        ("www.bank.example", "not a name", {}),
        ("203.0.113.9", "www.bank.example", {"sni_proved": False}),
        ("203.0.113.9", "www.bank.example", {"sni_proved": False, "mode": "socks5"}),
        ("", "www.bank.example", {"sni_proved": False, "mode": "transparent", "destination": "203.0.113.9"}),
        ("www.bank.example", "www.bank.example", {"sni_proved": False, "mode": "transparent"}),
        ("2130706433", "www.bank.example", {}),
        ("[2001:db8::9]", "www.bank.example", {"sni_proved": False}),
    ],
)
def test_a_forged_sni_bypasses_nothing(host: str, sni: str, known: dict[str, Any]) -> None:
    """A client that names the bank in its ClientHello and goes elsewhere is inspected."""
    found = decide(greeted(host, sni, **known), BANK)
    assert (found.rule, found.action, found.settled) == ("default", "decrypt", True)


@pytest.mark.parametrize("mode", ["explicit", "socks5", "transparent", "inbound", "upstream"])
def test_an_sni_is_proved_before_it_selects_a_bypass(mode: str) -> None:
    """Where a client asks for an address, the decision waits for the proof, and goes by it."""
    asked = greeted("", "www.bank.example", mode=mode, destination="203.0.113.9")
    if mode in ("explicit", "socks5", "upstream"):
        asked.host = "203.0.113.9"
    assert decide(asked, BANK).missing == ("proof",)
    asked.sni_proved = True
    assert decide(asked, BANK).action == "bypass"


def test_who_says_no_sni_is_bypassed_by_the_host_asked_for() -> None:
    """A client that names nobody in its ClientHello does not lie."""
    assert decide(greeted("www.bank.example", ""), BANK).action == "bypass"


@pytest.mark.parametrize("said", ["WWW.Bank.Example", "www.bank.example.", "bank.example"])
def test_spellings_of_a_name(said: str) -> None:
    """Capitals and a dot at the end are no other name."""
    assert decide(greeted(said, said.lower().rstrip(".")), BANK).action == "bypass"


def test_international_names() -> None:
    """A domain with an umlaut is the A-label that clients ask for."""
    found = policy('[[rules]]\nname = "u"\naction = "block"\nto = { domains = [".b\u00fccher.example"] }')
    assert decide(facts("www.xn--bcher-kva.example"), found).rule == "u"
    assert decide(facts("www.b\u00fccher.example"), found).rule == "u"


def test_a_block_at_connect_is_settled() -> None:
    """What a sandbox does not allow is refused at once, without a ClientHello and without the HSM."""
    found = decide(facts("evil.example"), SANDBOX)
    assert (found.rule, found.action, found.settled) == ("default", "block", True)
    assert decide(facts("api.example"), SANDBOX).action == "decrypt"


def test_our_own_sites_are_decrypted_by_default() -> None:
    """A sandbox's default does not close the sites that we serve; a rule may."""
    assert decide(greeted("", "shop.example", mode="inbound"), SANDBOX).action == "decrypt"
    shut = policy('[[rules]]\nname = "shut"\naction = "block"\nlistener = "0.0.0.0:443"')
    assert decide(greeted("", "shop.example", mode="inbound", listener="0.0.0.0:443"), shut).action == "block"
    assert decide(greeted("", "shop.example", mode="inbound", listener="0.0.0.0:444"), shut).action == "decrypt"


def test_no_sni_is_blocked_where_that_is_said() -> None:
    """`no_sni = "block"` refuses who names nobody, whatever rule matches; one that blocks keeps its name."""
    strict = policy("""
no_sni = "block"
[[rules]]
name = "shut"
action = "block"
to = { domains = ["evil.example"] }
[[rules]]
name = "all"
action = "decrypt"
""")
    assert decide(facts("www.example"), strict).missing == ("hello",)
    found = decide(greeted("www.example", ""), strict)
    assert (found.rule, found.action, found.settled) == ("no_sni", "block", True)
    assert decide(greeted("www.example"), strict).rule == "all"
    assert decide(facts("evil.example"), strict).rule == "shut"
    assert decide(facts("www.example", plain=True), strict).rule == "all"
    assert decide(greeted("", "", mode="inbound"), strict).rule == "all"


def test_plain_http_has_nothing_to_bypass() -> None:
    """A plain request to the bank goes on as a request, under the rule's name; one that is blocked is blocked."""
    found = decide(facts("www.bank.example", port=80, plain=True), BANK)
    assert (found.rule, found.action, found.settled) == ("bank", "decrypt", True)
    assert "plain HTTP" in found.reason
    assert decide(facts("www.example", port=80, plain=True), SANDBOX).action == "block"


def test_warn_mode_says_what_would_have_happened() -> None:
    """With `mode = "warn"` the decision is told and everything is decrypted."""
    found = decide(facts("x.example"), policy('mode = "warn"\ndefault = "block"'))
    assert (found.action, found.acts) == ("block", "decrypt")


BY_NETWORK = """
[[rules]]
name = "lab"
action = "{action}"
to = {{ networks = ["10.0.0.0/8", "fd00::/8"] }}
"""


@pytest.mark.parametrize(
    ("addresses", "bypass", "block"),
    [
        (("10.1.1.1",), True, True),
        (("10.1.1.1", "192.0.2.1"), False, True),
        (("192.0.2.1",), False, False),
        (("::ffff:10.1.1.1",), True, True),
        (("fd00::1%eth0",), True, True),
        (("64:ff9b::10.1.1.1",), False, True),
        (("2002:0a01:0101::1",), False, True),
        ((), False, False),
    ],
)
def test_destinations_by_address(addresses: tuple[str, ...], bypass: bool, block: bool) -> None:  # a table's columns
    """A bypass needs every address of a host to be inside; a block takes one for enough, also in another's clothes."""
    asked = greeted("lab.example", addresses=addresses)
    assert (decide(asked, policy(BY_NETWORK.format(action="bypass"))).action == "bypass") is bypass
    assert (decide(asked, policy(BY_NETWORK.format(action="block"))).action == "block") is block


def test_addresses_are_waited_for() -> None:
    """A rule about networks waits for the host's addresses, and for none where an address was asked for."""
    block = policy(BY_NETWORK.format(action="block"))
    assert decide(facts("lab.example"), block).missing == ("addresses",)
    assert decide(facts("10.1.1.1"), block).action == "block"
    assert decide(facts("", mode="transparent", destination="10.1.1.1"), block).action == "block"
    assert decide(facts("lab.example", mode="upstream", destination="10.1.1.1"), block).missing == ("addresses",)


def test_what_is_not_settled_is_decided_by_what_is_known() -> None:
    """While a rule waits for something, the next one that matches says what happens if that never comes."""
    early = (
        '[[rules]]\nname = "early"\naction = "block"\nclient = { alpn = ["h3"] }\nto = { domains = [".lab.example"] }'
    )
    named = '[[rules]]\nname = "named"\naction = "decrypt"\nto = { domains = ["lab.example"] }'
    late = '[[rules]]\nname = "print"\naction = "block"\nclient = { alpn = ["h2"] }'
    found = policy("\n".join((early, BY_NETWORK.format(action="block"), named, late)))
    said = decide(facts("lab.example"), found)
    assert (said.rule, said.settled, said.missing) == ("named", False, ("hello", "addresses"))
    said = decide(facts("www.example"), found)
    assert (said.rule, said.settled, said.missing) == ("default", False, ("hello", "addresses"))
    said = decide(facts("", mode="transparent", destination="192.0.2.1"), found)
    assert (said.rule, said.settled, said.missing) == ("default", False, ("hello",))


def test_the_first_rule_that_matches_decides() -> None:
    """Order is the operator's."""
    found = policy("""
[[rules]]
name = "first"
action = "decrypt"
from = { networks = ["10.1.0.0/16"], except_networks = ["10.1.9.0/24"] }
to = { domains = [".example"], ports = [443, "8000-8099"] }
[[rules]]
name = "second"
action = "block"
to = { domains = ["www.example"] }
""")
    assert decide(facts("www.example"), found).rule == "first"
    assert decide(facts("www.example", client_ip="10.1.9.1"), found).rule == "second"
    assert decide(facts("www.example", client_ip="::ffff:10.1.2.3", port=8001), found).rule == "first"
    assert decide(facts("www.example", port=80), found).rule == "second"
    assert decide(facts("other.example", port=80), found).rule == "default"


def test_users_groups_and_categories() -> None:
    """Who it is may be said by user or group, what it is called by domain or category."""
    found = policy("""
[categories]
news = [".news.example", "paper.example"]
[[rules]]
name = "who"
action = "block"
from = { users = ["alice"], groups = ["staff"] }
to = { domains = ["games.example"], categories = ["news"] }
""")
    assert decide(facts("paper.example", user="alice"), found).categories == ("news",)
    assert decide(facts("a.news.example", user="bob", user_groups=("staff",)), found).rule == "who"
    assert decide(facts("games.example", user="alice"), found).rule == "who"
    assert decide(facts("games.example"), found).rule == "default"
    assert decide(facts("www.example", user="alice"), found).rule == "default"


def test_the_greeting_selects() -> None:
    """An app is known by its JA4 fingerprint or its ALPN; plain HTTP has neither."""
    found = policy("""
[[rules]]
name = "app"
action = "bypass"
to = { everything = true }
client = { ja4 = ["t13d1516h2_8daaf6152771_02713d6af862"], alpn = ["h2"] }
""")
    assert decide(facts("x.example"), found).missing == ("hello",)
    mine = greeted("x.example", ja4="t13d1516h2_8daaf6152771_02713d6af862", alpn=("h2", "http/1.1"))
    assert decide(mine, found).rule == "app"
    assert decide(structs.replace(mine, alpn=()), found).rule == "default"
    assert decide(structs.replace(mine, ja4="t13d1516h2_8daaf6152771_02713d6af863"), found).rule == "default"
    assert decide(facts("x.example", plain=True), found).settled


def test_a_rule_ends_with_its_last_day() -> None:
    """On its last day a rule matches, and the next day (UTC) no longer."""
    found = policy('[[rules]]\nname = "old"\naction = "block"\nexpires = 2026-03-02')
    late = dt.datetime(2026, 3, 2, 23, 59, tzinfo=dt.UTC)
    assert decide(facts("x.example", at=late), found).rule == "old"
    assert decide(facts("x.example", at=late + dt.timedelta(minutes=1)), found).rule == "default"


def test_each_miss_is_explained() -> None:
    """For each rule that did not match the operator reads the first field that does not hold, and why."""
    found = policy(
        """
[[rules]]
name = "elsewhere"
action = "block"
listener = "0.0.0.0:443"
[[rules]]
name = "over"
action = "block"
expires = 2026-01-31
[[rules]]
name = "net"
action = "block"
from = { networks = ["10.0.0.0/8"], except_networks = ["10.1.2.0/24"] }
[[rules]]
name = "user"
action = "block"
from = { groups = ["staff"] }
[[rules]]
name = "name"
action = "block"
to = { domains = ["x.example"] }
[[rules]]
name = "port"
action = "block"
to = { ports = [80] }
[[rules]]
name = "address"
action = "block"
to = { networks = ["192.0.2.0/24"] }
[[rules]]
name = "print"
action = "block"
client = { ja4 = ["t13d1516h2_8daaf6152771_02713d6af862"] }
[[rules]]
name = "alpn"
action = "block"
client = { alpn = ["h2"] }
[[rules]]
name = "night"
action = "block"
when = { hours = "22:00-06:00", zone = "Europe/Rome" }
[[rules]]
name = "lie"
action = "bypass"
to = { domains = ["www.example"] }
[[rules]]
name = "last"
action = "decrypt"
[[rules]]
name = "never-asked"
action = "decrypt"
to = { domains = ["y.example"] }
""".replace(
            'name = "last"\naction = "decrypt"', 'name = "last"\naction = "decrypt"\nto = { domains = ["www.example"] }'
        )
    )
    decision, misses = explained(greeted("www.example", "bank.example", addresses=("203.0.113.1",)), found)
    assert decision == decide(greeted("www.example", "bank.example", addresses=("203.0.113.1",)), found)
    assert decision.rule == "last"
    assert [(one.rule, one.field, one.why) for one in misses] == [
        ("elsewhere", "listener", "the client came to no listener that is known"),
        ("over", "expires", "the rule ended with 2026-01-31 (UTC)"),
        ("net", "from.networks", "10.1.2.3 is in except_networks"),
        ("user", "from.groups", "the user is not known"),
        ("name", "to.domains", "www.example is in none of them"),
        ("port", "to.ports", "the port is 443"),
        ("address", "to.networks", "203.0.113.1 is in none of the networks"),
        ("print", "client.ja4", "the JA4 fingerprint is not known"),
        ("alpn", "client.alpn", "the client offers no ALPN"),
        ("night", "when", "it is mon 13:00 (Europe/Rome)"),
        ("lie", "sni", "the client asked for www.example, and its SNI is bank.example"),
    ]


def test_what_waits_is_explained() -> None:
    """A rule of which something is not known yet says what."""
    _, misses = explained(facts("www.bank.example"), BANK)
    assert [(one.rule, one.field, one.waits) for one in misses] == [("bank", "sni", True)]


@pytest.mark.alone
def test_a_thousand_rules_cost_a_connection_little() -> None:
    """With a thousand rules of every kind a decision takes a small part of 0.2 ms, at CONNECT and when all is known."""
    rules = "".join(
        f'[[rules]]\nname = "r{n}"\naction = "{("bypass", "block", "decrypt")[n % 3]}"\n'
        + (
            f'to = {{ domains = [".site{n}.example", "host{n}.test"], ports = [443] }}\n',
            f'to = {{ networks = ["10.{n // 256}.{n % 256}.0/24"] }}\n',
            f'from = {{ networks = ["172.{16 + n // 256}.{n % 256}.0/24"] }}\nto = {{ everything = true }}\n',
            f'from = {{ users = ["u{n}"] }}\nto = {{ everything = true }}\n',
            f'to = {{ domains = [".site{n}.example"] }}\nwhen = {{ days = "mon-fri", zone = "Europe/Rome" }}\n',
        )[n % 5]
        for n in range(1000)
    )
    found = policy(rules)
    asked = [
        one
        for n in range(5000)
        for one in (
            greeted(f"www.site{n % 2000}.example", addresses=("192.0.2.1",)),
            facts(f"www.site{n % 2000}.example"),
            facts("203.0.113.7"),
        )
    ]
    took = []
    for one in asked:
        begun = time.perf_counter()
        decide(one, found)
        took.append(time.perf_counter() - begun)
    assert sorted(took)[len(took) * 99 // 100] < 0.0002


@settings(max_examples=300, deadline=None)
@given(policies, whole_facts, known)
def test_it_agrees_with_the_reference(written: Policy, whole: Facts, known: Known) -> None:
    """On any policy and any facts the decision is what a plain reading of the rules says."""
    policy = compiled_without_shadows(written)
    asked = known.of(whole)
    found = decide(asked, policy)
    assert (found.rule, found.action, found.settled) == reference.decided(asked, policy.settings)
    assert bool(found.missing) is not found.settled
    told, misses = explained(asked, policy)
    names = [one.name for one in policy.settings.rules]
    assert told == found
    if found.rule != "no_sni":
        assert [one.rule for one in misses] == names[: names.index(found.rule) if found.rule in names else None]
        assert any(one.waits for one in misses) <= (not found.settled)


@settings(max_examples=200, deadline=None)
@given(policies, whole_facts, known)
def test_what_is_settled_stays(written: Policy, whole: Facts, known: Known) -> None:
    """A decision that is said to be settled is the one that comes out when everything is known."""
    policy = compiled_without_shadows(written)
    whole = Known(True, True, True).of(whole)
    found, end = decide(known.of(whole), policy), decide(whole, policy)
    assert end.settled
    if found.settled:
        assert (found.rule, found.action) == (end.rule, end.action)


@settings(max_examples=150, deadline=None)
@given(policies, whole_facts)
def test_learning_what_is_missing_settles_it(written: Policy, whole: Facts) -> None:
    """Who learns what a decision waits for, and asks again, has its answer after three times at most."""
    policy = compiled_without_shadows(written)
    known = Known(False, False, False)
    for _ in range(4):
        found = decide(known.of(whole), policy)
        if found.settled:
            return
        for one in found.missing:
            setattr(known, one, True)
    raise AssertionError(f"still not settled: {found.missing}")
