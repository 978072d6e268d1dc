"""The decision once more, as slowly and plainly as it can be written: every rule is read as it stands in the file.

It shares no code with `addons.policy` but the settings and the function for names that leaves use, so that what both
say alike is not one mistake. `decide` has to agree with it on anything.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import zoneinfo
from typing import Literal

from addons.policy.settings import Policy, Rule, Suffix
from addons.records.facts import Facts
from hsm import names

Answer = Literal["yes", "no", "open"]
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def decided(facts: Facts, policy: Policy) -> tuple[str, str, bool]:
    """The rule, the action, and whether that is settled."""
    settled = True
    rule, action = "default", "decrypt" if facts.mode == "inbound" else policy.default
    for one in policy.rules:
        found = matches(one, facts, policy)
        if found == "open":
            settled = False
        if found == "yes":
            rule, action = one.name, one.action
            break
    if facts.plain:
        return rule, "decrypt" if action == "bypass" else action, settled
    if policy.no_sni == "block" and facts.mode != "inbound" and action != "block":
        if not facts.hello:
            settled = False
        elif not ascii_name(facts.sni) or plain_address(facts.sni) is not None:
            rule, action = "no_sni", "block"
    return rule, action, settled


def matches(rule: Rule, facts: Facts, policy: Policy) -> Answer:
    """Whether the rule matches: all that it asks for must hold."""
    answers = [
        rule.listener in ("", facts.listener),
        rule.expires is None or facts.at.astimezone(dt.UTC).date() <= rule.expires,
        source(rule, facts),
        who(rule, facts),
        called(rule, facts, policy),
        port(rule, facts),
        destination(rule, facts),
        greeting(rule, facts),
        during(rule, facts.at),
        honest(rule, facts),
    ]
    if False in answers or "no" in answers:
        return "no"
    return "open" if "open" in answers else "yes"


def plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address; one that is IPv4 in IPv6's clothes undressed."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        return found.ipv4_mapped
    return found


def inside(text: str, networks: tuple[str, ...]) -> bool:
    """Whether the address is in one of the networks."""
    found = plain_address(text)
    return found is not None and any(found in ipaddress.ip_network(one) for one in networks)


def source(rule: Rule, facts: Facts) -> bool:
    """`from.networks`, without the exceptions."""
    within, without = rule.from_.networks, rule.from_.except_networks
    if not within and not without:
        return True
    return (
        plain_address(facts.client_ip) is not None
        and (not within or inside(facts.client_ip, within))
        and not inside(facts.client_ip, without)
    )


def who(rule: Rule, facts: Facts) -> bool:
    """`from.users` or `from.groups`."""
    if not rule.from_.users and not rule.from_.groups:
        return True
    return facts.user in rule.from_.users or any(one in rule.from_.groups for one in facts.user_groups)


def asked_for(facts: Facts) -> str | None:
    """The name that a client asked the proxy for, if it did."""
    if facts.mode in ("transparent", "inbound") and not facts.plain:
        return None
    return facts.host if facts.host and plain_address(facts.host) is None else None


def called(rule: Rule, facts: Facts, policy: Policy) -> Answer | bool:
    """`to.domains` or `to.categories`, of the name that selects."""
    domains = [*rule.to.domains]
    for category in rule.to.categories:
        domains += policy.categories[category]
    if not domains:
        return True
    name = asked_for(facts)
    if name is None and not facts.plain:
        if not facts.hello:
            return "open"
        name = facts.sni
    return bool(name) and any(in_domain(ascii_name(name or ""), one) for one in domains)


def ascii_name(name: str) -> str:
    """The name as leaves have it; "" for what cannot be one."""
    try:
        return names.to_ascii(name)
    except ValueError:
        return ""


def in_domain(name: str, written: str | Suffix) -> bool:
    """Whether a name is in an entry of a list of domains."""
    if isinstance(written, Suffix):
        written = "." + written.suffix.removeprefix(".")
    if written.startswith("."):
        above = names.to_ascii(written[1:])
        return name == above or name.endswith("." + above)
    return name == names.to_ascii(written)


def port(rule: Rule, facts: Facts) -> bool:
    """`to.ports`."""
    if not rule.to.ports:
        return True
    for one in rule.to.ports:
        first, _, last = str(one).partition("-")
        if int(first) <= facts.port <= int(last or first):
            return True
    return False


def destination(rule: Rule, facts: Facts) -> Answer | bool:
    """`to.networks`: of a bypass all addresses, of others one."""
    if not rule.to.networks:
        return True
    addresses = facts.addresses
    if addresses is None and plain_address(facts.host) is not None:
        addresses = (facts.host,)
    if addresses is None:
        return "open"
    found = [inside(one, rule.to.networks) for one in addresses]
    return all(found) and bool(found) if rule.action == "bypass" else any(found)


def greeting(rule: Rule, facts: Facts) -> Answer | bool:
    """`client`."""
    if not rule.client.ja4 and not rule.client.alpn:
        return True
    if not facts.hello and not facts.plain:
        return "open"
    return (not rule.client.ja4 or facts.ja4 in rule.client.ja4) and (
        not rule.client.alpn or any(one in rule.client.alpn for one in facts.alpn)
    )


def during(rule: Rule, at: dt.datetime) -> bool:
    """`when`: days in words, and hours that may end on the next day."""
    if rule.when is None:
        return True
    local = at.astimezone(zoneinfo.ZoneInfo(rule.when.zone))
    days = DAYS if not rule.when.days else listed(rule.when.days)
    now = local.strftime("%H:%M")
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    for span in rule.when.hours.split(",") if rule.when.hours else ["00:00-24:00"]:
        begins, ends = span.split("-")
        if begins < ends and begins <= now < ends and today in days:
            return True
        if begins > ends and ((now >= begins and today in days) or (now < ends and yesterday in days)):
            return True
    return False


def listed(days: str) -> list[str]:
    """The days of "fri-mon" or "sat,sun"."""
    found: list[str] = []
    for one in days.split(","):
        first, _, last = one.partition("-")
        day = DAYS.index(first)
        found.append(DAYS[day])
        while last and DAYS[day] != last:
            day = (day + 1) % 7
            found.append(DAYS[day])
    return found


def honest(rule: Rule, facts: Facts) -> Answer | bool:
    """What no client may choose by its SNI: a bypass."""
    if rule.action != "bypass" or facts.plain:
        return True
    asked = asked_for(facts)
    if asked is not None:
        if not facts.hello:
            return "open"
        return facts.sni == "" or (ascii_name(facts.sni) != "" and ascii_name(facts.sni) == ascii_name(asked))
    if not rule.to.domains and not rule.to.categories:
        return True
    if not facts.hello or facts.sni_proved is None:
        return "open"
    return facts.sni_proved
