"""`hsmitm bench ...`: the command line of the measurements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsm.certificates.settings import LeafProfile
from hsm.member.settings import Failover, MemberSettings
from hsm.signer.settings import SignerSettings
from hsm.wire.worker import MAX_WORKERS
from proxy.commands.options import KEY_TYPES
from proxy.config.forward import ForwardSection
from proxy.config.section import bounds, default, default_ms

if TYPE_CHECKING:
    from bench.report.report import Report

app = typer.Typer(help="Measure what the HSM and the proxy do on this machine.", no_args_is_help=True)

_MEMBERS = bounds(SignerSettings, "members")
_SESSIONS, _SESSIONS_DEFAULT = bounds(MemberSettings, "sessions"), default(MemberSettings, "sessions")
_MAX_LATENCY_MS = default_ms(Failover, "attempt_timeout_s") * 4 // 5
"""Well below what a member may take for a signature by default."""
_ENTRIES, _LEAF_DAYS = bounds(ForwardSection, "cache_entries"), bounds(LeafProfile, "days")

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the whole result there.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw the result there: FILE.svg or FILE.png.")]
LatencyOption = Annotated[float, typer.Option(min=0, max=_MAX_LATENCY_MS, help="What each C_Sign takes longer.")]
KeyTypeOption = Annotated[str, typer.Option(help=f"The CA key: {KEY_TYPES}.")]
SeedOption = Annotated[int, typer.Option(help="The same seed, the same order of what happens.")]


@app.callback()
def group() -> None:
    """Measure what the HSM and the proxy do on this machine."""


@app.command()
def sign(
    *,
    key_type: Annotated[
        list[str] | None,
        typer.Option(help="rsa-2048, rsa-3072, rsa-4096, each with -pss or without, p256, p384. [rsa-2048, p256]"),
    ] = None,
    sessions: Annotated[list[int] | None, typer.Option(min=1, max=512, help="Of each member. [1, 2, 4, 8, 16]")] = None,
    members: Annotated[
        list[int] | None, typer.Option(min=1, max=_MEMBERS.max_length, help="How many. [1; 2 with 8 sessions]")
    ] = None,
    hsm_latency_ms: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1000, help="What each C_Sign takes longer. [0; 5, 20 with 64 sessions]"),
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.05, max=3600, help="Seconds of each turn. [0.5]")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=1000, help="Turns of each depth at each point. [4]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One turn of 0.2 s each.")] = False,
    rate: Annotated[
        list[float] | None, typer.Option(min=0, help="The open loop's, each second; 0: none. [half of the signer's]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Measure the members of this hsmitm.toml.")] = None,
    key: Annotated[str | None, typer.Option(help="With --config: the key's PKCS#11 URI.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="With --config: make keys, which stay there.")] = False,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Signatures per second and their latency: of the module itself, through a member, and through the signer."""
    from bench.sign import sign as signing  # noqa: PLC0415  # commands load what they need
    from bench.sign.target import maker  # noqa: PLC0415

    plan = signing.Plan(
        points=signing.points(sessions, members, hsm_latency_ms, own_hsm=config is None),
        seconds=seconds or (0.2 if quick else 0.5),
        rounds=rounds or (1 if quick else 4),
        seed=seed,
        rates=rate or [],
    )
    most = max(point.members for point in plan.points)
    make = maker(key_type, most, config=config, key=key, generate=generate)
    _run(lambda progress: signing.sign(plan, make, progress), json, plot)


@app.command()
def failover(
    *,
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="Seconds of each round.")] = 60,
    members: Annotated[
        list[int] | None, typer.Option(min=2, max=_MEMBERS.max_length, help="Members; a round for each. [2, 3]")
    ] = None,
    seed: SeedOption = 1,
    key_type: KeyTypeOption = "rsa-2048",
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Sessions of each member.")] = 4,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Workers.")] = 1,
    hsm_latency_ms: LatencyOption = 0,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Members are killed, hung and restored at random under forward connections to ever new hosts; none may fail."""
    from bench.soak.failover import soak  # noqa: PLC0415  # commands load what they need: --help is instant

    _run(
        lambda progress: soak(
            seconds,
            members or [2, 3],
            seed,
            key_type=key_type,
            sessions=sessions,
            workers=workers,
            hsm_latency_ms=hsm_latency_ms,
            progress=progress,
        ),
        json,
        plot,
    )


@app.command()
def restarts(
    *,
    cycles: Annotated[int, typer.Option(min=20, help="How often a member is killed and comes back.")] = 1000,
    seed: SeedOption = 1,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Sessions of each member.")] = 4,
    hsm_latency_ms: LatencyOption = 0,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Kill and restore a member again and again: memory, descriptors and threads of the signer must stay flat."""
    from bench.soak import restarts as cycling  # noqa: PLC0415  # commands load what they need

    _run(
        lambda progress: cycling.restarts(
            cycles, seed, sessions=sessions, hsm_latency_ms=hsm_latency_ms, progress=progress
        ),
        json,
        plot,
    )


