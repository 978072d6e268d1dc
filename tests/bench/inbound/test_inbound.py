"""The inbound measurement as a whole, and without its peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.inbound.inbound import Plan, inbound
from bench.rig import nginx
from bench.rig.site import SITE_KEYS
from tests.bench.test_commands import bench


def test_smoke(softhsm_module: str, tmp_path: Path) -> None:
    """A short run of everything: all three servers complete connections without an error, and the figures are there."""
    result = bench(tmp_path, "inbound", "--seconds", "0.4", "--rounds", "1", "--clients", "32", "--seed", "7")
    figures, rows = result["figures"], result["rows"]
    assert figures["failed_requests"] == 0
    assert figures["rate_over_nginx_engine_20ms"] > 1, "hsmitm waits for the HSM as nginx does"
    assert figures["rate_over_nginx_engine_0ms"] > 0
    assert figures["forward_loaded_p99_ms"] > 0
    assert "forward_p99_added_ms" in figures
    assert {(row["server"], row["key"], row["HSM ms"]) for row in rows} == {
        (server, key, latency)
        for server in ("hsmitm", "nginx-engine", "nginx-file")
        for key in SITE_KEYS
        for latency in (0, 20)
    }
    for row in rows:
        assert row["per s"] > 0
        assert 0 < row["p50 ms"] <= row["p99 ms"] <= row["max ms"]
        assert row["CPU ms /conn"] > 0
        assert row["ab cores"] > 0
        if row["server"] == "nginx-file":
            assert row["signs /conn"] == 0
        else:
            assert row["signs /conn"] >= 1, "a session was resumed: this is not a new connection"
    for one in result["detail"]["forward"]:
        assert len(one["idle_ms"]) == len(one["loaded_ms"]) == 20, "fifty a second"
        assert one["inbound_ms"]
    assert result["detail"]["missing"] == {}
    assert result["detail"]["versions"]


async def test_peers_missing(softhsm_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nginx hsmitm is measured alone, no ratio is made up, and the report names what was not measured."""
    monkeypatch.setattr(nginx, "executable", lambda: None)
    plan = Plan(seconds=0.5, rounds=1, seed=1, clients=8, latencies_ms=[0], keys=["p256"], tls="1.2", sessions=8)
    report = await inbound(plan, lambda _text, _share: None)
    assert report.errors == []
    assert report.figures["hsmitm_per_s_0ms"] > 0
    assert not any("over" in name for name in report.figures)
    named = [note.partition(" ")[0] for note in report.notes if "apt-get install nginx-light" in note]
    assert named == ["nginx-engine", "nginx-file"]
