"""What a rule demands, one class for each field: whether it holds for a case, and in words why not. Pure.

`holds` gives True, False, or what it waits for where that is not known yet. `decide` and the explanation that
`hsmitm policy test` prints ask the same objects.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from addons.policy import times
from addons.policy.case import Case
from addons.policy.domains import Domains
from addons.policy.networks import Networks
from addons.policy.times import Week
from addons.records.facts import Missing

Verdict = bool | Missing


class Criterion:
    """One demand. `field` is what the file calls it."""

    field = ""

    def holds(self, case: Case) -> Verdict:
        """Whether the case meets it."""
        raise NotImplementedError

    def told(self, case: Case) -> str:
        """Why it does not hold, as half a sentence."""
        raise NotImplementedError


class Listener(Criterion):
    """`listener`: where the client came in."""

    field = "listener"

    def __init__(self, listener: str) -> None:
        self.listener = listener

    def holds(self, case: Case) -> Verdict:
        """Whether it came in there."""
        return case.facts.listener == self.listener

    def told(self, case: Case) -> str:
        """Which listener it was."""
        return f"the client came to {case.facts.listener or 'no listener that is known'}"


class Lasts(Criterion):
    """`expires`: the last day (UTC) on which the rule matches."""

    field = "expires"

    def __init__(self, expires: dt.date) -> None:
        self.expires = expires

    def holds(self, case: Case) -> Verdict:
        """Whether that day is not over."""
        return not times.is_over(self.expires, case.facts.at)

    def told(self, case: Case) -> str:
        """When it ended."""
        return f"the rule ended with {self.expires.isoformat()} (UTC)"


class Source(Criterion):
    """`from.networks` and `from.except_networks`."""

    field = "from.networks"

    def __init__(self, within: Networks, without: Networks) -> None:
        self.within, self.without = within, without
        self.field = "from.networks" if within else "from.except_networks"

    def holds(self, case: Case) -> Verdict:
        """Whether the client's address is in one, and not an exception."""
        if case.source is None:
            return False
        return (not self.within or case.source in self.within) and case.source not in self.without

    def told(self, case: Case) -> str:
        """Where the client is."""
        where = case.facts.client_ip or "the client's address"
        if case.source is not None and case.source in self.without:
            return f"{where} is in except_networks"
        return f"{where} is in none of the networks"


class Who(Criterion):
    """`from.users` and `from.groups`: one of them is enough."""

    field = "from.users"

    def __init__(self, users: Iterable[str], groups: Iterable[str]) -> None:
        self.users, self.groups = frozenset(users), frozenset(groups)
        self.field = "from.users" if self.users else "from.groups"

    def holds(self, case: Case) -> Verdict:
        """Whether the client is one of these, or in one of the groups."""
        return case.facts.user in self.users or not self.groups.isdisjoint(case.facts.user_groups)

    def told(self, case: Case) -> str:
        """Who the client is."""
        groups = f" (groups: {', '.join(case.facts.user_groups)})" if case.facts.user_groups else ""
        return f"the user is {case.facts.user or 'not known'}{groups}"


class Called(Criterion):
    """`to.domains` and `to.categories`: one of them is enough."""

    def __init__(self, domains: Domains, categories: Iterable[str]) -> None:
        self.domains, self.categories = domains, frozenset(categories)
        self.field = "to.domains" if domains else "to.categories"

    def holds(self, case: Case) -> Verdict:
        """Whether the name that selects is one of these."""
        if case.name is None:
            return "hello"
        return case.name in self.domains or not self.categories.isdisjoint(case.categories)

    def told(self, case: Case) -> str:
        """Which name it is."""
        if case.name is None or not case.name.text:
            return "no host name is known"
        of = f" (categories: {', '.join(sorted(case.categories))})" if case.categories else ""
        return f"{case.name.text}{of} is in none of them"


