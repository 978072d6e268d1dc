"""The commands of `hsmitm bench` that need a checkout of the sources: they stand on the rig, which is not installed.

Without one they have their --help, and a sentence.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench import checkout
from bench.options import (
    CA_KEY,
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

_MEMBERS = (2, 3)
_PHASES = ("idle", "warm", "cold", "kept", "body", "h2-16", "h2-80", "h2-down", "h2-up")
_PANEL = "Commands that need a checkout of the sources"


def failover(
    *,
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="Seconds of each round.")] = 60,
    members: Annotated[
        list[int] | None, typer.Option(min=2, max=MAX_MEMBERS, help=f"Members; a round for each. [{listed(_MEMBERS)}]")
    ] = None,
    seed: SeedOption = 1,
    key_type: CaKeyOption = CA_KEY,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Sessions of each member.")] = 4,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Workers.")] = 1,
    hsm_latency_ms: LatencyOption = 0,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Members are killed, hung and restored at random under forward connections to ever new hosts; none may fail."""
    checkout.require("failover")
    from bench.soak.failover import soak  # noqa: PLC0415  # commands load what they need: --help is instant

    measured(
        lambda progress: soak(
            seconds,
            members or list(_MEMBERS),
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
    checkout.require("restarts")
    from bench.soak import restarts as cycling  # noqa: PLC0415  # commands load what they need

    measured(
        lambda progress: cycling.restarts(
            cycles, seed, sessions=sessions, hsm_latency_ms=hsm_latency_ms, progress=progress
        ),
        json,
        plot,
    )


def inbound(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each server's turn.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each server, key and latency.")] = 2,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 64,
    hsm_latency_ms: LatenciesOption = None,
    key: Annotated[list[str] | None, typer.Option(help="The sites' keys: p256, rsa-2048. [both]")] = None,
    tls: Annotated[str, typer.Option(help="The clients' TLS version: 1.2 or 1.3.")] = "1.3",
    sessions: Annotated[int, typer.Option(min=1, max=MAX_SESSIONS, help="Sessions of the member.")] = 64,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """New inbound connections with the key on a partition, against nginx with OpenSSL's PKCS#11 engine."""
    checkout.require("inbound")
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
        latencies_ms=latencies(hsm_latency_ms),
        keys=[one for one in SITE_KEYS if not key or one in key],
        tls=tls,
        sessions=sessions,
    )
    measured(lambda progress: turns.inbound(plan, progress), json, plot)


def forward(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each server's turn.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each server in each phase.")] = 3,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 16,
    generators: Annotated[int, typer.Option(min=1, max=16, help="Processes that the clients are spread over.")] = 2,
    hosts: Annotated[int, typer.Option(min=1, max=1000, help="Hosts that a warm server knows.")] = 16,
    tunnels: Annotated[int, typer.Option(min=100, max=2000, help="Idle connections, for the memory of each.")] = 500,
    body_mb: Annotated[float, typer.Option(min=0.1, max=10000, help="Megabytes of the large body.")] = 100,
    phase: Annotated[list[str] | None, typer.Option(help=f"What is measured: {listed(_PHASES)}. [all]")] = None,
    before: Annotated[
        Path | None, typer.Option(help="The hsmitm command of another version, to take turns as well.")
    ] = None,
    hsm_latency_ms: LatencyOption = 0,
    sessions: Annotated[int, typer.Option(min=1, max=512, help="Sessions of the member.")] = 16,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Connections, requests, bytes, CPU and memory of the forward proxy, against mitmdump, squid and sslsplit."""
    checkout.require("forward")
    from bench.forward import forward as forwarding  # noqa: PLC0415  # commands load what they need

    if unknown := set(phase or ()) - set(_PHASES):
        raise typer.BadParameter(f"{listed(sorted(unknown))}: use {listed(_PHASES)}", param_hint="--phase")
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
        phases=tuple(phase or _PHASES),
        before=before,
    )
    measured(lambda progress: forwarding.forward(plan, progress), json, plot)


def bypass(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each server's turn.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each server in each phase.")] = 3,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Clients at a time.")] = 16,
    hosts: Annotated[int, typer.Option(min=1, max=1000, help="Hosts that are visited.")] = 16,
    body_mb: Annotated[float, typer.Option(min=0.1, max=10000, help="Megabytes of the large body.")] = 500,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Connections that a policy bypasses, and what each GB of them costs, against squid's splice and mitmdump's
    ignored hosts."""
    checkout.require("bypass")
    from bench.bypass import bypass as passing  # noqa: PLC0415  # commands load what they need

    plan = passing.Plan(seconds=seconds, rounds=rounds, seed=seed, clients=clients, hosts=hosts, body_mb=body_mb)
    measured(lambda progress: passing.bypass(plan, progress), json, plot)


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
    checkout.require("inbound-fuzz")
    from bench.fuzz import fuzz as fuzzing  # noqa: PLC0415  # commands load what they need

    measured(
        lambda progress: fuzzing.inbound_fuzz(
            number, seed, first=first, clients=clients, hsm_latency_ms=hsm_latency_ms, progress=progress
        ),
        json,
        plot,
    )


def edge(
    *,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Seconds of each attack.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Attacks whose names contain this; may be repeated.")] = None,
    hsmitm: Annotated[Path | None, typer.Option(help="The hsmitm command that is attacked. [this one]")] = None,
    seed: SeedOption = 1,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Attacks on a running hsmitm, each beside a client that does nothing wrong: what passes, who waits or grows."""
    checkout.require("edge")
    from bench.edge import edge as attacking  # noqa: PLC0415  # commands load what they need
    from bench.edge.table import ATTACKS  # noqa: PLC0415

    attacks = [one for one in ATTACKS if not only or any(part in one.name for part in only)]
    if not attacks:
        raise typer.BadParameter(f"there are {listed(one.name for one in ATTACKS)}", param_hint="--only")
    command = [str(hsmitm)] if hsmitm else [sys.executable, "-P", "-m", "proxy.main"]
    plan = attacking.Plan(seconds=seconds, attacks=attacks, command=command, seed=seed)
    measured(lambda progress: attacking.edge(plan, progress), json, plot)


def add_to(app: typer.Typer) -> None:
    """Let `app` have them."""
    for command in (failover, restarts, inbound, forward, bypass, inbound_fuzz, edge):
        app.command(rich_help_panel=_PANEL)(command)
