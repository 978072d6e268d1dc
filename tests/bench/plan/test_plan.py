"""The plan as a whole: what it reads, what it says, what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from bench.plan import hsm_numbers
from bench.plan import plan as planning
from bench.plan.demand import Caches
from bench.plan.plan import Asked, plan
from bench.report.report import Report
from bench.sign.target import maker
from hsm.errors import MisconfiguredError
from hsm.wire.worker import MAX_WORKERS
from proxy.config.forward import ForwardSection
from proxy.config.hsm import MemberSection
from tests.bench.test_commands import bench
from tests.integration.harness import HSMITM

_ASKED = Asked(
    log=None, connections=100, hosts=10, caches=Caches(entries=100, leaf_days=30, workers=2), key_type="rsa-2048",
    sign=None, mint=None, signatures_per_s=50, sessions=8, config=None, key=None, hsm_latency_ms=0, seed=7,
)  # fmt: skip


async def _plan(**changes: Any) -> Report:
    asked = structs.replace(_ASKED, **changes)
    make = maker(["rsa-2048"], 1, config=None, key=None, generate=False)
    return await plan(asked, make, lambda _text, _share: None)


def _log(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "connections.log"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_log(tmp_path: Path) -> None:
    """A log, and an HSM whose rate is known: signatures, hit rate, members, sessions, a chart, what to configure."""
    log = _log(tmp_path, *(f"{second} host-{second % 50}.example" for second in range(600)))
    drawn = tmp_path / "plan.svg"
    result = bench(
        tmp_path, "plan", "--log", str(log), "--signatures-per-s", "10", "--workers", "1", "--seed", "7",
        "--plot", str(drawn),
    )  # fmt: skip
    figures = result["figures"]
    assert figures["hit_rate"] == pytest.approx(550 / 600)
    assert (figures["connections"], figures["hosts"], figures["signatures"]) == (600, 50, 50)
    assert figures["signatures_per_s"] == pytest.approx(50 / 600)
    assert (figures["signatures_p99_per_s"], figures["signatures_peak_per_s"]) == (1, 1)
    assert (figures["members"], figures["sessions"], figures["capacity_per_s"]) == (2, 2, 10)
    assert figures["refused_lines"] == figures["failed_requests"] == 0
    assert result["notes"][0] == result["detail"]["advice"]
    assert "2 members with sessions = 2 each: with one member away 10 signatures" in result["notes"][0]
    assert "2 members, one away" in drawn.read_text()


async def test_rates_and_measurement(softhsm_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rates, and an HSM that is measured on the spot: a throw-away one, and the report says so."""
    monkeypatch.setattr(hsm_numbers, "_SESSIONS", (1, 4))
    monkeypatch.setattr(hsm_numbers, "_SIGN_S", 0.2)
    monkeypatch.setattr(hsm_numbers, "_MINT_S", 0.3)
    report = await _plan(connections=50, hosts=5, signatures_per_s=None)
    assert report.errors == []
    figures = report.figures
    assert figures["hit_rate"] == pytest.approx(0.8)
    assert 0 < figures["signatures_per_s"] <= figures["signatures_p99_per_s"] <= figures["signatures_peak_per_s"]
    assert figures["hsm_per_s"] > 50
    assert figures["signer_per_s"] > 50
    assert figures["members"] >= 2
    assert any("throw-away SoftHSM" in note for note in report.notes)