class Ports(Criterion):
    """`to.ports`: ports and ranges of them."""

    field = "to.ports"

    def __init__(self, ports: Sequence[range]) -> None:
        self.ports = tuple(ports)

    def holds(self, case: Case) -> Verdict:
        """Whether the destination's port is one of these."""
        return any(case.facts.port in one for one in self.ports)

    def told(self, case: Case) -> str:
        """Which port it is."""
        return f"the port is {case.facts.port}"


class Destination(Criterion):
    """`to.networks`: what the host's name resolves to.

    A rule with "bypass" needs every address to be within, and a network that an IPv6 address only carries in itself
    (NAT64, 6to4, ...) does not count: anybody may own such an address. Any other rule takes one of them for enough.
    """

    field = "to.networks"

    def __init__(self, within: Networks, *, strict: bool) -> None:
        self.within, self.strict = within, strict

    def holds(self, case: Case) -> Verdict:
        """Whether the destination is within."""
        if case.addresses is None:
            return "addresses"
        if self.strict:
            return bool(case.addresses) and all(one in self.within for one in case.addresses)
        return any(one in self.within for one in case.faces)

    def told(self, case: Case) -> str:
        """Where the destination is."""
        if case.addresses is None:
            return "the host's addresses are not known"
        facts = case.facts
        known = ", ".join(facts.addresses or (facts.destination or facts.host,)) if case.addresses else ""
        if not known:
            return "the host has no address"
        return f"not all of {known} are in the networks" if self.strict else f"{known} is in none of the networks"


class Fingerprint(Criterion):
    """`client.ja4`: the ClientHello's JA4."""

    field = "client.ja4"

    def __init__(self, prints: Iterable[str]) -> None:
        self.prints = frozenset(prints)

    def holds(self, case: Case) -> Verdict:
        """Whether the fingerprint is one of these."""
        return "hello" if case.hello_comes else case.facts.ja4 in self.prints

    def told(self, case: Case) -> str:
        """What the fingerprint is."""
        return f"the JA4 fingerprint is {case.facts.ja4 or 'not known'}"


class Offers(Criterion):
    """`client.alpn`: a protocol that the ClientHello offers."""

    field = "client.alpn"

    def __init__(self, protocols: Iterable[str]) -> None:
        self.protocols = frozenset(protocols)

    def holds(self, case: Case) -> Verdict:
        """Whether one of these is offered."""
        return "hello" if case.hello_comes else not self.protocols.isdisjoint(case.facts.alpn)

    def told(self, case: Case) -> str:
        """What is offered."""
        return f"the client offers {', '.join(case.facts.alpn) or 'no ALPN'}"


class During(Criterion):
    """`when`: days and hours in a zone."""

    field = "when"

    def __init__(self, week: Week) -> None:
        self.week = week

    def holds(self, case: Case) -> Verdict:
        """Whether it is such a time now."""
        return case.facts.at in self.week

    def told(self, case: Case) -> str:
        """What time it is there."""
        local = case.facts.at.astimezone(times.zone(self.week.zone))
        return f"it is {times.DAYS[local.weekday()]} {local:%H:%M} ({self.week.zone})"


class Honest(Criterion):
    """What a rule with "bypass" demands beside its fields: that the SNI cannot have chosen it by a lie.

    `named`: the rule has domains or categories.
    """

    field = "sni"

    def __init__(self, *, named: bool) -> None:
        self.named = named

    def holds(self, case: Case) -> Verdict:
        """Whether the SNI is that of the host asked for, or is proved where it selects."""
        if case.facts.plain:
            return True
        if case.by_sni:
            proved = case.facts.sni_proved if self.named else True
            return "proof" if proved is None else proved
        if case.name is None:  # an address, and the SNI is still to come: of no interest where no name is asked for
            return "hello" if self.named else True
        return "hello" if case.hello_comes else not case.differs

    def told(self, case: Case) -> str:
        """What is wrong with the SNI."""
        if case.by_sni:
            return f"{case.facts.sni} is what the client says, and nothing proves that the destination is it"
        return f"the client asked for {case.facts.host}, and its SNI is {case.facts.sni}"
