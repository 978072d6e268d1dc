"""The HSM's numbers from results of other measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.plan.hsm_numbers import from_sign, signer_limit
from hsm.errors import MisconfiguredError

_FIGURES = {"rsa2048.raw_per_s": 1200.5, "rsa2048.knee_sessions": 4, "p256.raw_per_s": 9000}


def _result(
    tmp_path: Path, name: str, figures: dict[str, float], turns: list[dict[str, Any]] | None = None, **more: Any
) -> Path:
    path = tmp_path / f"{name}.json"
    detail = {"detail": {"turns": turns}} if turns else {}
    path.write_text(json.dumps({"name": name, "figures": figures, "configuration": more, "others": [1]} | detail))
    return path


def test_sign(tmp_path: Path) -> None:
    """The rate and the sessions of the CA's type of key."""
    found = from_sign(_result(tmp_path, "sign", _FIGURES), "rsa-2048")
    assert (found.per_s, found.sessions, found.signer_per_s) == (1200.5, 4, 0)
    assert "sign.json" in found.source


def test_several_members(tmp_path: Path) -> None:
    """What two members did together is half as much for each."""
    points = [{"latency_ms": 0, "members": 2, "sessions": 4}, {"latency_ms": 5, "members": 1, "sessions": 4}]
    assert from_sign(_result(tmp_path, "sign", _FIGURES, points=points), "rsa-2048").per_s == 600.25


def test_knee(tmp_path: Path) -> None:
    """An HSM that is far away has its knee at many sessions: its rate is the one with so many."""

    def turn(sessions: int, depth: str, signed: int) -> dict[str, Any]:
        point = {"latency_ms": 0, "members": 1, "sessions": sessions}
        return {"point": point, "kind": "p256", "depth": depth, "rate": 0, "seconds": 2, "taken": {"signed": signed}}

    turns = [turn(8, "raw", 800), turn(64, "raw", 6000), turn(64, "raw", 6400), turn(64, "signer", 5000)]
    figures = {"p256.raw_per_s": 400, "p256.knee_sessions": 64}
    found = from_sign(_result(tmp_path, "sign", figures, turns), "p256")
    assert (found.per_s, found.sessions) == (3100, 64)


def test_mint(tmp_path: Path) -> None:
    """One signer has one core: half a millisecond for each mint makes 2,000 per second."""
    assert signer_limit(_result(tmp_path, "mint", {"signer_cpu_ms": 0.5})) == 2000


def test_missing_figure(tmp_path: Path) -> None:
    """The figure that is missing is named, with those that are there and how to get it."""
    path = _result(tmp_path, "sign", _FIGURES)
    with pytest.raises(MisconfiguredError, match=r"no figure p384\.raw_per_s .*p256\.raw_per_s.*measure it: hsmitm"):
        from_sign(path, "p384")
    with pytest.raises(MisconfiguredError, match=r"no figure p256\.knee_sessions .*several --sessions"):
        from_sign(path, "p256")
    with pytest.raises(MisconfiguredError, match="no figure signer_cpu_ms"):
        signer_limit(_result(tmp_path, "mint", {}))
    with pytest.raises(MisconfiguredError, match="measure for longer"):
        signer_limit(_result(tmp_path, "mint", {"signer_cpu_ms": 0}))


def test_other_file(tmp_path: Path) -> None:
    """A result of something else, and what is none, are refused with the command that makes the right one."""
    with pytest.raises(MisconfiguredError, match="a result of 'hsmitm bench mint'; one of 'hsmitm bench sign' is"):
        from_sign(_result(tmp_path, "mint", {}), "p256")
    path = tmp_path / "text"
    path.write_text("hello")
    with pytest.raises(MisconfiguredError, match=r"no result of a measurement .* make one with: hsmitm bench sign"):
        from_sign(path, "p256")
    with pytest.raises(MisconfiguredError, match="No such file"):
        from_sign(tmp_path / "nowhere", "p256")
