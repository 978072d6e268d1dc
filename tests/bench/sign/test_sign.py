"""The signing measurement: what it says is so, and what it may do to an operator's HSM."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bench.report.plot import Chart
from bench.sign import caller, player
from bench.sign.charts import charts
from bench.sign.depth import DEPTHS, MEMBER, RAW, SIGNER
from bench.sign.figures import advice, doubts, figures
from bench.sign.kind import KINDS, kinds_of
from bench.sign.points import Point, points
from bench.sign.row import Row
from bench.sign.sign import Plan, sign
from bench.sign.target import maker, throw_away
from hsm.certificates.files import spki_of
from hsm.errors import DeadlineError, HsmitmError
from hsm.wire.member import Open
from tests.bench.test_commands import bench
from tests.integration.harness import HSMITM

P256 = KINDS["p256"]


# --- the measurement as a whole ---------------------------------------------------------------------------------------


@pytest.mark.alone
def test_smoke(softhsm_module: str, tmp_path: Path) -> None:
    """A short run: each depth signs without an error, the deeper the dearer, and the figures are there."""
    drawn = tmp_path / "sign.svg"
    result = bench(
        tmp_path, "sign", "--seconds", "0.2", "--rounds", "2", "--sessions", "1", "--sessions", "4",
        "--hsm-latency-ms", "0", "--hsm-latency-ms", "5", "--seed", "7", "--plot", str(drawn),
    )  # fmt: skip
    rows: list[dict[str, Any]] = result["rows"]
    closed = {(row["key"], row["sessions"], row["depth"]): row for row in rows if row["loop"] == "closed"}
    assert set(closed) == {
        (key, sessions, depth)
        for key in ("rsa-2048", "p256")
        for sessions in ("1", "4", "1+5ms", "4+5ms")
        for depth in DEPTHS
    }
    for row in rows:
        assert row["per s"] > 0
        assert 0 < row["p50 ms"] <= row["p90 ms"] <= row["p99 ms"] <= row["max ms"]
    for (key, sessions, depth), row in closed.items():
        if depth != RAW and sessions == "4":  # the kernel counts CPU time in steps of 10 ms
            above = closed[key, sessions, RAW if depth == MEMBER else MEMBER]
            assert row["CPU us"] > 0.8 * above["CPU us"], "the deeper the dearer"
        if sessions.endswith("ms"):
            assert row["p50 ms"] > 5
            assert row["per s"] < 1.1 * 1000 / 5 * int(sessions[0])
    told: dict[str, float] = result["figures"]
    assert told["failed_requests"] == 0
    for kind in ("rsa2048", "p256"):
        assert 0 < told[f"{kind}.signer_over_raw"] < 1.5
        assert 0 < told[f"{kind}.member_over_raw"] < 1.5
        assert told[f"{kind}.knee_sessions"] in (1, 4)
        assert 0 < told[f"{kind}.open_p50_ms"] <= told[f"{kind}.open_p99_ms"] <= told[f"{kind}.open_max_ms"]
    assert told["latency5ms.theory_per_s"] == 800
    assert 0 < told["latency5ms.rate_over_theory"] <= told["latency5ms.rate_over_limit"]
    opened = [row for row in rows if row["loop"] != "closed"]
    assert {(row["key"], row["depth"]) for row in opened} == {(key, d) for key in ("rsa-2048", "p256") for d in DEPTHS}
    assert result["detail"]["turns"]
    assert "<svg" in drawn.read_text()


def test_members(softhsm_module: str, tmp_path: Path) -> None:
    """Members with the same key share the load, and the figures say what a second one brings."""
    result = bench(
        tmp_path, "sign", "--quick", "--sessions", "2", "--members", "1", "--members", "2", "--key-type", "p256",
        "--rate", "0", "--seed", "7",
    )  # fmt: skip
    assert [row["sessions"] for row in result["rows"]] == ["2"] * 3 + ["2x2"] * 3
    assert result["figures"]["p256.members2_over_1"] > 0


async def test_every_kind(softhsm_module: str) -> None:
    """Each type of key and scheme is signed at each depth, and the signatures verify."""
    plan = Plan(points=[Point(0, 1, 2)], seconds=0.1, rounds=1, seed=1, rates=[0])
    make = maker(list(KINDS), 1, config=None, key=None, generate=False)
    report = await sign(plan, make, lambda _text, _share: None)
    assert report.errors == []
    assert all(report.figures[f"{kind.figure}.{depth}_per_s"] > 0 for kind in KINDS.values() for depth in DEPTHS)
    assert "knee_sessions" not in report.figures, "one number of sessions shows no knee"


# --- how it counts ----------------------------------------------------------------------------------------------------


async def test_an_open_loop_excuses_no_stall() -> None:
    """A load generator that is held up for a moment counts the moment for all calls that were due in it."""
    held_up = iter([0.3])

    async def sign_late(_key: str, _scheme: str, _digest: bytes) -> bytes:
        time.sleep(next(held_up, 0.0))  # the event loop stands still
        return b"no signature"

    load = player.Load(key="k", spki=_spki(), scheme=P256.scheme, callers=1, seconds=0.5, rate=100)
    taken = await caller._Turn(load, sign_late).run()
    assert len(taken.latencies_ms) == len(taken.late_ms) == 50
    assert sum(latency > 50 for latency in taken.latencies_ms) >= 20
    assert sum(late > 50 for late in taken.late_ms) >= 20, "and says that it was late itself"
    assert taken.errors == ["a signature of ecdsa_secp256r1_sha256 does not verify"]


async def test_errors_are_counted() -> None:
    """Signatures that fail are told, and are no rate."""

    async def refuse(_key: str, _scheme: str, _digest: bytes) -> bytes:
        await asyncio.sleep(0.01)
        raise DeadlineError("no answer")

    load = player.Load(key="k", spki=_spki(), scheme=P256.scheme, callers=2, seconds=0.05)
    taken = await caller._Turn(load, refuse).run()
    assert taken.signed == 0
    assert set(taken.errors) == {"DeadlineError: no answer"}


def _spki() -> bytes:
    return spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())


def row(depth: str = SIGNER, per_s: float = 1000, sessions: int = 8, **more: Any) -> Row:
    """A line of a result."""
    point = Point(more.pop("latency_ms", 0), more.pop("members", 1), sessions)
    told = {
        "rate": 0.0, "over_raw": 0.5, "p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0, "max_ms": 4.0, "late_p99_ms": 0.0,
        "cpu_us": {"raw": 1.0} if depth == RAW else {"generator": 1.0, "members": 2.0, "signer": 3.0},
        "verify_us": 1.0, "generator_share": 0.1, "others_share": 0.0,
    } | more  # fmt: skip
    return Row(point=point, kind="p256", depth=depth, per_s=per_s, **told)


@pytest.mark.parametrize(
    ("rates", "knee", "said"),
    [
        ({1: 500, 2: 900, 4: 980, 8: 1000, 16: 950}, 2, "configure sessions = 2, which gives 900 signatures/s, 90%"),
        ({1: 1000, 2: 1000, 8: 1000}, 1, "configure sessions = 1, which gives 1000 signatures/s, 100%"),
        ({1: 100, 4: 400, 8: 800}, 8, "8 sessions, the most that were measured, are not yet too many"),
    ],
)
def test_the_knee(rates: dict[int, float], knee: int, said: str) -> None:
    """The fewest sessions that give nearly the best rate are what to configure; it is said where there is no such."""
    rows = [row(depth, per_s, sessions) for sessions, per_s in rates.items() for depth in DEPTHS]
    assert figures(rows, Point(0, 1, 8))["knee_sessions"] == knee
    (sentence,) = advice(rows)
    assert sentence.startswith("p256 with a member: ")
    assert said in sentence


def test_a_distant_hsm() -> None:
    """With a latency the rate is compared with what so many sessions can do at best, or with what the module does."""
    main = [row(depth) for depth in DEPTHS]
    far = [row(depth, per_s, 64, latency_ms=5) for depth, per_s in ((RAW, 8000), (MEMBER, 7000), (SIGNER, 6000))]
    found = figures([*main, *far[:2], row(SIGNER, 6000, 64, latency_ms=5, over_raw=0.75)], Point(0, 1, 8))
    assert found["latency5ms.theory_per_s"] == 12800
    assert found["latency5ms.rate_over_theory"] == pytest.approx(6000 / 12800)
    assert found["latency5ms.rate_over_limit"] == pytest.approx(0.75)
    slow = row(SIGNER, 6000, 64, latency_ms=5, over_raw=0.75, cpu_us={"generator": 100.0, "signer": 400.0})
    (doubt,) = doubts([*main, slow])
    assert "12800/s would take 6.4 cores" in doubt


def test_doubts() -> None:
    """The report says where the load generator or other processes were in the way, and what did not keep up."""
    rows = [row(), row(generator_share=0.95), row(rate=100.0, per_s=50), row(others_share=0.5)]
    told = list(doubts(rows))
    assert len(told) == 3
    for text, word in zip(told, ("95% of a core", "50/s were done in time", "0.5 cores"), strict=True):
        assert word in text


def test_charts() -> None:
    """A sweep is drawn as lines for each key and the latency; a single point as bars."""
    sweep = [row(depth, sessions=sessions) for sessions in (1, 2) for depth in DEPTHS]
    assert [chart.kind for chart in charts(sweep, Point(0, 1, 2))] == ["line", "line"]
    drawn: list[Chart] = charts(sweep[:3], Point(0, 1, 1))
    assert [chart.kind for chart in drawn] == ["bar"]


def test_points() -> None:
    """Without a choice a sweep, a second member and a distant HSM; with one, all its combinations."""
    assert Point(5, 1, 64) in points(None, None, None)
    assert Point(0, 2, 8) in points(None, None, None)
    assert points([4, 2], None, None) == [Point(0, 1, 2), Point(0, 1, 4)]
    assert points([8], [2, 1], [5, 0]) == [Point(0, 1, 8), Point(0, 2, 8), Point(5, 1, 8), Point(5, 2, 8)]
    assert all(point.members == 1 and not point.latency_ms for point in points(None, None, None, throw_away=False))


def test_what_a_key_can_be_measured_as() -> None:
    """A key is measured in the schemes that fit it; one of a size that we do not know in none."""
    assert [kind.name for kind in kinds_of(ec.generate_private_key(ec.SECP384R1()).public_key())] == ["p384"]
    rsa_2048 = rsa.generate_private_key(65537, 2048).public_key()
    assert [kind.name for kind in kinds_of(rsa_2048)] == ["rsa-2048", "rsa-2048-pss"]
    assert kinds_of(rsa.generate_private_key(65537, 2304).public_key()) == []


# --- what cannot be measured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--key-type", "dsa"], "--key-type dsa: use rsa-2048,"),
        (["--generate"], "--key and --generate go with --config"),
        (["--config", "hsmitm.toml", "--hsm-latency-ms", "5"], "an HSM of --config has a latency of its own"),
        (["--config", "/nowhere/hsmitm.toml", "--generate"], "there is no configuration at /nowhere/hsmitm.toml"),
        (["--plot", "/nowhere/sign.svg"], "there is no directory /nowhere"),
        (["--plot", "sign.gif"], "charts are written as .svg or .png"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], said: str) -> None:
    """What cannot be measured is told before anything is, in a sentence."""
    done = subprocess.run(
        [*HSMITM, "bench", "sign", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_process_that_cannot_open_says_why(softhsm_module: str, tmp_path: Path) -> None:
    """What goes wrong in a process of the measurement is told as what it is."""
    target = await throw_away(tmp_path, [P256], 1)
    (member,) = target.members
    opening = Open("/nowhere.so", member.selector, "1234", 1, {})
    with pytest.raises(HsmitmError, match=r"no PKCS#11 module at /nowhere\.so"):
        await player.Player.start("bench.sign.raw", player.Opening(partitions=[opening]))
    asked = player.Opening(partitions=[opening], environments=[member.environment])
    with pytest.raises(HsmitmError, match=r"no PKCS#11 module at /nowhere\.so"):
        await player.Player.start("bench.sign.caller", asked)
