"""`hsmitm demo --once`, as somebody runs it who wants to see what this is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.integration.harness import HSMITM

_WITHIN_S = 60
"""On a quiet machine; the tests run beside each other."""


def test_the_demo_proves_each_claim(softhsm_module: str, tmp_path: Path) -> None:
    """From nothing: a partition, real requests, a site inspected, one passed on, one blocked with its page, a forged
    name refused, and the log's record of each of the four, in lines of 80 columns where they are the demo's own."""
    del softhsm_module
    done = subprocess.run(
        [*HSMITM, "demo", "--once", "--dir", str(tmp_path / "demo")], capture_output=True, text=True,
        timeout=2 * _WITHIN_S, check=False, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    for claim in (
        "proved shop.demo.test was inspected",
        "proved bank.demo.test was not: the client saw the server's certificate",
        "proved games.demo.test was blocked, with a page whose id is in the log",
        "proved a client that lied about bank.demo.test got nothing",
        "proved the log has a record of each of the four, with the rule that decided",
    ):
        assert claim in done.stdout, done.stdout
    begun = done.stdout.index("the policy decides")
    shown = done.stdout[begun : done.stdout.index("The CA key is on partition")]
    assert max(map(len, shown.splitlines())) <= 80, shown
    assert "hsmitm: games.demo.test is blocked by the policy of this network." in shown
