"""What the policy does with a connection, asked of the very function that decides in the proxy."""

from __future__ import annotations

import datetime as dt

from addons.policy import times
from addons.policy.settings import Accept
from proxy.commands.explain.report import Missed, PolicyPart, Question
from proxy.commands.policy import question as policy_question
from proxy.commands.policy.answer import Answer, answer
from proxy.commands.resolving import resolved
from proxy.config.worker import WorkerConfig


def policy(config: WorkerConfig, asked: Question, at: dt.datetime) -> PolicyPart:
    """What becomes of a connection at `at`, of a client that tells the truth about where it wants to go."""
    addresses, problem = resolved(asked.host)
    wanted = policy_question.Question(
        host=asked.host, port=asked.port, at=at, client=asked.client, user=asked.user, alpn=("h2", "http/1.1"),
        addresses=addresses, proved=True,
    )  # fmt: skip
    found = answer(policy_question.facts_of(wanted, config), config)
    return PolicyPart(
        action=found.action,
        rule=found.rule,
        profile=found.profile,
        reason=found.reason,
        mode=found.mode,
        missed=tuple(Missed(one.rule, one.field, one.why) for one in found.missed),
        exclusions=tuple(_exclusions(config, asked, found, at)),
        addresses=addresses,
        denied=found.denied,
        problem=problem,
    )


def _exclusions(config: WorkerConfig, asked: Question, found: Answer, at: dt.datetime) -> list[str]:
    told = []
    if found.action == "bypass":
        which = "the policy's default" if found.rule == "default" else f"the rule {found.rule}"
        rule = config.policy.rule(found.rule)
        until = f" until {rule.expires.isoformat()}" if rule is not None and rule.expires else ""
        told.append(f"{which} excludes it from inspection{until}")
    told += [_accepted(one, at) for one in config.policy.accepts if one.host == asked.host]
    return told


def _accepted(accept: Accept, at: dt.datetime) -> str:
    day = accept.expires.isoformat()
    if times.is_over(accept.expires, at):
        return f"its certificate was accepted until {day}, and is refused since ({accept.reason})"
    return f"its certificate is accepted by its key until {day} ({accept.reason})"
