"""The measurements run, and what they report makes sense: benchmarks that nobody runs rot."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.harness import HSMITM


def bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """`hsmitm bench ...` with a JSON file, which must succeed; the file."""
    path = tmp_path / "result.json"
    done = subprocess.run(
        [*HSMITM, "bench", *arguments, "--json", str(path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(path.read_text())
    for name, value in result["figures"].items():
        assert name in done.stdout, "the figures are shown as well"
        assert isinstance(value, int | float)
    assert result["host"]["packages"]["hsmitm"]
    assert result["errors"] == []
    assert result["seed"] == 7
    assert result["command"][:2] == ["hsmitm", "bench"]
    return result


def test_failover(softhsm_module: str, tmp_path: Path) -> None:
    """A short soak: members fail and come back under real connections, none of which fails, and the times are told."""
    result = bench(tmp_path, "failover", "--seconds", "3", "--members", "2", "--seed", "7")
    figures = result["figures"]
    assert figures["requests"] > 100
    assert (figures["failed_requests"], figures["bad_signatures"]) == (0, 0)
    assert figures["faults"] >= 1
    assert 0 < figures["latency_p50_ms"] <= figures["latency_p99_ms"] <= figures["latency_max_ms"]
    assert 0 <= figures["recovery_max_s"] < 60
    (one,) = result["detail"]["rounds"]
    assert one["members"] == 2
    assert len(one["happened"]) == figures["faults"]
    assert all(fault["began"] < fault["restored"] for fault in one["happened"])


def test_restarts(softhsm_module: str, tmp_path: Path) -> None:
    """A member that is killed thirty times leaves nothing behind in the signer, and no request fails."""
    figures = bench(tmp_path, "restarts", "--cycles", "30", "--seed", "7")["figures"]
    assert figures["cycles"] == 30
    assert figures["failed_requests"] == 0
    assert figures["descriptors_growth"] == figures["threads_growth"] == figures["children_growth"] == 0
    assert 0 < figures["away_p50_ms"] <= figures["away_max_ms"]
