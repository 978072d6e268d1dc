"""`hsmitm policy show`: the policy as it is understood, every rule, profile and acceptance with every value."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from addons.policy import times
from addons.policy.compiling import CompiledRule, said
from addons.policy.rules import Compiled
from addons.policy.settings import Accept, Profile


class ShownRule(Struct, frozen=True, kw_only=True):
    """A rule: names as A-labels, networks joined, and whether it is over."""

    number: int
    name: str
    action: str
    profile: str
    log: str
    hsm_unavailable: str | None
    expires: str | None
    over: bool
    criteria: dict[str, list[str]]


class Shown(Struct, frozen=True, kw_only=True):
    """What is printed with `--json`."""

    version: str
    mode: str
    default: str
    no_sni: str
    probe: str
    rules: list[ShownRule]
    categories: dict[str, list[str]]
    profiles: dict[str, Profile]
    accepts: list[Accept]
    warnings: list[str]


def shown(policy: Compiled, at: dt.datetime) -> Shown:
    """The policy as it is at `at`."""
    return Shown(
        version=policy.version,
        mode=policy.mode,
        default=policy.default,
        no_sni=policy.no_sni,
        probe=policy.probe,
        rules=[_rule(number, one, at) for number, one in enumerate(policy.rules, 1)],
        categories={name: [str(one) for one in listed.all] for name, listed in policy.lists.items()},
        profiles=policy.profiles,
        accepts=list(policy.accepts),
        warnings=policy.warnings(at),
    )


def _rule(number: int, compiled: CompiledRule, at: dt.datetime) -> ShownRule:
    rule = compiled.rule
    return ShownRule(
        number=number,
        name=rule.name,
        action=rule.action,
        profile=rule.profile,
        log=rule.log,
        hsm_unavailable=rule.hsm_unavailable,
        expires=rule.expires.isoformat() if rule.expires else None,
        over=rule.expires is not None and times.is_over(rule.expires, at),
        criteria=dict(_criteria(compiled)),
    )


def _criteria(compiled: CompiledRule) -> Iterator[tuple[str, list[str]]]:
    rule = compiled.rule
    everything: dict[str, Any] = {
        "listener": [rule.listener] if rule.listener else [],
        "from.networks": compiled.within.all,
        "from.except_networks": compiled.without.all,
        "from.users": sorted(compiled.users),
        "from.groups": sorted(compiled.groups),
        "to.domains": compiled.domains.all,
        "to.categories": sorted(compiled.categories),
        "to.networks": compiled.destinations.all,
        "to.ports": [said(one) for one in compiled.ports],
        "client.ja4": rule.client.ja4,
        "client.alpn": rule.client.alpn,
        "when": _when(compiled),
    }
    for field, values in everything.items():
        if values:
            yield field, [str(one) for one in values]


def _when(compiled: CompiledRule) -> list[str]:
    when = compiled.rule.when
    return [f"{when.days or 'every day'}, {when.hours or 'all day'} ({when.zone})"] if when else []


def lines(found: Shown) -> Iterator[str]:
    """What is printed for people."""
    yield f"policy {found.version}: mode {found.mode}, no_sni {found.no_sni}, probe {found.probe}"
    for one in found.rules:
        yield ""
        over = ", which is OVER: it no longer matches" if one.over else ""
        yield f"{one.number}. {one.name}: {one.action}{f', until {one.expires}' if one.expires else ''}{over}"
        for field, values in one.criteria.items():
            yield f"     {field}: {', '.join(values)}"
        if not one.criteria:
            yield "     every connection"
        more = f", hsm_unavailable {one.hsm_unavailable}" if one.hsm_unavailable else ""
        yield f"     profile {one.profile}, log {one.log}{more}"
    yield ""
    yield f"what no rule matches: {found.default} (profile default); our own sites: decrypt"
    for name, domains in found.categories.items():
        yield f"category {name}: {', '.join(domains)}"
    for name, profile in found.profiles.items():
        yield ""
        yield f"profile {name}{' (built in)' if name == 'default' and profile == Profile() else ''}"
        for field, value in msgspec.structs.asdict(profile).items():
            yield f"     {field} = {_toml(value)}"
    for accept in found.accepts:
        yield ""
        yield f"accepted until {accept.expires.isoformat()}: {accept.host} with the key {accept.spki_sha256}"
        yield f"     {accept.reason}"
    for warning in found.warnings:
        yield f"warning: {warning}"


def _toml(value: object) -> str:
    return msgspec.json.encode(value).decode()
