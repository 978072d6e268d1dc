"""Any policy and any facts, of a world so small that they meet (hypothesis)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from hypothesis import strategies as st
from msgspec import structs

from addons.policy.networks import number
from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Client, From, Policy, Rule, Suffix, To, When
from addons.records.facts import Facts
from tests.addons.policy.making import facts

NAMES = ["bank.example", "www.bank.example", "a.www.bank.example", "evil.example", "x.co.uk", "10.0.0.1", "fd00::1",
         "Bank.Example.", "xn--bcher-kva.example", "b\u00fccher.example", "not a name", ""]  # fmt: skip
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.0.2.0/24", "fd00::/8", "0.0.0.0/0", "::/0"]
ADDRESSES = ["10.1.2.3", "10.0.0.1", "192.0.2.9", "fd00::1", "::ffff:10.1.2.3", "2001:db8::1", ""]
CATEGORIES: dict[str, tuple[str | Suffix, ...]] = {
    "news": (".news.example", "evil.example"),
    "bank": (".bank.example", Suffix(".uk")),
}
FINGERPRINTS = ["t13d1516h2_8daaf6152771_02713d6af862", "t13d1516h2_8daaf6152771_02713d6af863"]
ALPNS = ["h2", "http/1.1"]
domains = st.one_of(
    st.sampled_from(["bank.example", ".bank.example", "www.bank.example", ".example.", ".b\u00fccher.example"]),
    st.sampled_from([Suffix(".co.uk"), Suffix("uk")]),
)  # fmt: skip


def some[T](of: st.SearchStrategy[T], most: int = 2) -> st.SearchStrategy[tuple[T, ...]]:
    """Often nothing, sometimes a few."""
    return st.one_of(st.just(()), st.lists(of, min_size=1, max_size=most).map(tuple))


hours = st.sampled_from(["", "07:00-19:00", "22:00-06:00", "00:00-24:00", "12:00-12:01,13:00-14:00"])
rules = st.builds(
    Rule,
    name=st.just("x"),
    action=st.sampled_from(["decrypt", "bypass", "block"]),
    expires=st.sampled_from([None, dt.date(2026, 3, 2), dt.date(2026, 3, 4)]),
    from_=st.builds(
        From,
        networks=some(st.sampled_from(NETWORKS)),
        except_networks=some(st.sampled_from(NETWORKS[:5])),
        users=some(st.sampled_from(["alice", "bob"]), 1),
        groups=some(st.sampled_from(["staff", "guests"]), 1),
    ),
    to=st.builds(
        To,
        domains=some(domains),
        categories=some(st.sampled_from(["news", "bank"]), 1),
        networks=some(st.sampled_from(NETWORKS)),
        ports=st.sampled_from([(), (443,), (80, "400-500"), ("1-65535",)]),
    ),
    client=st.builds(Client, ja4=some(st.sampled_from(FINGERPRINTS), 1), alpn=some(st.sampled_from(ALPNS), 1)),
    when=st.one_of(
        st.none(),
        st.builds(
            When,
            days=st.sampled_from(["", "mon-fri", "sat,sun", "fri-mon", "wed"]),
            hours=hours,
            zone=st.sampled_from(["UTC", "Europe/Rome", "America/New_York"]),
        ),
    ),
    listener=st.sampled_from(["", "", "", "127.0.0.1:8080"]),
)


def sparse(rule: Rule, keep: set[str]) -> Rule:
    """The rule with most of its demands taken away: a rule that demands everything matches nothing."""
    empty = Rule(name=rule.name, action=rule.action)
    kept = {name: getattr(rule, name) for name in keep}
    made = structs.replace(empty, **kept)
    if made.action == "bypass" and not (made.to.domains or made.to.categories or made.to.networks or made.to.ports):
        made = structs.replace(made, to=structs.replace(made.to, everything=True))
    return made


FIELDS = ["expires", "from_", "to", "client", "when", "listener"]
sparse_rules = st.builds(sparse, rules, st.sets(st.sampled_from(FIELDS), max_size=3))


def numbered(all_: list[Rule]) -> tuple[Rule, ...]:
    """Each with a name of its own."""
    return tuple(structs.replace(one, name=f"rule{number}") for number, one in enumerate(all_))


policies = st.builds(
    Policy,
    default=st.sampled_from(["decrypt", "bypass", "block"]),
    no_sni=st.sampled_from(["decrypt", "decrypt", "block"]),
    categories=st.just(CATEGORIES),
    rules=st.lists(sparse_rules, max_size=8).map(numbered),
)
_WEEK = dt.datetime(2026, 3, 1), dt.datetime(2026, 3, 9)  # noqa: DTZ001  # the zone is said apart


def consistent(asked: Facts) -> Facts:
    """An address is its own only address."""
    if number(asked.host) is not None:
        asked.addresses = (asked.host,)
    return asked


whole_facts = st.builds(
    facts,
    host=st.sampled_from(NAMES),
    mode=st.sampled_from(["explicit", "explicit", "socks5", "transparent", "upstream", "inbound"]),
    client_ip=st.sampled_from(ADDRESSES),
    port=st.sampled_from([443, 80, 450]),
    user=st.sampled_from(["", "alice"]),
    user_groups=st.sampled_from([(), ("staff",), ("guests", "others")]),
    plain=st.sampled_from([False, False, False, True]),
    listener=st.sampled_from(["", "127.0.0.1:8080"]),
    hello=st.just(True),
    sni=st.sampled_from(NAMES),
    sni_proved=st.booleans(),
    ja4=st.sampled_from(["", *FINGERPRINTS]),
    alpn=st.sampled_from([(), ("h2",), ("http/1.1", "h2")]),
    addresses=st.lists(st.sampled_from(ADDRESSES[:-1]), max_size=3).map(tuple),
    at=st.datetimes(*_WEEK, timezones=st.just(dt.UTC)),
).map(consistent)


@dataclass
class Known:
    """How much of the facts is known yet."""

    hello: bool
    addresses: bool
    proof: bool

    def of(self, whole: Facts) -> Facts:
        """The facts as they are before the rest is known."""
        asked = structs.replace(whole)
        if asked.plain or not self.hello:
            asked = structs.replace(asked, hello=False, sni="", ja4="", alpn=(), sni_proved=None)
        if not self.addresses:
            asked.addresses = None
        if not self.proof:
            asked.sni_proved = None
        return asked


known = st.builds(Known, st.booleans(), st.booleans(), st.booleans())


def compiled_without_shadows(written: Policy) -> Compiled:
    """The policy without the rules that can never match, for those are refused."""
    kept: list[Rule] = []
    for one in written.rules:
        try:
            compiled(structs.replace(written, rules=(*kept, one)))
        except ValueError:
            continue
        kept.append(one)
    return compiled(structs.replace(written, rules=tuple(kept)))
