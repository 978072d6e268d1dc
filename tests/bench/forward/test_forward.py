"""The forward measurement as a whole, and without its peers; what its figures say of turns that are made up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bench.forward import figures as forward_figures
from bench.forward import peers
from bench.forward.forward import PHASES, Plan, forward
from bench.report.processes import Memory
from bench.rig import h2load, nginx
from bench.rig.server import Idle, Row, Turn
from hsm.errors import MisconfiguredError
from tests.bench.test_commands import bench

QUICK = ("--seconds", "0.2", "--rounds", "1", "--clients", "4", "--hosts", "4", "--tunnels", "100", "--body-mb", "5")


def test_smoke(softhsm_module: str, tmp_path: Path) -> None:
    """A short run of everything: every server works in every phase without an error, missing peers are named, and the
    figures make sense."""
    other = str(Path(sys.executable).with_name("hsmitm"))
    result = bench(
        tmp_path, "forward", *QUICK, "--before", other, "--hsm-latency-ms", "5", "--seed", "7",
        "--plot", str(tmp_path / "f.svg"),
    )  # fmt: skip
    figures, rows = result["figures"], {(row["phase"], row["server"]): row for row in result["rows"]}
    assert figures["failed_requests"] == 0
    measured = {server for _, server in rows}
    assert measured >= {"hsmitm", "hsmitm-2", "hsmitm-rules", "hsmitm-bare", "hsmitm-before", "mitmdump", "no proxy"}
    assert set(result["detail"]["missing"]) == set(peers.PEERS) - measured, "a peer was dropped without a word"
    for phase in PHASES:
        assert {(phase, "hsmitm"), (phase, "hsmitm-before"), (phase, "mitmdump")} <= set(rows)
    for (phase, server), row in rows.items():
        assert row["per s"] > 0, (phase, server)
        assert 0 < row["p50 ms"] <= row["p99 ms"], (phase, server)
        assert row["load cores"] > 0
    assert rows["cold", "hsmitm"]["signs"] >= 1, "a leaf was there already: this is not a new host"
    assert rows["cold", "hsmitm"]["p50 ms"] > 5, "the HSM's delay was not met"
    assert rows["warm", "hsmitm"]["signs"] < 0.5, "leaves of known hosts are signed again"
    assert figures["kb_per_idle_connection"] > 0
    for name in ("warm_cpu", "cold_cpu", "keepalive_rate", "idle_memory"):
        assert figures[f"{name}_over_mitmdump"] > 0
    for name in ("h2_16_cpu", "h2_80_rate", "h2_down_cpu", "h2_up_seconds"):
        assert figures[f"{name}_over_mitmdump"] > 0
        assert figures[f"{name}_over_before"] > 0
    assert figures["two_workers_over_one"] > 0
    assert figures["policy_cpu_over_without"] > 0
    assert len(result["detail"]["targets"]) == 14, "six, and what another version is held against"
    assert sum(note.startswith("target ") for note in result["notes"]) == 14
    assert all(result["detail"]["versions"][name] for name in measured & set(peers.PEERS))
    assert "CPU per new connection" in (tmp_path / "f.svg").read_text()


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """As short as it can be."""
    monkeypatch.setattr("bench.forward.forward._WARM_UP_S", 0.2)
    return Plan(
        seconds=0.2, rounds=1, seed=1, clients=2, generators=1, hosts=2, tunnels=10, body_mb=0.5, sessions=2,
        hsm_latency_ms=0,
    )  # fmt: skip


async def test_peers_missing(softhsm_module: str, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any peer hsmitm is measured alone, no ratio is made up, and the report names each that is missing."""

    def gone(_setting: peers.Setting, _directory: Path) -> Any:
        raise MisconfiguredError("it is not installed")

    monkeypatch.setattr(peers, "PEERS", dict.fromkeys(peers.PEERS, gone))
    report = await forward(plan, lambda _text, _share: None)
    assert report.errors == []
    assert report.figures["cpu_ms_per_connection"] > 0
    assert not any("mitmdump" in name for name in report.figures)
    for name in ("mitmdump", "squid", "sslsplit"):
        assert f"{name} was not measured: it is not installed" in report.notes
    assert any(note.startswith("target unknown: warm_cpu_over_mitmdump") for note in report.notes)


async def test_http2_alone(softhsm_module: str, plan: Plan) -> None:
    """Whoever works on HTTP/2 measures that alone: only who takes part is started, and other figures are left out."""
    report = await forward(structs.replace(plan, phases=("h2-16", "h2-up")), lambda _text, _share: None)
    assert report.errors == []
    assert {row["server"] for row in report.rows} == {"hsmitm", "mitmdump", "no proxy"}
    assert report.figures["h2_16_cpu_ms_per_request"] > 0
    assert report.figures["h2_up_s_per_100_mb"] > 0
    assert not any(name.startswith(("cpu_ms", "squid", "warm")) for name in report.figures)
    assert not any(note.startswith("target") for note in report.notes)


