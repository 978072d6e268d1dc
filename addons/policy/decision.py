"""The decision: what becomes of a connection, from its facts and the compiled policy. Pure: no I/O, and no clock.

The proxy, `hsmitm policy test`, `policy replay` and `explain` call this very function. In warn mode it says what would
have become of the connection, and `Decision.acts` what does.
"""

from __future__ import annotations

from msgspec import Struct

from addons.policy.case import Case
from addons.policy.compiling import CompiledRule
from addons.policy.criteria import Criterion
from addons.policy.rules import Compiled
from addons.policy.settings import Action
from addons.records.facts import Decision, Facts, Missing

DEFAULT = "default"
"""What `Decision.rule` says where no rule matched."""
NO_SNI = "no_sni"
"""What it says where `no_sni` blocks."""


def decide(facts: Facts, policy: Compiled) -> Decision:
    """The first rule that matches decides, else the default.

    A rule of which something is not known yet (`Decision.missing`) is passed over, and the decision is not settled.
    Plain HTTP has nothing to bypass: a rule with "bypass" has it go on as every request does.
    """
    case = Case(facts, policy.categories)
    missing: set[Missing] = set()
    matched = None
    for rule in policy.candidates(case):
        if missing and rule.idle(case, missing):
            continue
        verdict = rule.verdict(case)
        if verdict is True:
            matched = rule
            break
        if verdict:
            missing |= verdict
    return _decision(case, policy, matched, missing)


def _decision(case: Case, policy: Compiled, matched: CompiledRule | None, missing: set[Missing]) -> Decision:
    facts = case.facts
    default: Action = "decrypt" if facts.mode == "inbound" else policy.default
    action = matched.action if matched else default
    name = matched.rule.name if matched else DEFAULT
    reason = f"rule '{name}' says {action}" if matched else f"no rule matches, and the default is {action}"
    if action == "bypass" and facts.plain:
        action, reason = "decrypt", f"{reason}; plain HTTP is not encrypted, and goes on as a request"
    if policy.no_sni == "block" and action != "block" and facts.mode != "inbound" and not facts.plain:
        if case.hello_comes:
            missing = missing | {"hello"}
        elif not case.sni.text:  # an SNI that is no host name names nobody
            action, name, reason = "block", NO_SNI, "the client names no host (SNI), and no_sni is block"
    return Decision(
        rule=name,
        action=action,
        profile=matched.rule.profile if matched else DEFAULT,
        reason=reason,
        settled=not missing,
        missing=tuple(one for one in _ORDER if one in missing),
        categories=tuple(sorted(case.categories)),
        log=matched.rule.log if matched else "all",
        hsm_unavailable=matched.rule.hsm_unavailable if matched else None,
        enforced=policy.mode == "enforce",
    )


_ORDER: tuple[Missing, ...] = ("hello", "addresses", "proof")


class Miss(Struct, frozen=True):
    """A rule that did not match: its first field that does not hold, and why; `waits`: it is not known yet."""

    rule: str
    field: str
    why: str
    waits: bool = False


def explained(facts: Facts, policy: Compiled) -> tuple[Decision, list[Miss]]:
    """The decision, and each rule before the one that matched, with its first criterion that does not hold."""
    case = Case(facts, policy.categories)
    decision = decide(facts, policy)
    misses = []
    for rule in policy.rules:
        if rule.verdict(case) is True:
            break
        misses.append(_miss(rule, case))
    return decision, misses


def _miss(rule: CompiledRule, case: Case) -> Miss:
    waiting: Criterion | None = None
    for one in rule.criteria:
        verdict = one.holds(case)
        if verdict is False:
            return Miss(rule.rule.name, one.field, one.told(case))
        if verdict is not True and waiting is None:
            waiting = one
    assert waiting is not None
    return Miss(rule.rule.name, waiting.field, f"not known yet: {waiting.holds(case)}", waits=True)
