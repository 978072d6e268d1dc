"""The mint measurement as a whole, and what it says when mints fail or certificates are bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.mint.mint import Plan, mint
from bench.mint.signer_alone import SignerAlone
from bench.report.report import Report
from tests.bench.test_commands import bench


async def _mint(key_type: str = "p256", latency_ms: float = 0) -> Report:
    plan = Plan(
        seconds=0.3, latencies_ms=[latency_ms], key_type=key_type, sessions=4, concurrency=8, entries=100, names=2,
        seed=1,
    )  # fmt: skip
    return await mint(plan, lambda _text, _share: None)


def test_smoke(softhsm_module: str, tmp_path: Path) -> None:
    """A short run: new and cached certificates come without an error, cached ones faster, one signature for each."""
    drawn = tmp_path / "mint.svg"
    result = bench(tmp_path, "mint", "--seconds", "1", "--entries", "300", "--seed", "7", "--plot", str(drawn))
    figures = result["figures"]
    assert figures["failed_requests"] == 0
    for suffix in ("", "_20ms"):
        assert 0 < figures[f"cold_per_s{suffix}"] <= figures[f"cached_per_s{suffix}"]
        for kind in ("cold", "cached"):
            p50, p99, longest = (figures[f"{kind}_{name}_ms{suffix}"] for name in ("p50", "p99", "max"))
            assert 0 < p50 <= p99 <= longest
        for role in ("signer", "member", "worker"):
            assert figures[f"{role}_cpu_ms{suffix}"] > 0
        assert 1 <= figures[f"signatures_per_mint{suffix}"] < 1.5, "test signatures may come on top"
    assert figures["cold_p50_ms_20ms"] >= 20, "the delaying module was asked"
    assert figures["cold_per_s_20ms"] <= 8 / 0.020, "eight sessions, 20 ms each"
    assert 0.5 < figures["cached_kb"] < 100
    assert figures["lookups_per_s"] > figures["cached_per_s"]
    assert [(row["HSM ms"], row["certificates"]) for row in result["rows"]] == [
        (latency, kind) for latency in (0, 20) for kind in ("cold", "cached")
    ]
    for turn in result["detail"]["turns"]:
        assert turn["outcome"]["checked"] > 0
    assert result["detail"]["versions"]
    assert "complete certificates per second" in drawn.read_text()


async def test_key_type(softhsm_module: str) -> None:
    """Another type of CA key: the same certificates."""
    report = await _mint("p256")
    assert report.errors == []
    assert report.figures["cold_per_s"] > 0
    assert "cold_per_s_20ms" not in report.figures


async def test_bad_certificates(softhsm_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates that the CA did not sign are found out: a measurement of them would be worth nothing."""
    monkeypatch.setattr(SignerAlone, "ca", property(lambda self: self.directory / "forward-untrust.pem"))
    report = await _mint()
    assert report.figures["failed_requests"] > 0
    assert "is bad" in report.errors[0]


async def test_failed_mints(softhsm_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An HSM that signs nothing: the failures are counted and told, and leaves of the cache still come."""
    monkeypatch.setattr(SignerAlone, "delay", lambda self, _: self.module.rules("C_Sign rv 0x00000030"))
    report = await _mint(latency_ms=1)
    assert report.figures["cold_per_s"] == 0
    assert report.figures["failed_requests"] > 0
    assert report.figures["cached_per_s"] > 0
    assert "no certificate for host-1-" in report.errors[0]
