"""`hsmitm policy test`: what becomes of a connection, by the very function that decides in the proxy."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from addons.policy.decision import Miss, explained
from addons.policy.demands import demanded
from addons.policy.rules import Compiled
from addons.records.facts import Decision, Facts
from proxy.commands.resolving import denied, resolved
from proxy.config.worker import WorkerConfig

_ACTS = {
    "decrypt": "inspected: the client sees a certificate of this proxy's CA",
    "bypass": "passed on unread: the client sees the server's own certificate",
    "block": "blocked: the client gets a page, or its connection is refused",
}
_PLAIN = "plain HTTP: every request is inspected, and there is no certificate"


class Answer(Struct, frozen=True, kw_only=True):
    """What is printed with `--json`. `acts` is what is done, which is another thing than `action` where the policy only
    warns. `if_proved` is the rule and action where it decides whether the destination has the name that the client
    says, and that is not known."""

    action: str
    acts: str
    rule: str
    profile: str
    reason: str
    mode: str
    plain: bool
    categories: tuple[str, ...]
    log: str
    hsm_unavailable: str | None
    addresses: tuple[str, ...]
    missed: tuple[Miss, ...]
    policy_version: str
    if_proved: dict[str, str] | None = None
    problem: str = ""
    denied: str = ""


def answer(facts: Facts, config: WorkerConfig) -> Answer:
    """The decision on these facts. The host's addresses are looked up where a rule asks for them."""
    problem, policy = "", config.policy
    decision, misses = explained(facts, policy)
    if "addresses" in decision.missing and facts.addresses is None:
        # Where another proxy looks the name up, a worker does not either.
        facts.addresses, problem = ((), "") if facts.mode == "upstream" else resolved(facts.host or facts.sni)
        decision, misses = explained(facts, policy)
    proved = None
    if "proof" in decision.missing:
        facts.sni_proved = True
        other = _held(facts, policy, explained(facts, policy)[0])
        proved = {"rule": other.rule, "action": other.action}
        facts.sni_proved = False
        decision, misses = explained(facts, policy)
    decision = _held(facts, policy, decision)
    return Answer(
        action=decision.action,
        acts=decision.acts,
        rule=decision.rule,
        profile=decision.profile,
        reason=decision.reason,
        mode=policy.mode,
        plain=facts.plain,
        categories=decision.categories,
        log=decision.log,
        hsm_unavailable=decision.hsm_unavailable,
        addresses=facts.addresses or (),
        missed=tuple(misses),
        policy_version=policy.version,
        if_proved=proved,
        problem=problem,
        denied=denied(config, facts.addresses or (), facts.port) if facts.mode != "inbound" else "",
    )


def _held(facts: Facts, policy: Compiled, decision: Decision) -> Decision:
    """The decision, with what the profile in force demands of the client itself."""
    return demanded(facts, decision, policy.profile(decision.profile if decision.enforced else "default"))


def lines(found: Answer) -> Iterator[str]:
    """What is printed for people."""
    yield f"{found.action}: {found.reason}"
    if found.mode == "warn":
        yield "the policy only warns (mode): everything is decrypted, and that is what would have happened"
    else:
        yield _PLAIN if found.plain and found.action == "decrypt" else _ACTS[found.action]
        yield f"profile: {found.profile}"
    if found.if_proved is not None:
        by = f"rule '{found.if_proved['rule']}'" if found.if_proved["rule"] != "default" else "the default"
        yield (
            "that is, unless the destination is proved to have the name that the client says, by our resolver or by "
            f"its certificate: then {found.if_proved['action']}, by {by} (--proved)"
        )
    if found.categories:
        yield f"categories: {', '.join(found.categories)}"
    if found.addresses:
        yield f"addresses: {', '.join(found.addresses)}"
    if found.problem:
        yield found.problem
    if found.denied and found.acts != "block":
        yield f"blocked all the same: its address is denied by '{found.denied}' of [proxy] deny_destinations"
    for one in found.missed:
        yield f"not by '{one.rule}': {one.field}: {one.why}"
