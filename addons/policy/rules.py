"""The policy, compiled: everything parsed and checked, and rules filed so that a decision walks few of them. Pure.

Who compiles it is the configuration (`proxy.config`); who asks it is `addons.policy.decision`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from addons.policy import coverage, times
from addons.policy import profiles as checked_profiles
from addons.policy.case import Case
from addons.policy.compiling import CompiledRule, named
from addons.policy.domains import Domains, DomainTable
from addons.policy.lookup import Lookup
from addons.policy.settings import NAME, NAME_WORDS, Accept, ClientCertificate, Policy, Profile, Rule, Suffix
from hsm import names

SOON = dt.timedelta(days=30)
"""How long before the end of a rule or an acceptance is told of it."""
_DEFAULT = "default"


class Compiled:
    """The policy in force. It never changes: a reload makes another.

    `version` is short, and another for every change of the policy; `accepts` are `[[upstream.accept]]`, with hosts as
    names are checked (A-labels in lower case, or an address); `lists` are the categories by their names;
    `certificates` are ours for servers that ask for one.
    """

    def __init__(
        self,
        policy: Policy,
        profiles: Mapping[str, Profile],
        accepts: Sequence[Accept],
        certificates: Sequence[ClientCertificate] = (),
    ) -> None:
        """Raises ValueError: the rule, the field, and what is wrong."""
        self.settings = policy
        self.mode, self.default, self.no_sni, self.probe = policy.mode, policy.default, policy.no_sni, policy.probe
        for name, profile in profiles.items():
            checked_profiles.check(name, profile)
        self.profiles: dict[str, Profile] = {_DEFAULT: Profile(), **profiles}
        self.lists = {
            name: named(f"policy.categories.{name}", _category, name, listed)
            for name, listed in policy.categories.items()
        }
        self.categories = DomainTable((domain, name) for name, listed in self.lists.items() for domain in listed.all)
        self.rules = tuple(self._compiled(number, rule) for number, rule in enumerate(policy.rules))
        self._by_name: dict[str, Rule] = {}
        for number, rule in enumerate(policy.rules):
            if self._by_name.setdefault(rule.name, rule) is not rule:
                raise ValueError(f"{_where(number, rule)}: name: another rule has this name; each needs its own")
        self._lookup = Lookup(self.rules)
        self.shadows = tuple(self._find_shadows())
        self.accepts = tuple(_accept(number, one) for number, one in enumerate(accepts))
        self.certificates = {one.name: one for one in certificates}
        whole = msgspec.json.encode((policy, profiles, accepts, certificates))
        self.version = hashlib.sha256(whole).hexdigest()[:12]

    def _compiled(self, number: int, rule: Rule) -> CompiledRule:
        where = _where(number, rule)
        if rule.profile not in self.profiles:
            raise ValueError(
                f"{where}: profile: there is no profile '{rule.profile}'; there are {', '.join(sorted(self.profiles))}"
            )
        return named(where, CompiledRule, rule, self.lists)

    def _find_shadows(self) -> Iterator[str]:
        """Sentences about rules that match only what an earlier bypass does not take for honest. Raises ValueError
        for a rule that can never match."""
        for number, later in enumerate(self.rules):
            for candidate in self._lookup.covering(later, self.lists):
                earlier = self.rules[candidate]
                if candidate >= number or not coverage.covers(earlier, later, self.lists):
                    continue
                if earlier.action != "bypass" or later.action == "bypass":
                    raise ValueError(
                        f"{_where(number, later.rule)}: it can never match, because the rule '{earlier.rule.name}' "
                        "before it covers all of it; put it before that rule, or remove it"
                    )
                yield (
                    f"{_where(number, later.rule)}: the rule '{earlier.rule.name}' before it covers all of it, so that "
                    "it matches only where the SNI is another than the host that was asked for, or is not proved"
                )

    def candidates(self, case: Case) -> Iterator[CompiledRule]:
        """The rules that may match, the first one first."""
        rules = self.rules
        return (rules[number] for number in self._lookup.numbers(case))

    @property
    def passes(self) -> bool:
        """Whether there is anything that may be passed uninspected."""
        return self.default == "bypass" or any(
            one.action == "bypass" or one.rule.hsm_unavailable == "bypass" for one in self.rules
        )

    def profile(self, name: str) -> Profile:
        """The profile of that name; there is one for every `Decision.profile`."""
        return self.profiles[name]

    def rule(self, name: str) -> Rule | None:
        """The rule of that name; None for "default" and "no_sni", which are none."""
        return self._by_name.get(name)

    def warnings(self, at: dt.datetime) -> list[str]:
        """What an operator should know of a policy that is right: what has ended, ends soon, or hardly matches."""
        ends = [(_where(number, rule), rule.expires) for number, rule in enumerate(self.settings.rules)]
        ends += [(f"upstream.accept[{number}] '{one.host}'", one.expires) for number, one in enumerate(self.accepts)]
        ending = filter(None, (_ending(where, expires, at) for where, expires in ends))
        return [*ending, *self.shadows, *self._of_nobody()]

    def _of_nobody(self) -> Iterator[str]:
        for number, one in enumerate(self.rules):
            if one.users or one.groups:
                field = "from.users" if one.users else "from.groups"
                yield (
                    f"{_where(number, one.rule)}: {field}: nothing tells users and groups yet, so that the rule never "
                    "matches"
                )


def compiled(
    policy: Policy,
    profiles: Mapping[str, Profile] | None = None,
    accepts: Sequence[Accept] = (),
    certificates: Sequence[ClientCertificate] = (),
) -> Compiled:
    """The policy, checked. Raises ValueError: the rule, the field, what is wrong, what would be right."""
    return Compiled(policy, profiles or {}, accepts, certificates)


def _category(name: str, listed: Sequence[str | Suffix]) -> Domains:
    if not re.fullmatch(NAME, name):
        raise ValueError(NAME_WORDS)
    if not listed:
        raise ValueError("a category without domains; write some, or remove it")
    return Domains(listed)


def _where(number: int, rule: Rule) -> str:
    return f"policy.rules[{number}] '{rule.name}'"


def _ending(where: str, expires: dt.date | None, at: dt.datetime) -> str | None:
    if expires is None or expires > (at + SOON).astimezone(dt.UTC).date():
        return None
    if times.is_over(expires, at):
        return f"{where}: expires: {expires.isoformat()} is over, so it no longer holds"
    return f"{where}: expires: it ends with {expires.isoformat()}"


def _accept(number: int, written: Accept) -> Accept:
    try:
        if "*" in written.host:
            raise ValueError(f"'{written.host}' stands for many hosts; write one")
        return msgspec.structs.replace(written, host=names.to_ascii(written.host))
    except ValueError as error:
        raise ValueError(f"upstream.accept[{number}]: host: {error}") from None
