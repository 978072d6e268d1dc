"""`hsmitm policy replay`: the connections of a decryption log that a policy, as it would be now, decides otherwise.

What counts is what is done and by which profile: where another rule of the same action and profile decides, the
connection fares alike, and is only counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
from msgspec import Struct, field

from addons.policy.decision import decide
from addons.policy.demands import demanded
from addons.policy.rules import Compiled
from addons.records import record
from addons.records.facts import Decision, Facts
from addons.records.translation import to_facts
from hsm.errors import MisconfiguredError

_NAME_MISMATCH = 62
"""X509_V_ERR_HOSTNAME_MISMATCH (openssl/x509_vfy.h)."""


class Side(Struct, frozen=True):
    """A decision: what was done, or would be, and by what."""

    rule: str
    action: str
    profile: str


class Change(Struct, frozen=True, kw_only=True):
    """A connection that would now be decided otherwise. `open` names what the log does not tell and the decision may
    hang on: "addresses" or "proof"."""

    id: str
    at: str
    client: str
    host: str
    port: int
    was: Side
    now: Side
    reason: str
    open: tuple[str, ...] = ()


class Group(Struct, kw_only=True):
    """The connections that one rule would now decide otherwise."""

    rule: str
    action: str
    count: int = 0
    connections: list[Change] = field(default_factory=list)


class Replay(Struct, kw_only=True):
    """What is printed with `--json`. `connections` were compared; `changed` of them are in `groups`, `renamed` would
    fare alike by another rule, and of `open` the log does not tell enough to say whether they are. `undecided` records
    have no decision, as of clients that asked for nothing; `unread` lines are no records."""

    policy_version: str
    connections: int = 0
    changed: int = 0
    renamed: int = 0
    open: int = 0
    undecided: int = 0
    unread: int = 0
    groups: list[Group] = field(default_factory=list)


def replay(logs: Iterable[Path], policy: Compiled) -> Replay:
    """Decide again on each connection of the logs; "-" is standard input. Raises MisconfiguredError for a log that
    cannot be read, or has no record."""
    found = Replay(policy_version=policy.version)
    groups: dict[tuple[str, str], Group] = {}
    for line in _lines(logs):
        try:
            facts = to_facts(record.read(line))
        except msgspec.MsgspecError:
            found.unread += 1
            continue
        if facts.decision is None:
            found.undecided += 1
            continue
        found.connections += 1
        change, kind = _compared(facts, facts.decision, policy)
        found.renamed += kind == "renamed"
        found.open += kind == "open"
        if change is not None:
            rule, action = change.now.rule, change.now.action
            group = groups.setdefault((rule, action), Group(rule=rule, action=action))
            group.connections.append(change)
            group.count += 1
            found.changed += 1
    if found.unread and not found.connections + found.undecided:
        raise MisconfiguredError("--log: there is no record of a decryption log in it")
    found.groups = sorted(groups.values(), key=lambda one: -one.count)
    return found


def _lines(logs: Iterable[Path]) -> Iterator[bytes]:
    for log in logs:
        with ExitStack() as stack:
            try:
                file = sys.stdin.buffer if str(log) == "-" else stack.enter_context(log.open("rb"))
                yield from filter(bytes.strip, file)
            except OSError as error:
                raise MisconfiguredError(f"--log: cannot read {log}: {error.strerror}") from error


def _compared(facts: Facts, was: Decision, policy: Compiled) -> tuple[Change | None, str]:
    """The change, if there is one; else "renamed" where only the rule is another, "open" where there may be one."""
    facts.sni_proved = _proved(facts)
    now = decide(facts, policy)
    now = demanded(facts, now, policy.profile(now.profile if now.enforced else "default"))
    before, after = _side(was), _side(now)
    waits = tuple(one for one in now.missing if one != "hello")  # a ClientHello that has not come does not come
    if (before.action, before.profile) == (after.action, after.profile) or _in_outage(was, now):
        return None, "open" if waits else "renamed" if before.rule != after.rule else ""
    change = Change(
        id=facts.id,
        at=f"{facts.at:%Y-%m-%dT%H:%M:%SZ}",
        client=facts.client_ip,
        host=facts.host or facts.sni or facts.destination,
        port=facts.port,
        was=before,
        now=after,
        reason=now.reason,
        open=waits,
    )
    return change, ""


def _side(decision: Decision) -> Side:
    """What is done. Profiles demand nothing of what is blocked, and where a policy warns it is the default one's."""
    acts = decision.acts
    profile = decision.profile if decision.enforced else "default"
    return Side(decision.rule, acts, "" if acts == "block" else profile)


def _in_outage(was: Decision, now: Decision) -> bool:
    """Whether it was passed because no member of the HSM was in service, and would be again."""
    alike = was.rule == now.rule and was.profile == now.profile
    return alike and was.acts == "bypass" and now.acts == "decrypt" and now.hsm_unavailable == "bypass"


def _proved(facts: Facts) -> bool | None:
    """Whether the destination has the name that the client said. Where nobody looked, its certificate may have told."""
    verification = facts.server_leg.verification
    if facts.sni_proved is not None or verification is None or not facts.sni:
        return facts.sni_proved
    return {0: True, _NAME_MISMATCH: False}.get(verification.code)


def lines(found: Replay) -> Iterator[str]:
    """What is printed for people."""
    for group in found.groups:
        yield f"{_by(group.rule)}: {group.action} ({_number(group.count)})"
        before = Counter((one.was.action, one.was.rule) for one in group.connections)
        yield f"  before: {', '.join(f'{count} {action} by {_by(rule)}' for (action, rule), count in before.items())}"
        for one in group.connections:
            waits = f", if nothing else comes of what the log does not tell ({', '.join(one.open)})" if one.open else ""
            was = one.was.action if one.was.action != one.now.action else f"{one.was.action}, profile {one.was.profile}"
            now = one.now.action if one.was.action != one.now.action else f"profile {one.now.profile}"
            yield f"  {one.at}  {one.client} -> {one.host}:{one.port}  {was} -> {now}{waits}  [{one.id}]"
        yield ""
    alike = f"; {found.renamed} fare alike by another rule" if found.renamed else ""
    yield f"{found.changed} of {_number(found.connections)} would be decided otherwise{alike}"
    if found.open:
        yield f"of {found.open} the log does not tell enough: their addresses, or whether an SNI was true"
    if found.undecided:
        yield f"{found.undecided} more had no decision: they ended before there was one"
    if found.unread:
        yield f"{found.unread} lines are no records" if found.unread > 1 else "1 line is no record"


def _by(rule: str) -> str:
    return {"default": "the default", "no_sni": "no_sni"}.get(rule, f"rule '{rule}'")


def _number(count: int) -> str:
    return f"{count} connection{'s' if count != 1 else ''}"
