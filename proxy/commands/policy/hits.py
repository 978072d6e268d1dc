"""`hsmitm policy hits`: how often each rule decided since hsmitm was started, and when last; unused rules first."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from addons.policy.rules import Compiled
from hsm.errors import TryLaterError
from hsm.wire.run_directory import STATUS_SOCKET
from hsm.wire.worker import Family
from proxy.config.worker import WorkerConfig
from proxy.status.sight import Sight

_DECISIONS, _LAST = "hsmitm_policy_decisions", "hsmitm_policy_last_hit_timestamp_seconds"
_VERSION = "hsmitm_policy_version"


class RuleHits(Struct, frozen=True, kw_only=True):
    """A rule's decisions by action; `last` is in RFC 3339, "" where it never decided. `place` is its number in the
    file, 0 where it is not in it: "default", "no_sni", or a rule that is gone."""

    rule: str
    place: int
    count: int
    actions: dict[str, int]
    last: str = ""


class HitsReport(Struct, frozen=True, kw_only=True):
    """What is printed with `--json`: the unused first, then by the last decision, the longest ago first. `note` says
    where the numbers are not of the file's policy."""

    rules: list[RuleHits]
    note: str = ""


def hits(config: WorkerConfig) -> HitsReport:
    """What workers have counted. Raises TryLaterError where the signer, who collects it, does not answer."""
    return counted(asyncio.run(_families(config.run.socket(STATUS_SOCKET))), config.policy)


async def _families(socket: Path) -> list[Family]:
    sight = Sight(socket)
    try:
        return (await sight.look()).families
    except TryLaterError as error:
        raise TryLaterError(f"nothing is known of hits: {error}; they are counted while hsmitm runs") from None
    finally:
        sight.close()


def counted(families: Iterable[Family], policy: Compiled) -> HitsReport:
    """The counters of all workers, beside the policy of the file."""
    actions: dict[str, dict[str, int]] = defaultdict(dict)
    last: dict[str, float] = {}
    versions: set[str] = set()
    for family in families:
        for _, labels, value in family.samples:
            if family.name == _DECISIONS:
                actions[labels["rule"]][labels["action"]] = int(value)
            elif family.name == _LAST:
                last[labels["rule"]] = value
            elif family.name == _VERSION and value:
                versions.add(labels["version"])
    places = {one.rule.name: number for number, one in enumerate(policy.rules, 1)}
    rules = [
        _hits(name, places.get(name, 0), actions.get(name, {}), last.get(name, 0.0))
        for name in (*places, *(actions.keys() - places.keys()))
    ]
    rules.sort(key=lambda one: (one.count > 0, one.last, one.place))
    note = ""
    if versions and versions != {policy.version}:
        note = "the file has another policy than the workers: 'hsmitm reload' has them take it over"
    return HitsReport(rules=rules, note=note)


def _hits(name: str, place: int, actions: dict[str, int], last: float) -> RuleHits:
    when = f"{dt.datetime.fromtimestamp(last, dt.UTC):%Y-%m-%dT%H:%M:%SZ}" if last else ""
    return RuleHits(rule=name, place=place, count=sum(actions.values()), actions=actions, last=when)


def lines(found: HitsReport) -> Iterator[str]:
    """What is printed for people."""
    widest = max((len(one.rule) for one in found.rules), default=4)
    for one in found.rules:
        actions = ", ".join(f"{count} {action}" for action, count in sorted(one.actions.items()))
        place = f"rule {one.place}" if one.place else "" if one.rule in ("default", "no_sni") else "not in the file"
        yield f"{one.rule:{widest}}  {one.count:>9}  {one.last or 'never':20}  {actions or 'unused'}  {place}".rstrip()
    if not found.rules:
        yield "there are no rules, and nothing was decided yet"
    if found.note:
        yield found.note
