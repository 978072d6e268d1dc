"""One rule, from what an operator wrote to criteria: parsed once, and refused in words that name the field. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from addons.policy.case import Case
from addons.policy.criteria import (
    Called,
    Criterion,
    Destination,
    During,
    Fingerprint,
    Honest,
    Lasts,
    Listener,
    Offers,
    Ports,
    Source,
    Who,
)
from addons.policy.domains import Domains
from addons.policy.networks import Networks
from addons.policy.settings import Action, Rule, When
from addons.policy.times import Week
from addons.records.facts import Missing

RESERVED = ("default", "no_sni")
"""What the log calls a decision that is no rule's."""
_JA4 = re.compile(r"[tqd][0-9s][0-9][di][0-9]{4}[0-9A-Za-z]{2}_[0-9a-f]{12}_[0-9a-f]{12}")


def named[**P, T](field: str, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `make` makes; its ValueError gets the field's name in front."""
    try:
        return make(*args, **kwargs)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


class CompiledRule:
    """A rule as it is asked. What it does not demand is None or empty."""

    def __init__(self, rule: Rule, categories: Collection[str]) -> None:
        """`categories` are the names of those that there are. Raises ValueError: the field, and what is wrong."""
        self.rule = rule
        self.action: Action = rule.action
        self.within = named("from.networks", Networks, rule.from_.networks)
        self.without = named("from.except_networks", Networks, rule.from_.except_networks)
        self.users, self.groups = frozenset(rule.from_.users), frozenset(rule.from_.groups)
        self.domains = named("to.domains", Domains, rule.to.domains)
        self.categories = frozenset(rule.to.categories)
        self.destinations = named("to.networks", Networks, rule.to.networks)
        self.ports = named("to.ports", port_ranges, rule.to.ports)
        self.week = _week(rule.when) if rule.when else None
        self._check(categories)
        self.criteria = tuple(self._criteria())
        self.by_name = bool(self.domains or self.categories)
        self.by_destination = bool(self.destinations) and not self.by_name

    def _check(self, categories: Collection[str]) -> None:
        rule, to = self.rule, self.rule.to
        if rule.name in RESERVED:
            raise ValueError(f"name: '{rule.name}' is what the log calls a decision of no rule; choose another name")
        for field, listed in {"from.users": rule.from_.users, "from.groups": rule.from_.groups,
                              "client.alpn": rule.client.alpn}.items():  # fmt: skip
            if "" in listed:  # that is what is known of somebody of whom nothing is known
                raise ValueError(f"{field}: an empty name; leave the list empty where everybody is meant")
        for one in rule.client.ja4:
            if not _JA4.fullmatch(one):
                raise ValueError(
                    f"client.ja4: '{one}' is no JA4 fingerprint, such as t13d1516h2_8daaf6152771_02713d6af862"
                )
        for one in to.categories:
            if one not in categories:
                known = f"there are {', '.join(sorted(categories))}" if categories else "[policy.categories] has none"
                raise ValueError(f"to.categories: there is no category '{one}'; {known}")
        lists = to.domains or to.categories or to.networks
        if to.everything and lists:
            raise ValueError("to.everything: it is said beside domains, categories or networks; leave one of them out")
        if rule.action == "bypass" and not (lists or to.ports or to.everything):
            raise ValueError(
                "to: a bypass of every destination; write to = { everything = true } where that is meant, or where to"
            )

    def _criteria(self) -> Iterator[Criterion]:
        """Of what is demanded, in the order of the file; an explanation tells of the first that fails."""
        rule, bypass = self.rule, self.action == "bypass"
        if rule.listener:
            yield Listener(rule.listener)
        if rule.expires:
            yield Lasts(rule.expires)
        if self.within or self.without:
            yield Source(self.within, self.without)
        if self.users or self.groups:
            yield Who(self.users, self.groups)
        if self.domains or self.categories:
            yield Called(self.domains, self.categories)
        if self.ports:
            yield Ports(self.ports)
        if self.destinations:
            yield Destination(self.destinations, strict=bypass)
        if rule.client.ja4:
            yield Fingerprint(rule.client.ja4)
        if rule.client.alpn:
            yield Offers(rule.client.alpn)
        if self.week:
            yield During(self.week)
        if bypass:
            yield Honest(named=bool(self.domains or self.categories))

    def verdict(self, case: Case) -> bool | set[Missing]:
        """Whether it matches; what it waits for where that is not known yet."""
        missing: set[Missing] = set()
        for one in self.criteria:
            found = one.holds(case)
            if found is False:
                return False
            if found is not True:
                missing.add(found)
        return missing or True

    def idle(self, case: Case, missing: set[Missing]) -> bool:
        """Whether it waits for what is among `missing` already, and need not be asked."""
        if self.by_name:
            return case.name is None and "hello" in missing
        return self.by_destination and "addresses" in missing


def _week(when: When) -> Week:
    try:
        return Week.parse(when)
    except ValueError as error:
        raise ValueError(f"when.{error}") from None


def port_ranges(written: Collection[int | str]) -> list[range]:
    """From 443 and "8000-8099". Raises ValueError, where two overlap, too."""
    found: list[range] = []
    for one in written:
        span = _port_range(one)
        for other in found:
            if span.start < other.stop and other.start < span.stop:
                raise ValueError(f"'{one}' overlaps {said(other)}; write each port once")
        found.append(span)
    return found


def _port_range(written: int | str) -> range:
    first, dash, last = str(written).partition("-")
    if not _is_number(first) or (dash and not _is_number(last)):
        raise ValueError(f"'{written}' is no port; write 443 or \"8000-8099\"")
    found = range(int(first), int(last or first) + 1)
    if not found or found.start < 1 or found.stop > 65536:
        raise ValueError(f"'{written}': ports are 1 to 65535, the smaller one first")
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


def said(ports: range) -> str:
    """A range of ports as it is written."""
    return str(ports.start) if len(ports) == 1 else f"{ports.start}-{ports.stop - 1}"
