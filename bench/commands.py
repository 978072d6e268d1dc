"""`hsmitm bench ...`: the command line of the measurements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.report import Report

app = typer.Typer(help="Measure what the HSM and the proxy do on this machine.", no_args_is_help=True)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the whole result there.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw the result there: FILE.svg or FILE.png.")]
SeedOption = Annotated[int, typer.Option(help="The same seed, the same order of what happens.")]


@app.callback()
def group() -> None:
    """Measure what the HSM and the proxy do on this machine."""


@app.command()
def failover(
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="Seconds of each round.")] = 60,
    members: Annotated[list[int] | None, typer.Option(min=2, max=16, help="Members; a round for each. [2, 3]")] = None,
    seed: SeedOption = 1,
    key_type: Annotated[str, typer.Option(help="The CA key: rsa-2048, rsa-3072, rsa-4096, p256 or p384.")] = "rsa-2048",
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Sessions of each member.")] = 4,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Workers.")] = 1,
    json: JsonOption = None,
) -> None:
    """Members are killed, hung and restored at random under forward connections to ever new hosts; none may fail."""
    from bench.failover import soak  # noqa: PLC0415  # commands load what they need: --help is instant

    _run(
        lambda progress: soak(
            seconds,
            members or [2, 3],
            seed,
            key_type=key_type,
            sessions=sessions,
            workers=workers,
            progress=progress,
        ),
        json,
    )


@app.command()
def restarts(
    cycles: Annotated[int, typer.Option(min=20, help="How often a member is killed and comes back.")] = 1000,
    seed: SeedOption = 1,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Sessions of each member.")] = 4,
    json: JsonOption = None,
) -> None:
    """Kill and restore a member again and again: memory, descriptors and threads of the signer must stay flat."""
    from bench import restarts as cycling  # noqa: PLC0415  # commands load what they need

    _run(lambda progress: cycling.restarts(cycles, seed, sessions=sessions, progress=progress), json)


@app.command()
def inbound(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each server's turn.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each server, key and latency.")] = 2,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 64,
    latency_ms: Annotated[
        list[float] | None, typer.Option(min=0, max=1000, help="What the HSM's answer takes longer. [0, 20]")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="The sites' keys: p256, rsa-2048. [both]")] = None,
    tls: Annotated[str, typer.Option(help="The clients' TLS version: 1.2 or 1.3.")] = "1.3",
    sessions: Annotated[int, typer.Option(min=1, max=1024, help="Sessions of the member.")] = 64,
    seed: SeedOption = 1,
    json: JsonOption = None,
) -> None:
    """New inbound connections with the key on a partition, against nginx with OpenSSL's PKCS#11 engine."""
    from bench import inbound as turns  # noqa: PLC0415  # commands load what they need
    from bench.site import SITE_KEYS  # noqa: PLC0415

    if unknown := set(key or ()) - set(SITE_KEYS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: use {' or '.join(SITE_KEYS)}", param_hint="--key")
    if tls not in ("1.2", "1.3"):
        raise typer.BadParameter(f"{tls}: use 1.2 or 1.3", param_hint="--tls")
    plan = turns.Plan(
        seconds=seconds,
        rounds=rounds,
        seed=seed,
        clients=clients,
        latencies_ms=latency_ms or [0, 20],
        keys=[one for one in SITE_KEYS if not key or one in key],
        tls=tls,
        sessions=sessions,
    )
    _run(lambda progress: turns.inbound(plan, progress), json)


@app.command(name="inbound-fuzz")
def inbound_fuzz(
    *,
    number: Annotated[int, typer.Option(min=1, help="Cases.")] = 100_000,
    first: Annotated[int, typer.Option(min=0, help="The number of the first: to have some of a seed's again.")] = 0,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 24,
    seed: SeedOption = 1,
    json: JsonOption = None,
) -> None:
    """Spoiled handshakes of real clients against a worker with sites: it lives on, and nobody else waits."""
    from bench import inbound_fuzz as fuzzing  # noqa: PLC0415  # commands load what they need

    _run(
        lambda progress: fuzzing.inbound_fuzz(number, seed, first=first, clients=clients, progress=progress),
        json,
    )


def _run(
    measure: Callable[[Callable[[str, float], None]], Coroutine[None, None, Report]],
    json: Path | None,
    plot: Path | None = None,
) -> None:
    """Measure with a progress bar, show the result, write and draw it. Failed requests are an exit status of 1."""
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    from bench import plot as plotting  # noqa: PLC0415

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
