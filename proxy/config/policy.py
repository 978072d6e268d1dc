"""[policy], [profiles.NAME] and [[upstream.accept]] of hsmitm.toml: what becomes of connections and of servers' faults.

Names, defaults and bounds are those of `addons.policy.settings`. The whole is compiled when the file is read, so that
what is wrong in it is said then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import structs

from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Accept, Policy, Profile, Rule
from proxy.config.section import Address, Section


class PolicySection(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[policy]: which connections are decrypted, bypassed and blocked."""


class UpstreamSection(Section, frozen=True):
    """[upstream]: sites whose broken certificate is accepted."""

    accept: tuple[Accept, ...] = ()


def taken(
    policy: PolicySection, profiles: Mapping[str, Profile], upstream: UpstreamSection, listeners: Collection[str]
) -> Compiled:
    """The policy as it is decided by; `listeners` are the addresses where clients come in, as the file writes them.

    Raises ValueError: the rule, the field, what is wrong, what would be right.
    """
    known = {str(Address.parse(one)) for one in listeners}
    rules = tuple(_placed(number, rule, known) for number, rule in enumerate(policy.rules))
    return compiled(structs.replace(policy, rules=rules), profiles, upstream.accept)


def _placed(number: int, rule: Rule, known: Collection[str]) -> Rule:
    """The rule with its listener as connections name theirs."""
    if not rule.listener:
        return rule
    where = f"policy.rules[{number}] '{rule.name}': listener"
    try:
        found = str(Address.parse(rule.listener))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if found not in known:
        raise ValueError(f"{where}: nobody listens on {rule.listener}; there are {', '.join(sorted(known))}")
    return structs.replace(rule, listener=found)
