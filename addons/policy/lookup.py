"""Rules filed by what they ask for first: which of them a case may match at all. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from addons.addresses import Network
from addons.policy.case import Case
from addons.policy.compiling import CompiledRule
from addons.policy.domains import Domain, Domains, DomainTable, met
from addons.policy.networks import NetworkTable


class Lookup:
    """Numbers of rules. Each rule is in one file, under each entry of its list."""

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        names: list[tuple[Domain, int]] = []
        destinations: list[tuple[Network, int]] = []
        sources: list[tuple[Network, int]] = []
        self._categories: dict[str, list[int]] = defaultdict(list)
        self._users: dict[str, list[int]] = defaultdict(list)
        self._groups: dict[str, list[int]] = defaultdict(list)
        self._always: list[int] = []
        self._named: list[int] = []
        self._at_networks: list[int] = []
        for number, rule in enumerate(rules):
            if rule.by_name:
                self._named.append(number)
                names += [(one, number) for one in rule.domains.all]
                for category in rule.categories:
                    self._categories[category].append(number)
            elif rule.by_destination:
                self._at_networks.append(number)
                destinations += [(one, number) for one in rule.destinations.all]
            elif rule.users or rule.groups:
                for user in rule.users:
                    self._users[user].append(number)
                for group in rule.groups:
                    self._groups[group].append(number)
            elif rule.within:
                sources += [(one, number) for one in rule.within.all]
            else:
                self._always.append(number)
        self._names = DomainTable(names)
        self._destinations = NetworkTable(destinations)
        self._sources = NetworkTable(sources)

    def numbers(self, case: Case) -> list[int]:
        """Of the rules that may match, the first one first. What is not known yet may be anything."""
        found = set(self._always)
        if case.name is None:
            found.update(self._named)
        else:
            found.update(self._names.find(case.name))
            for category in case.categories:
                found.update(self._categories.get(category, ()))
        if case.addresses is None:
            found.update(self._at_networks)
        else:
            for address in case.faces:
                found.update(self._destinations.find(address))
        found.update(self._users.get(case.facts.user, ()))
        for group in case.facts.user_groups:
            found.update(self._groups.get(group, ()))
        if case.source is not None:
            found.update(self._sources.find(case.source))
        return sorted(found)

    def covering(self, rule: CompiledRule, lists: Mapping[str, Domains]) -> list[int]:
        """Of the rules that may match all that `rule` matches: what they ask for has the first entry of its list.
        `lists` are the categories."""
        found = set(self._always)
        for domains in (rule.domains, *(lists[one] for one in rule.categories)):
            for first in domains.all[:1]:
                name = met(first.name)
                found.update(self._names.find(name))
                for category, listed in lists.items():
                    if category in rule.categories or name in listed:
                        found.update(self._categories.get(category, ()))
        for network in rule.destinations.all[:1]:
            found.update(self._destinations.find((network.version, int(network.network_address))))
        for network in rule.within.all[:1]:
            found.update(self._sources.find((network.version, int(network.network_address))))
        for user in rule.users:
            found.update(self._users.get(user, ()))
        for group in rule.groups:
            found.update(self._groups.get(group, ()))
        return sorted(found)
