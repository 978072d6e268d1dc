"""Whether an earlier rule leaves nothing for a later one: every connection that the later matches, it has taken. Pure.

Each field is compared alone, and a rule with a rule: what several earlier rules cover together is not found.
"""

from __future__ import annotations

from collections.abc import Mapping

from addons.policy.compiling import CompiledRule
from addons.policy.domains import Domains


def covers(earlier: CompiledRule, later: CompiledRule, categories: Mapping[str, Domains]) -> bool:
    """Whether all that `later` demands implies all that `earlier` demands, but for the proof that a bypass needs."""
    one, other = earlier.rule, later.rule
    return (
        (not one.listener or one.listener == other.listener)
        and (one.expires is None or (other.expires is not None and other.expires <= one.expires))
        and _has_who(earlier, later)
        and _has_names(earlier, later, categories)
        and _has_ports(earlier, later)
        and _has_sources(earlier, later)
        and _has_destinations(earlier, later)
        and _has(one.client.ja4, other.client.ja4)
        and _has(one.client.alpn, other.client.alpn)
        and (earlier.week is None or (later.week is not None and earlier.week.covers(later.week)))
    )


def _has(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return not one or (bool(other) and set(other) <= set(one))


def _has_who(one: CompiledRule, other: CompiledRule) -> bool:
    if not (one.users or one.groups):
        return True
    return bool(other.users or other.groups) and other.users <= one.users and other.groups <= one.groups


def _has_names(one: CompiledRule, other: CompiledRule, categories: Mapping[str, Domains]) -> bool:
    if not one.by_name:
        return True
    if not other.by_name:
        return False
    mine = [*one.domains.all, *(domain for name in one.categories for domain in categories[name].all)]
    theirs = [*other.domains.all]
    for name in other.categories - one.categories:
        theirs += categories[name].all
    return all(any(domain.covers(wanted) for domain in mine) for wanted in theirs)


def _has_ports(one: CompiledRule, other: CompiledRule) -> bool:
    if not one.ports:
        return True
    return bool(other.ports) and all(any(port in span for span in one.ports) for ports in other.ports for port in ports)


def _has_sources(one: CompiledRule, other: CompiledRule) -> bool:
    if one.within and not (other.within and all(map(one.within.covers, other.within.all))):
        return False
    return all(
        other.without.covers(lacking) or (bool(other.within) and not other.within.touches(lacking))
        for lacking in one.without.all
    )


def _has_destinations(one: CompiledRule, other: CompiledRule) -> bool:
    if not one.destinations:
        return True
    if one.action == "bypass" and other.action != "bypass":
        return False
    return bool(other.destinations) and all(map(one.destinations.covers, other.destinations.all))
