"""What commands of `hsmitm bench` have in common: options, what these are unless they are given, and how a measurement
is run and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import checkout
from hsm.certificates.settings import LeafProfile
from hsm.member.settings import Failover, MemberSettings
from hsm.signer.settings import SignerSettings
from proxy.commands.options import KEY_TYPES
from proxy.config.forward import ForwardSection
from proxy.config.section import bounds, default, default_ms

if TYPE_CHECKING:
    from bench.report.report import Progress, Report


def listed(values: Iterable[object]) -> str:
    """As a help text names them."""
    return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)


LATENCIES_MS = (0.0, 20.0) if checkout.here() else (0.0,)
CA_KEY = "rsa-2048"
MAX_MEMBERS = bounds(SignerSettings, "members").max_length
MAX_SESSIONS = bounds(MemberSettings, "sessions").le
DEFAULT_SESSIONS: int = default(MemberSettings, "sessions")
ENTRIES, LEAF_DAYS = bounds(ForwardSection, "cache_entries"), bounds(LeafProfile, "days")
_MAX_LATENCY_MS = default_ms(Failover, "attempt_timeout_s") * 4 // 5
"""Well below what a member may take for a signature by default."""

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the whole result there.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw the result there: FILE.svg or FILE.png.")]
LatencyOption = Annotated[float, typer.Option(min=0, max=_MAX_LATENCY_MS, help="What each C_Sign takes longer.")]
LatenciesOption = Annotated[
    list[float] | None,
    typer.Option(min=0, max=1000, help=f"What each C_Sign takes longer. [{listed(LATENCIES_MS)}]"),
]
CaKeyOption = Annotated[str, typer.Option(help=f"The CA key: {KEY_TYPES}.")]
SeedOption = Annotated[int, typer.Option(help="The same seed, the same order of what happens.")]


def latencies(asked: list[float] | None) -> list[float]:
    """Of a LatenciesOption, each once."""
    return list(dict.fromkeys(asked or LATENCIES_MS))


def measured(
    measure: Callable[[Progress], Coroutine[None, None, Report]], json: Path | None, plot: Path | None
) -> None:
    """Measure with a progress bar, show the result, write and draw it. Failed requests are an exit status of 1."""
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415  # commands load what they need

    from bench.report import plot as plotting  # noqa: PLC0415

    if plot is not None:
        plotting.check(plot)
    with Progress(TextColumn("{task.description}"), BarColumn(), transient=True) as bar:
        task = bar.add_task("setting up", total=1.0)
        report = asyncio.run(measure(lambda text, done: bar.update(task, description=text, completed=done)))
    report.show()
    if json is not None:
        report.write(json)
    if plot is not None:
        plotting.save(report.charts, plot, report.caption)
    if report.figures["failed_requests"]:
        raise typer.Exit(1)
