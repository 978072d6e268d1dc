"""With 1,000 rules each connection, in every mode, lands on the rule that `hsmitm policy test` names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy.landing import differing

VISITS = 60


@pytest.mark.parametrize("mode", ["regular", "socks5", "upstream"])
def test_each_connection_lands_where_it_was_said(softhsm_module: str, tmp_path: Path, mode: str) -> None:
    """By name and by address, with the right SNI, another or none, with TLS and without, from eight clients."""
    assert differing(mode, tmp_path, VISITS) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_each_redirected_connection_lands_where_it_was_said(softhsm_module: str, tmp_path: Path) -> None:
    """Likewise where the network redirects clients that know of no proxy."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.policy.landing", "transparent", str(tmp_path), str(VISITS)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