async def test_measurement_of_a_far_hsm(softhsm_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An HSM that is measured 20 ms away signs no more than its sessions can in that time, and the report says so."""
    monkeypatch.setattr(hsm_numbers, "_FAR_SESSIONS", (1, 4))
    monkeypatch.setattr(hsm_numbers, "_SIGN_S", 0.0)  # as long as the latency asks for
    monkeypatch.setattr(hsm_numbers, "_MINT_S", 0.3)
    report = await _plan(signatures_per_s=None, hsm_latency_ms=20)
    assert report.errors == []
    assert report.figures["hsm_sessions"] == 4
    assert 100 < report.figures["hsm_per_s"] <= 4 / 0.020
    assert report.configuration["hsm_latency_ms"] == 20
    assert any("(rsa-2048, measured just now, 20 ms away)" in note for note in report.notes)


async def test_refused_lines(tmp_path: Path) -> None:
    """Lines that cannot be used are told by number, and the plan is of the others."""
    report = await _plan(
        log=_log(tmp_path, "5 a.example", "x a.example", "3 b.example"), connections=None, hosts=None
    )  # fmt: skip
    assert report.figures["refused_lines"] == 1
    assert report.figures["connections"] == 2
    assert any("line 2: 'x' is not an ISO 8601 time" in note for note in report.notes)
    assert any(note.startswith("1 lines stood behind a later one") for note in report.notes)


async def test_small_cache(tmp_path: Path) -> None:
    """Where hosts push each other out of the cache, the advice names the size that keeps them."""
    lines = [f"{second} host-{second % 50}.example" for second in range(600)]
    report = await _plan(
        log=_log(tmp_path, *lines), connections=None, hosts=None, caches=Caches(entries=20, leaf_days=30, workers=1)
    )
    assert report.figures["hit_rate"] == 0
    assert "cache_entries = 50 instead of 20 (92% of the signatures" in report.notes[0]


async def test_too_much(tmp_path: Path) -> None:
    """More than a group can have, and more than one signer mints, is said."""
    mint = tmp_path / "mint.json"
    mint.write_text(json.dumps({"name": "mint", "figures": {"signer_cpu_ms": 1}}))
    report = await _plan(connections=5000, hosts=1000, mint=mint)
    assert report.figures["capacity_per_s"] == report.figures["signer_per_s"] == 1000
    assert any("at most 16 members" in note for note in report.notes)
    assert any("one signer mints about 1000 per second" in note for note in report.notes)


async def test_repeatable(tmp_path: Path) -> None:
    """The same question with the same seed has the same answer, in the file too."""
    first, second = await _plan(), await _plan()
    assert first.figures == second.figures
    assert msgspec.json.encode(first.charts) == msgspec.json.encode(second.charts)
    path = tmp_path / "plan.json"
    first.write(path)
    assert json.loads(path.read_text())["figures"] == first.figures


@pytest.mark.parametrize(
    ("seconds", "unit"), [(60, "seconds"), (1000, "minutes"), (20_000, "hours"), (900_000, "days")]
)
async def test_chart(tmp_path: Path, seconds: int, unit: str) -> None:
    """The chart has few enough points to be read, in a unit that fits, and no signature is missing from it."""
    log = _log(tmp_path, *(f"{second} host-{second}.example" for second in range(0, seconds, max(1, seconds // 200))))
    (chart,) = (await _plan(log=log, connections=None, hosts=None)).charts
    assert chart.x_label.startswith(unit)
    assert all(len(one.x) == len(one.y) <= 60 for one in chart.series)
    assert max(chart.series[0].y) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"connections": None}, "say what to plan for: --log FILE, or --connections N with --hosts M"),
        ({"hosts": None}, "say what to plan for"),
        ({"log": Path("x")}, "leave the rates out"),
        ({"hosts": 101}, "--hosts 101: at most all 100"),
        ({"sign": Path("x")}, "all say what the HSM can do: give one"),
        ({"config": Path("x")}, "all say what the HSM can do: give one"),
        ({"signatures_per_s": None, "config": Path("x")}, "--config and --key go together"),
        ({"key": "pkcs11:object=x"}, "--config and --key go together"),
        ({"hsm_latency_ms": 5}, "--hsm-latency-ms: .* --signatures-per-s has it in it"),
        (
            {"hsm_latency_ms": 5, "signatures_per_s": None, "sign": Path("x")},
            "--hsm-latency-ms: the file of --sign says",
        ),
        (
            {"hsm_latency_ms": 5, "signatures_per_s": None, "config": Path("x"), "key": "pkcs11:object=x"},
            "--hsm-latency-ms: an HSM of --config has a latency of its own",
        ),
        ({"key_type": "dsa"}, "--key-type dsa: use one of rsa-2048"),
        ({"signatures_per_s": None, "sign": Path("/nowhere")}, "--sign /nowhere: No such file"),
        ({"mint": Path("/nowhere")}, "--mint /nowhere: No such file"),
    ],
)
async def test_refused(changes: dict[str, Any], sentence: str) -> None:
    """Options that are missing, contradict each other or name no file: a sentence, before anything is measured."""
    with pytest.raises(MisconfiguredError, match=sentence):
        await _plan(**changes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", "say what to plan for: --log FILE, or --connections N with --hosts M, both per second"),
        (
            "--connections 9 --hosts 1 --sign FILE --hsm-latency-ms 5",
            "--hsm-latency-ms: the file of --sign says at which latency it was measured",
        ),
    ],
)
def test_command_line_refusal(options: str, sentence: str) -> None:
    """On the command line such a sentence is all that is said, and the exit status is not 0."""
    done = subprocess.run([*HSMITM, "bench", "plan", *options.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert done.stderr.strip() == f"hsmitm: {sentence}"


def test_as_a_configuration() -> None:
    """What is not given is as in a configuration that does not name it, and what a configuration refuses is no plan."""
    told = subprocess.run(
        [*HSMITM, "bench", "plan", "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "200"}
    ).stdout
    _, sections = msgspec.json.schema_components([ForwardSection, MemberSection])
    forward, member = (sections[name]["properties"] for name in ("ForwardSection", "MemberSection"))
    for option, field in (
        ("--cache-entries", forward["cache_entries"]),
        ("--leaf-days", forward["leaf_days"]),
        ("--sessions", member["sessions"]),
    ):
        (line,) = (one for one in told.splitlines() if f" {option} " in one)
        assert f"[default: {field['default']}]" in line
        assert f"[{field['minimum']}<=x<={field['maximum']}]" in line
    assert planning.caches(entries=1, leaf_days=1, workers=0).workers >= 1


def test_more_workers_than_a_configuration_may_have_are_not_planned_for() -> None:
    """A plan for more workers than hsmitm.toml takes could not be carried out, and is refused."""
    more = ["--connections", "9", "--hosts", "1", "--workers", str(MAX_WORKERS + 1)]
    done = subprocess.run(
        [*HSMITM, "bench", "plan", *more], capture_output=True, text=True, check=False, env={"COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert "'--workers'" in done.stderr
    assert str(MAX_WORKERS) in done.stderr
