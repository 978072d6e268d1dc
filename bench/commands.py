"""`hsmitm bench ...`: the command line of the measurements. Here are those that an installed hsmitm has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import checkout, checkout_commands
from bench.options import (
    CA_KEY,
    DEFAULT_SESSIONS,
    ENTRIES,
    LEAF_DAYS,
    MAX_MEMBERS,
    MAX_SESSIONS,
    CaKeyOption,
    JsonOption,
    LatenciesOption,
    LatencyOption,
    PlotOption,
    SeedOption,
    latencies,
    listed,
    measured,
)
from bench.sign.points import FAR_MS, FAR_SESSIONS, KEY_TYPES, MAIN_SESSIONS, MORE_MEMBERS, SESSIONS, points
from hsm.certificates.settings import LeafProfile
from hsm.wire.worker import MAX_WORKERS
from proxy.config.forward import ForwardSection
from proxy.config.section import default

_SECONDS, _QUICK_S, _ROUNDS = 0.5, 0.2, 4
_FAR = f"; {listed(FAR_MS)} with {FAR_SESSIONS} sessions" if checkout.here() else ""

app = typer.Typer(help="Measure what the HSM and the proxy do on this machine.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure what the HSM and the proxy do on this machine."""


@app.command()
def sign(
    *,
    key_type: Annotated[
        list[str] | None,
        typer.Option(
            help=f"rsa-2048, rsa-3072, rsa-4096, each with -pss or without, p256, p384. [{listed(KEY_TYPES)}]"
        ),
    ] = None,
    sessions: Annotated[
        list[int] | None, typer.Option(min=1, max=512, help=f"Of each member. [{listed(SESSIONS)}]")
    ] = None,
    members: Annotated[
        list[int] | None,
        typer.Option(min=1, max=MAX_MEMBERS, help=f"How many. [1; {MORE_MEMBERS} with {MAIN_SESSIONS} sessions]"),
    ] = None,
    hsm_latency_ms: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1000, help=f"What each C_Sign takes longer. [0{_FAR}]"),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.05, max=3600, help=f"Seconds of each turn. [{_SECONDS}]")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=1000, help=f"Turns of each depth at each point. [{_ROUNDS}]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"One turn of {_QUICK_S} s each.")] = False,
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
        points=points(sessions, members, hsm_latency_ms, throw_away=config is None),
        seconds=seconds or (_QUICK_S if quick else _SECONDS),
        rounds=rounds or (1 if quick else _ROUNDS),
        seed=seed,
        rates=rate or [],
    )
    most = max(point.members for point in plan.points)
    make = maker(key_type, most, config=config, key=key, generate=generate)
    measured(lambda progress: signing.sign(plan, make, progress), json, plot)


@app.command()
def mint(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each turn, cold and cached.")] = 10,
    hsm_latency_ms: LatenciesOption = None,
    key_type: CaKeyOption = CA_KEY,
    sessions: Annotated[int, typer.Option(min=1, max=MAX_SESSIONS, help="Sessions of the member.")] = DEFAULT_SESSIONS,
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
        latencies_ms=latencies(hsm_latency_ms),
        key_type=key_type,
        sessions=sessions,
        concurrency=concurrency,
        entries=entries,
        names=names,
        seed=seed,
    )
    measured(lambda progress: minting.mint(plan, progress), json, plot)


@app.command()
def plan(
    *,
    log: Annotated[Path | None, typer.Option(help="Connections of a day: TIME HOST on each line.")] = None,
    connections: Annotated[float | None, typer.Option(min=0.001, help="Or: new connections per second.")] = None,
    hosts: Annotated[float | None, typer.Option(min=0, help="And how many of them are to hosts not cached.")] = None,
    workers: Annotated[int, typer.Option(min=0, max=MAX_WORKERS, help="Workers; 0: one for each core here.")] = 0,
    cache_entries: Annotated[
        int, typer.Option(min=ENTRIES.ge, max=ENTRIES.le, help="Leaves in each worker's cache.")
    ] = default(ForwardSection, "cache_entries"),
    leaf_days: Annotated[
        int, typer.Option(min=LEAF_DAYS.ge, max=LEAF_DAYS.le, help="Days that a leaf is valid.")
    ] = default(LeafProfile, "days"),
    key_type: CaKeyOption = CA_KEY,
    sign: Annotated[Path | None, typer.Option(help="The HSM's numbers: a result of 'bench sign --json'.")] = None,
    signatures_per_s: Annotated[float | None, typer.Option(min=0.001, help="Or: what a member can do.")] = None,
    sessions: Annotated[
        int, typer.Option(min=1, max=MAX_SESSIONS, help="And with how many sessions.")
    ] = DEFAULT_SESSIONS,
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
    measured(lambda progress: planning.plan(asked, make, progress), json, plot)


checkout_commands.add_to(app)
