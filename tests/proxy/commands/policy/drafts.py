"""Policies in files, and the command line on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from proxy.main import app

BANK = """
[policy.categories]
bank = [".bank.example"]
[[policy.rules]]
name = "bank"
action = "bypass"
profile = "careful"
from = { networks = ["10.1.0.0/16"] }
to = { categories = ["bank"], ports = [443] }
when = { days = "mon-fri", hours = "07:00-19:00", zone = "Europe/Rome" }
[[policy.rules]]
name = "lab"
action = "block"
to = { networks = ["192.0.2.0/24"] }
[profiles.careful]
revoked = "allow"
"""


def written(directory: Path, text: str = BANK) -> Path:
    """A file with this policy."""
    path = directory / "draft.toml"
    path.write_text(text)
    return path


def said(*arguments: str) -> str:
    """What `hsmitm policy` prints."""
    done = CliRunner().invoke(app, ["policy", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def told(*arguments: str) -> Any:
    """What it prints with --json."""
    return json.loads(said(*arguments, "--json"))
