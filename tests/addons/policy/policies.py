"""Policies for tests, and a context in which layers ask them."""

from __future__ import annotations

from typing import Any, Literal

from mitmproxy.test import taddons

from addons.policy.addon import PolicyAddon
from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Policy, Profile, Rule, To


def policy(*rules: Rule, profiles: dict[str, Profile] | None = None, **fields: Any) -> Compiled:
    """A policy of these rules."""
    return compiled(Policy(rules=rules, **fields), profiles)


def rule(name: str, action: Literal["decrypt", "bypass", "block"], *domains: str, **fields: Any) -> Rule:
    """A rule for these domains."""
    return Rule(name=name, action=action, to=To(domains=domains), **fields)


def within(name: str, action: Literal["decrypt", "bypass", "block"], *networks: str) -> Rule:
    """A rule for destinations in these networks."""
    return Rule(name=name, action=action, to=To(networks=networks))


def asking(compiled_: Compiled) -> taddons.context:
    """A context in which layers ask this policy."""
    return taddons.context(PolicyAddon(compiled_))
