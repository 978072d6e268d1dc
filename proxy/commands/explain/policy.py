"""What the policy does with a connection, asked of the very function that decides in the proxy."""

from __future__ import annotations

import datetime as dt
import ipaddress
import queue
import threading

from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.resolver import system_lookup
from addons.edge.connecting.this_machine import is_local, listeners
from addons.policy import times
from addons.policy.decision import explained
from addons.policy.settings import Accept
from addons.records.facts import Decision, Facts, Mode
from proxy.commands.explain.report import Missed, PolicyPart, Question
from proxy.config.section import Address
from proxy.config.worker import WorkerConfig

LOOKUP_S = 5.0
"""So long a name server may take."""
_MODES: dict[str, Mode] = {"transparent": "transparent", "socks5": "socks5", "regular": "explicit"}


def policy(config: WorkerConfig, question: Question, at: dt.datetime) -> tuple[PolicyPart, Decision]:
    """What becomes of a connection at `at`, of a client that tells the truth about where it wants to go."""
    addresses, problem = _addresses(question.host)
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
        denied=_denied(config, addresses, question.port),
        problem=problem,
    )
    return part, decision


def _facts(config: WorkerConfig, question: Question, at: dt.datetime, addresses: tuple[str, ...]) -> Facts:
    mode = _MODES.get(config.proxy.mode, "upstream")
    literal = _is_address(question.host)
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


def _denied(config: WorkerConfig, addresses: tuple[str, ...], port: int) -> str:
    """The entry of deny_destinations that keeps clients away from all of the addresses; "" where nothing does."""
    section = config.proxy
    ours = [Address.parse(section.listen), config.status_listen]
    places = listeners((one.host, one.port) for one in ours if one)
    destinations = Destinations(section.deny_destinations, section.allow_destinations, tuple(places), is_local)
    entries = [destinations.denied_by(ipaddress.ip_address(one.partition("%")[0]), port) for one in addresses]
    return entries[-1] or "" if entries and all(entries) else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(host: str) -> tuple[tuple[str, ...], str]:
    """What this machine's resolver says, and why it says nothing. On a thread: getaddrinfo(3) knows no time limit."""
    if _is_address(host):
        return (host,), ""
    answer: queue.SimpleQueue[tuple[tuple[str, ...], str]] = queue.SimpleQueue()

    def look() -> None:
        try:
            answer.put((tuple(str(one[1][0]) for one in system_lookup(host)), ""))
        except (OSError, UnicodeError) as error:
            answer.put(((), f"{host} has no address: {getattr(error, 'strerror', None) or error}"))

    threading.Thread(target=look, daemon=True).start()
    try:
        return answer.get(timeout=LOOKUP_S)
    except queue.Empty:
        return (), f"no name server has answered for {host} within {LOOKUP_S:g} s"
