"""The bypass measurement as a whole, and what its figures say of turns that are made up."""

from __future__ import annotations

from pathlib import Path

from bench.bypass import figures as room
from bench.bypass import peers
from bench.bypass.bypass import PHASES
from bench.rig.server import Row
from tests.bench.test_commands import bench


def test_smoke(softhsm_module: str, tmp_path: Path) -> None:
    """A short run of everything: every server passes connections in every phase without an error, and missing peers are
    named."""
    result = bench(
        tmp_path, "bypass", "--seconds", "0.4", "--rounds", "1", "--clients", "4", "--hosts", "4", "--body-mb", "5",
        "--seed", "7",
    )  # fmt: skip
    figures, rows = result["figures"], {(row["phase"], row["server"]): row for row in result["rows"]}
    assert figures["failed_requests"] == 0
    measured = {server for _, server in rows}
    assert measured >= {"hsmitm", "mitmdump", "no proxy"}
    assert set(result["detail"]["missing"]) == set(peers.PEERS) - measured, "a peer was dropped without a word"
    assert all((phase, "hsmitm") in rows for phase in PHASES)
    assert all(row["per s"] > 0 for row in rows.values())
    assert all(row["signs"] == 0 for row in rows.values())
    assert figures["bypass_cpu_per_gb_over_mitmdump"] > 0
    assert sum(note.startswith("target ") for note in result["notes"]) == 2


def _row(server: str, phase: str, cpu_ms: float) -> Row:
    return Row(
        server=server, phase=phase, per_s=10, p50_ms=1, p99_ms=2, max_ms=3, cpu_ms=cpu_ms, busiest_ms=cpu_ms,
        signatures=0, server_share=1, generator_share=1, origin_share=1, others_share=0, failed=0,
    )  # type: ignore[arg-type]  # fmt: skip


def test_the_figures() -> None:
    """Ours over theirs, for a connection and for a GB; what is missing is told as unknown."""
    rows = [_row("hsmitm", "warm", 1.0), _row("hsmitm", "body", 0.1)]
    alone = room.figures(rows)
    assert alone["bypass_cpu_s_per_gb"] == 0.1
    assert all("unknown" in one for one in room.targets(alone))
    both = room.figures([*rows, _row("mitmdump", "body", 1.0), _row("squid", "body", 0.05), _row("squid", "warm", 0.5)])
    assert both["bypass_cpu_per_gb_over_mitmdump"] == 0.1
    assert both["bypass_cpu_per_gb_over_squid"] == 2.0
    assert both["bypass_cpu_per_connection_over_squid"] == 2.0
    met, missed = room.targets(both)
    assert met.startswith("target met")
    assert missed.startswith("target NOT met")
