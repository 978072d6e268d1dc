"""Options that several commands share, and how a report is printed for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration file.")]
CONFIG = Path("hsmitm.toml")
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def print_json(report: object) -> None:
    """Print `report` as JSON, its structs as objects: on the wire some travel as arrays."""
    typer.echo(msgspec.json.format(msgspec.json.encode(_named(report)), indent=2).decode())


def _named(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return {name: _named(one) for name, one in msgspec.structs.asdict(value).items()}
    if isinstance(value, dict):
        return {name: _named(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    return value
