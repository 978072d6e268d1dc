"""The plan: from a list of host names with times, or from two rates, to signatures per second, and from there, with the
numbers of an HSM, to members and sessions.

Nothing is measured but the HSM, and only where its numbers are not given.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from msgspec import Struct, structs

from bench import checkout
from bench.plan import arrival_log, demand, hsm_numbers
from bench.plan.arrival_log import ArrivalLog
from bench.plan.capacity import BUSY, HsmNumbers, Needs, needs
from bench.plan.demand import Caches, Demand
from bench.report.plot import Chart, Series
from bench.report.report import Progress, Report
from hsm.errors import MisconfiguredError
from hsm.signer.settings import SignerSettings
from hsm.wire.member import KeyType
from proxy.config.forward import ForwardSection
from proxy.config.section import bounds

if TYPE_CHECKING:
    from bench.sign.target import MakeTarget

_DRAWN_S = 3600
"""Seconds that are drawn from rates: enough for a 99th percentile, and the busiest of an hour."""
_POINTS = 60
_OFTEN = 0.05
_MAX_MEMBERS = bounds(SignerSettings, "members").max_length or 0
_MAX_ENTRIES = bounds(ForwardSection, "cache_entries").le or 0
_UNITS = (
    (2 * 86400.0, 86400.0, "days"),
    (2 * 3600.0, 3600.0, "hours"),
    (120.0, 60.0, "minutes"),
    (0.0, 1.0, "seconds"),
)


class Asked(Struct, frozen=True, kw_only=True):
    """The command line. Either `log`, or `connections` and `hosts` (per second); of the HSM either `signatures_per_s`
    with `sessions`, or the result `sign`, or else it is measured: the one of `config`, or a SoftHSM's partition whose
    C_Sign takes `hsm_latency_ms` longer. `mint` is a result that says what one signer can do."""

    log: Path | None
    connections: float | None
    hosts: float | None
    caches: Caches
    key_type: str
    sign: Path | None
    mint: Path | None
    signatures_per_s: float | None
    sessions: int
    config: Path | None
    key: str | None
    hsm_latency_ms: float
    seed: int

    def check(self) -> None:
        """Raise MisconfiguredError where options are missing or contradict each other."""
        if self.log is None and (self.connections is None or self.hosts is None):
            raise MisconfiguredError(
                "say what to plan for: --log FILE, or --connections N with --hosts M, both per second"
            )
        if self.log is not None and (self.connections is not None or self.hosts is not None):
            raise MisconfiguredError("--log says how many connections and hosts there are: leave the rates out")
        if self.connections is not None and self.hosts is not None and self.hosts > self.connections:
            raise MisconfiguredError(
                f"--hosts {self.hosts:g}: at most all {self.connections:g} new connections per second are to new hosts"
            )
        if sum(one is not None for one in (self.sign, self.signatures_per_s, self.config)) > 1:
            raise MisconfiguredError("--sign, --signatures-per-s and --config all say what the HSM can do: give one")
        if (self.config is None) != (self.key is None):
            raise MisconfiguredError("--config and --key go together: whose HSM is measured, and with which key")
        if self.hsm_latency_ms:
            self._check_latency()
        if self.key_type not in get_args(KeyType):
            raise MisconfiguredError(f"--key-type {self.key_type}: use one of {', '.join(get_args(KeyType))}")

    def _check_latency(self) -> None:
        if self.sign is not None:
            raise MisconfiguredError("--hsm-latency-ms: the file of --sign says at which latency it was measured")
        if self.signatures_per_s is not None:
            raise MisconfiguredError(
                "--hsm-latency-ms: what a member can do by --signatures-per-s has it in it already"
            )
        if self.config is not None:
            raise MisconfiguredError("--hsm-latency-ms: an HSM of --config has a latency of its own")
        checkout.require_for_latency([self.hsm_latency_ms])


def caches(*, entries: int, leaf_days: int, workers: int) -> Caches:
    """As hsmitm.toml has them: 0 workers are one for each core that we may use."""
    return Caches(entries=entries, leaf_days=leaf_days, workers=workers or len(os.sched_getaffinity(0)))


async def plan(asked: Asked, make_target: MakeTarget, progress: Progress) -> Report:
    """Predict. `make_target` makes what is measured where that must be. `progress` gets a text and the share that is
    done. Raises MisconfiguredError, before anything is measured, where something that was given cannot be used."""
    asked.check()
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    given = _given(asked)
    log = arrival_log.load(asked.log) if asked.log is not None else None
    asking = await _demand(asked, log, progress)
    measured = None
    if given is None:
        measured = await hsm_numbers.measured(
            asked.key_type,
            asked.seed,
            make_target,
            lambda text, done: progress(f"measuring the HSM: {text}", done),
            own_hsm=asked.config is not None,
            latency_ms=asked.hsm_latency_ms,
        )
    hsm = measured.hsm if measured else given
    assert hsm is not None
    needed = needs(asking.percentile_per_s(0.99), asking.peak_per_s, hsm)
    said = advice(asking, needed, asked.caches)
    return Report(
        name="plan",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=asked.seed,
        configuration={name: str(value) if isinstance(value, Path) else value
                       for name, value in structs.asdict(asked).items()},
        figures=_figures(asking, needed, hsm, log) | {"failed_requests": len(measured.errors) if measured else 0},
        errors=measured.errors if measured else [],
        detail={"advice": said, "hsm": hsm, "refused": log.refused if log else [], "by_second": asking.by_second},
        notes=[said, *_doubts(asking, needed, hsm, log, asked), *(measured.notes if measured else [])],
        charts=[_chart(asking, needed)],
    )  # fmt: skip


def _given(asked: Asked) -> HsmNumbers | None:
    """The HSM's numbers where the command line has them."""
    limit = hsm_numbers.signer_limit(asked.mint) if asked.mint is not None else 0.0
    if asked.sign is not None:
        return structs.replace(hsm_numbers.from_sign(asked.sign, asked.key_type), signer_per_s=limit)
    if asked.signatures_per_s is not None:
        return HsmNumbers(
            per_s=asked.signatures_per_s, sessions=asked.sessions, source="--signatures-per-s", signer_per_s=limit
        )
    return None


