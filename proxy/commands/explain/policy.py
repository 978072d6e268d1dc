"""What the policy does with a connection, asked of the very function that decides in the proxy."""

from __future__ import annotations

import datetime as dt

from addons.policy import times
from addons.policy.decision import explained
from addons.policy.settings import Accept
from addons.records.facts import Decision, Facts, Mode
from proxy.commands.explain.report import Missed, PolicyPart, Question
from proxy.commands.resolving import denied, is_address, resolved
from proxy.config.section import Address
from proxy.config.worker import WorkerConfig

_MODES: dict[str, Mode] = {"transparent": "transparent", "socks5": "socks5", "regular": "explicit"}


def policy(config: WorkerConfig, question: Question, at: dt.datetime) -> tuple[PolicyPart, Decision]:
    """What becomes of a connection at `at`, of a client that tells the truth about where it wants to go."""
    addresses, problem = resolved(question.host)
    facts = _facts(config, question, at, addresses)
    decision, misses = explained(facts, config.policy)
    part = PolicyPart(
        action=decision.action,
        rule=decision.rule,
        profile=decision.profile,
        reason=decision.reason,
        mode=config.policy.mode,
        missed=tuple(Missed(one.rule, one.field, one.why) for one in misses),
        exclusions=tuple(_exclusions(config, question, decision, at)),
        addresses=addresses,
        denied=denied(config, addresses, question.port),
        problem=problem,
    )
    return part, decision


def _facts(config: WorkerConfig, question: Question, at: dt.datetime, addresses: tuple[str, ...]) -> Facts:
    mode = _MODES.get(config.proxy.mode, "upstream")
    literal = is_address(question.host)
    return Facts(
        id="explain",
        began=at.timestamp(),
        began_monotonic=0.0,
        at=at,
        listener=str(Address.parse(config.proxy.listen)),
        mode=mode,
        client_ip=question.client,
        user=question.user,
        host="" if mode == "transparent" else question.host,
        port=question.port,
        destination=addresses[0] if addresses else "",
        addresses=addresses,
        hello=True,
        sni="" if literal else question.host,
        sni_proved=not literal,
        alpn=("h2", "http/1.1"),
    )


def _exclusions(config: WorkerConfig, question: Question, decision: Decision, at: dt.datetime) -> list[str]:
    found = []
    if decision.action == "bypass":
        which = "the policy's default" if decision.rule == "default" else f"the rule {decision.rule}"
        rule = config.policy.rule(decision.rule)
        until = f" until {rule.expires.isoformat()}" if rule is not None and rule.expires else ""
        found.append(f"{which} excludes it from inspection{until}")
    found += [_accepted(one, at) for one in config.policy.accepts if one.host == question.host]
    return found


def _accepted(accept: Accept, at: dt.datetime) -> str:
    day = accept.expires.isoformat()
    if times.is_over(accept.expires, at):
        return f"its certificate was accepted until {day}, and is refused since ({accept.reason})"
    return f"its certificate is accepted by its key until {day} ({accept.reason})"