async def test_http2_missing(softhsm_module: str, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nghttp2's programs the rest is measured, and the report says what to install for HTTP/2."""
    monkeypatch.setattr(h2load, "PROGRAMS", ("h2load", "no-such-nghttpd"))
    report = await forward(structs.replace(plan, phases=("body", "h2-16")), lambda _text, _share: None)
    assert report.errors == []
    assert {row["phase"] for row in report.rows} == {"body"}
    assert any("HTTP/2 was not measured" in note and "apt-get install nghttp2" in note for note in report.notes)


async def test_no_origin(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nginx is missing, which is the origin, the message says what to install."""
    monkeypatch.setattr(nginx, "executable", lambda: None)
    with pytest.raises(MisconfiguredError, match="apt-get install nginx-light"):
        await forward(plan, lambda _text, _share: None)


async def test_errors_are_counted(softhsm_module: str, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose leaves do not verify is not a fast peer: its failures are counted and told."""
    prepare = peers.mitmdump

    def wrong(setting: peers.Setting, directory: Path) -> Any:
        return structs.replace(prepare(setting, directory), ca=setting.roots)

    monkeypatch.setattr(peers, "PEERS", {"mitmdump": wrong})
    report = await forward(structs.replace(plan, phases=("body",)), lambda _text, _share: None)
    assert report.figures["failed_requests"] > 0
    assert any("mitmdump, warm: w" in error and "unable to get" in error for error in report.errors)


def turn(server: str, phase: Any, amount: float, cpu_s: dict[str, float], *, others_s: float = 0.0) -> Turn:
    """One of ten seconds."""
    return Turn(
        server=server, phase=phase, amount=amount, seconds=10.0, latencies_ms=[1.0, 2.0, 30.0], cpu_s=cpu_s,
        generator_s=1.0, origin_s=0.5, others_s=others_s, watched_s=10.0, signatures=0, failed=0, errors=[],
    )  # fmt: skip


def made_up(two_s: float) -> tuple[list[Row], list[Idle]]:
    """hsmitm at half of mitmdump's CPU; its second worker has 40 and its first 60 of a hundred connections."""
    turns = []
    for phase in ("warm", "cold", "kept", "body"):
        turns += [
            turn("hsmitm", phase, 2000, {"worker 1": 8.0, "member m1": 2.0}),
            turn("mitmdump", phase, 1000, {"": 10}),
        ]
    for phase in ("warm", "kept"):
        turns += [turn("hsmitm-2", phase, 3000, {"worker 1": 0.6 * two_s, "worker 2": 0.4 * two_s})]
    turns += [
        turn("hsmitm-rules", "warm", 1000, {"worker 1": 5.15}),
        turn("hsmitm-bare", "warm", 1000, {"worker 1": 5.0}),
    ]
    turns += [turn("no proxy", phase, 9000, {"": 5.0}) for phase in ("warm", "kept", "body")]
    idle = [Idle(name, 100, Memory(1000, 2000), Memory(1000 + 100 * kb, 9999), 0, [])
            for name, kb in (("hsmitm", 60), ("mitmdump", 100))]  # fmt: skip
    return Row.sums(turns), idle


def test_figures() -> None:
    """The ratios are those of the issue: CPU per connection, requests per second, memory per connection."""
    found = forward_figures.figures(*made_up(12.0))
    assert found["cpu_ms_per_connection"] == pytest.approx(5.0)
    assert found["mitmdump_cpu_ms_per_connection"] == pytest.approx(10.0)
    assert found["warm_cpu_over_mitmdump"] == found["cold_cpu_over_mitmdump"] == pytest.approx(0.5)
    assert found["keepalive_rate_over_mitmdump"] == pytest.approx(2.0)
    assert found["idle_memory_over_mitmdump"] == pytest.approx(0.6)
    assert found["two_workers_over_one"] == pytest.approx(1.5)
    assert found["policy_cpu_over_without"] == pytest.approx(1.03)
    assert found["two_workers_over_one_by_cpu"] == pytest.approx(4.0 / 2.4), "the busier worker is the limit"


@pytest.mark.parametrize(("two_s", "judged"), [(6.0, "two_workers_over_one"), (17.0, "two_workers_over_one_by_cpu")])
def test_two_workers_judged(monkeypatch: pytest.MonkeyPatch, two_s: float, judged: str) -> None:
    """Two workers are judged by their rate, unless the machine had no core left for the second."""
    monkeypatch.setattr(forward_figures.os, "sched_getaffinity", lambda _pid: {0, 1})
    rows, idle = made_up(two_s)
    targets = {one.figure: one for one in forward_figures.targets(forward_figures.figures(rows, idle), rows)}
    assert judged in targets
    assert len(targets) == 6
    assert targets["warm_cpu_over_mitmdump"].met
    assert targets["keepalive_rate_over_mitmdump"].sentence() == (
        "target met: keepalive_rate_over_mitmdump 2, at least 1.8"
    )


def test_doubts() -> None:
    """A server that did not use its core may be faster than its rate, and a machine with others on it is named."""
    row = turn("mitmdump", "warm", 100, {"": 5.0}, others_s=9.0)
    told = forward_figures.doubts(Row.sums([row]))
    assert told[0].startswith("mitmdump used only 0.50 cores in 'warm'")
    assert "others 0.90" in told[0]
    assert "the machine was not idle" in told[1]