async def _demand(asked: Asked, log: ArrivalLog | None, progress: Progress) -> Demand:
    if log is not None:
        return await demand.from_arrivals(
            log.arrivals, asked.caches, asked.seed, lambda done: progress("playing the log", 0.9 * done)
        )
    assert asked.connections is not None
    assert asked.hosts is not None
    return demand.from_rates(asked.connections, asked.hosts, asked.caches, asked.seed, _DRAWN_S)


def advice(asking: Demand, needed: Needs, caches: Caches) -> str:
    """What to configure, in one sentence."""
    entries = ""
    if asking.repeated > _OFTEN * asking.signatures:
        entries = (
            f" and [forward] cache_entries = {min(asking.worker_hosts, _MAX_ENTRIES):.0f} instead of {caches.entries} "
            f"({asking.repeated / asking.signatures:.0%} of the signatures were for leaves that had been there before, "
            "so that fewer may do: plan again)"
        )
    return (
        f"Configure [hsm] high_availability = true, {needed.members} members with sessions = {needed.sessions} each"
        f"{entries}: with one member away {needed.capacity_per_s:.0f} signatures per second are possible, 99 of 100 "
        f"seconds take at most {asking.percentile_per_s(0.99)}, and the busiest takes {asking.peak_per_s}."
    )


def _figures(asking: Demand, needed: Needs, hsm: HsmNumbers, log: ArrivalLog | None) -> dict[str, float]:
    figures = {
        "signatures_per_s": asking.mean_per_s,
        "signatures_p99_per_s": asking.percentile_per_s(0.99),
        "signatures_peak_per_s": asking.peak_per_s,
        "hit_rate": asking.hit_rate,
        "members": needed.members,
        "sessions": needed.sessions,
        "capacity_per_s": needed.capacity_per_s,
        "busy_p99": needed.busy,
        "busy_peak": needed.busy_peak,
        "connections": asking.connections,
        "hosts": asking.hosts,
        "signatures": asking.signatures,
        "renewals": asking.renewals,
        "repeated_signatures": asking.repeated,
        "planned_s": asking.seconds,
        "hsm_per_s": hsm.per_s,
        "hsm_sessions": hsm.sessions,
        "refused_lines": len(log.refused) if log else 0,
    }
    return figures | ({"signer_per_s": hsm.signer_per_s} if hsm.signer_per_s else {})


def _doubts(asking: Demand, needed: Needs, hsm: HsmNumbers, log: ArrivalLog | None, asked: Asked) -> list[str]:
    """What the plan could not use, and where it ends."""
    said = [f"the HSM's numbers: {hsm.per_s:.0f} signatures per second with {hsm.sessions} sessions ({hsm.source})"]
    if log is not None and log.refused:
        first = "; ".join(str(one) for one in log.refused[:3])
        more = f"; and {len(log.refused) - 3} more, in --json's detail.refused" if len(log.refused) > 3 else ""
        said.append(f"not used of {asked.log}: {first}{more}")
    if log is not None and log.disordered:
        said.append(f"{log.disordered} lines stood behind a later one; they were put in order")
    if needed.members > _MAX_MEMBERS:
        said.append(f"a group has at most {_MAX_MEMBERS} members: a faster HSM, or a larger cache, is needed")
    if asked.sign is None and asked.signatures_per_s is None and asked.config is None:
        said.append(
            "that was a throw-away SoftHSM partition: measure your own HSM with --config hsmitm.toml and --key URI, or "
            "with 'hsmitm bench sign' and give its result by --sign FILE"
        )
    if not hsm.signer_per_s:
        said.append("what one signer can mint is not part of this plan: measure it ('hsmitm bench mint --json FILE') "
                    "and give --mint FILE")  # fmt: skip
    elif asking.percentile_per_s(0.99) > BUSY * hsm.signer_per_s:
        said.append(
            f"one signer mints about {hsm.signer_per_s:.0f} per second here, whatever the HSM can do: "
            "more members do not help beyond that; divide the clients between two machines"
        )
    return said


def _chart(asking: Demand, needed: Needs) -> Chart:
    """Signatures per second over time: of each piece of it the busiest second, and the mean."""
    width = max(1, -(-asking.seconds // _POINTS))
    pieces: dict[int, list[int]] = {place: [] for place in range(-(-asking.seconds // width))}
    for second, number in asking.by_second.items():
        pieces[second // width].append(number)
    unit_s, unit = next((size, name) for least, size, name in _UNITS if asking.seconds >= least)
    x = [place * width / unit_s for place in pieces]
    busiest = Series(f"busiest second of {width} s", x, [max(found, default=0) for found in pieces.values()])
    lengths = [min(width, asking.seconds - place * width) for place in pieces]
    mean = Series("mean", x, [sum(found) / length for found, length in zip(pieces.values(), lengths, strict=True)])
    return Chart(
        "Signatures that the HSM is asked for", f"{unit} from the begin", "signatures per second",
        [busiest, mean] if width > 1 else [Series("each second", x, mean.y)],
        level=(f"{needed.members} members, one away", needed.capacity_per_s),
    )  # fmt: skip