@app.command()
def inbound(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each server's turn.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each server, key and latency.")] = 2,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 64,
    hsm_latency_ms: Annotated[
        list[float] | None, typer.Option(min=0, max=1000, help="What each C_Sign takes longer. [0, 20]")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="The sites' keys: p256, rsa-2048. [both]")] = None,
    tls: Annotated[str, typer.Option(help="The clients' TLS version: 1.2 or 1.3.")] = "1.3",
    sessions: Annotated[int, typer.Option(min=1, max=_SESSIONS.le, help="Sessions of the member.")] = 64,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """New inbound connections with the key on a partition, against nginx with OpenSSL's PKCS#11 engine."""
    from bench.inbound import inbound as turns  # noqa: PLC0415  # commands load what they need
    from bench.rig.site import SITE_KEYS  # noqa: PLC0415

    if unknown := set(key or ()) - set(SITE_KEYS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: use {' or '.join(SITE_KEYS)}", param_hint="--key")
    if tls not in ("1.2", "1.3"):
        raise typer.BadParameter(f"{tls}: use 1.2 or 1.3", param_hint="--tls")
    plan = turns.Plan(
        seconds=seconds,
        rounds=rounds,
        seed=seed,
        clients=clients,
        latencies_ms=hsm_latency_ms or [0, 20],
        keys=[one for one in SITE_KEYS if not key or one in key],
        tls=tls,
        sessions=sessions,
    )
    _run(lambda progress: turns.inbound(plan, progress), json, plot)


@app.command()
def forward(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each server's turn.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each server in each phase.")] = 3,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 16,
    generators: Annotated[int, typer.Option(min=1, max=16, help="Processes that the clients are spread over.")] = 2,
    hosts: Annotated[int, typer.Option(min=1, max=1000, help="Hosts that a warm server knows.")] = 16,
    tunnels: Annotated[int, typer.Option(min=100, max=2000, help="Idle connections, for the memory of each.")] = 500,
    body_mb: Annotated[float, typer.Option(min=0.1, max=10000, help="Megabytes of the large body.")] = 100,
    hsm_latency_ms: LatencyOption = 0,
    sessions: Annotated[int, typer.Option(min=1, max=512, help="Sessions of the member.")] = 16,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Connections, requests, bytes, CPU and memory of the forward proxy, against mitmdump, squid and sslsplit."""
    from bench.forward import forward as forwarding  # noqa: PLC0415  # commands load what they need

    if generators > clients:
        raise typer.BadParameter(f"{generators} processes for {clients} clients", param_hint="--generators")
    plan = forwarding.Plan(
        seconds=seconds,
        rounds=rounds,
        seed=seed,
        clients=clients,
        generators=generators,
        hosts=hosts,
        tunnels=tunnels,
        body_mb=body_mb,
        sessions=sessions,
        hsm_latency_ms=hsm_latency_ms,
    )
    _run(lambda progress: forwarding.forward(plan, progress), json, plot)


@app.command(name="inbound-fuzz")
def inbound_fuzz(
    *,
    number: Annotated[int, typer.Option(min=1, help="Cases.")] = 100_000,
    first: Annotated[int, typer.Option(min=0, help="The number of the first: to have some of a seed's again.")] = 0,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 24,
    hsm_latency_ms: LatencyOption = 0,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Spoiled handshakes of real clients against a worker with sites: it lives on, and nobody else waits."""
    from bench.fuzz import fuzz as fuzzing  # noqa: PLC0415  # commands load what they need

    _run(
        lambda progress: fuzzing.inbound_fuzz(
            number, seed, first=first, clients=clients, hsm_latency_ms=hsm_latency_ms, progress=progress
        ),
        json,
        plot,
    )


@app.command()
def mint(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each turn, cold and cached.")] = 10,
    hsm_latency_ms: Annotated[
        list[float] | None, typer.Option(min=0, max=1000, help="What each C_Sign takes longer. [0, 20]")
    ] = None,
    key_type: KeyTypeOption = "rsa-2048",
    sessions: Annotated[int, typer.Option(min=1, max=_SESSIONS.le, help="Sessions of the member.")] = _SESSIONS_DEFAULT,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Mints at a time.")] = 16,
    entries: Annotated[int, typer.Option(min=100, max=1_000_000, help="Leaves that the cache holds.")] = 5000,
    names: Annotated[int, typer.Option(min=1, max=100, help="Names of each leaf.")] = 4,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Complete certificates per second: for names never asked for before, and for names in the worker's cache."""
    from bench.mint import mint as minting  # noqa: PLC0415  # commands load what they need

    plan = minting.Plan(
        seconds=seconds,
        latencies_ms=list(dict.fromkeys(hsm_latency_ms or [0, 20])),
        key_type=key_type,
        sessions=sessions,
        concurrency=concurrency,
        entries=entries,
        names=names,
        seed=seed,
    )
    _run(lambda progress: minting.mint(plan, progress), json, plot)


@app.command()
def plan(
    *,
    log: Annotated[Path | None, typer.Option(help="Connections of a day: TIME HOST on each line.")] = None,
    connections: Annotated[float | None, typer.Option(min=0.001, help="Or: new connections per second.")] = None,
    hosts: Annotated[float | None, typer.Option(min=0, help="And how many of them are to hosts not cached.")] = None,
    workers: Annotated[int, typer.Option(min=0, max=MAX_WORKERS, help="Workers; 0: one for each core here.")] = 0,
    cache_entries: Annotated[
        int, typer.Option(min=_ENTRIES.ge, max=_ENTRIES.le, help="Leaves in each worker's cache.")
    ] = default(ForwardSection, "cache_entries"),
    leaf_days: Annotated[
        int, typer.Option(min=_LEAF_DAYS.ge, max=_LEAF_DAYS.le, help="Days that a leaf is valid.")
    ] = default(LeafProfile, "days"),
    key_type: KeyTypeOption = "rsa-2048",
    sign: Annotated[Path | None, typer.Option(help="The HSM's numbers: a result of 'bench sign --json'.")] = None,
    signatures_per_s: Annotated[float | None, typer.Option(min=0.001, help="Or: what a member can do.")] = None,
    sessions: Annotated[
        int, typer.Option(min=1, max=_SESSIONS.le, help="And with how many sessions.")
    ] = _SESSIONS_DEFAULT,
    config: Annotated[Path | None, typer.Option(help="Or: measure the first member of this hsmitm.toml.")] = None,
    key: Annotated[str | None, typer.Option(help="With --config: the PKCS#11 URI of a key to sign with.")] = None,
    mint: Annotated[Path | None, typer.Option(help="What a signer can do: a result of 'bench mint --json'.")] = None,
    hsm_latency_ms: LatencyOption = 0,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Predict signatures per second, the cache's hit rate, and the members and sessions that it takes."""
    from bench.plan import plan as planning  # noqa: PLC0415  # commands load what they need
    from bench.sign.target import maker  # noqa: PLC0415

    asked = planning.Asked(
        log=log,
        connections=connections,
        hosts=hosts,
        caches=planning.caches(entries=cache_entries, leaf_days=leaf_days, workers=workers),
        key_type=key_type,
        sign=sign,
        mint=mint,
        signatures_per_s=signatures_per_s,
        sessions=sessions,
        config=config,
        key=key,
        hsm_latency_ms=hsm_latency_ms,
        seed=seed,
    )
    asked.check()
    make = maker([key_type], 1, config=config, key=key, generate=False)
    _run(lambda progress: planning.plan(asked, make, progress), json, plot)


def _run(
    measure: Callable[[Callable[[str, float], None]], Coroutine[None, None, Report]],
    json: Path | None,
    plot: Path | None = None,
) -> None:
    """Measure with a progress bar, show the result, write and draw it. Failed requests are an exit status of 1."""
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

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
