"""What several commands share: options, how the running signer is asked, how a report is printed for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer

from hsm.errors import MisconfiguredError
from hsm.wire.admin import CODEC, Reply, Request
from hsm.wire.member import KeyType

ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration file.")]
CONFIG = Path("hsmitm.toml")
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
EnvironmentOption = Annotated[
    list[str] | None, typer.Option("--env", help="NAME=VALUE that the vendor's library needs.")
]

KEY_TYPE: KeyType = "rsa-3072"
"""Of a CA key that nobody chose: what every client takes, and good beyond the ten years of its certificate."""
CA_DAYS = 3650
"""That a CA is valid for which nobody chose."""
_KEY_TYPES = get_args(KeyType)
KEY_TYPES = f"{', '.join(_KEY_TYPES[:-1])} or {_KEY_TYPES[-1]}"
"""The key types, for a help text."""

STATUS_TIMEOUT_S = 5.0


def variables(pairs: Iterable[str]) -> dict[str, str]:
    """What several `--env NAME=VALUE` say. Raises MisconfiguredError."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise MisconfiguredError(f"--env {pair}: write NAME=VALUE")
        found[name] = value
    return found


def ask(config: Path, body: Request, timeout_s: float) -> Reply:
    """Ask the signer that runs with the configuration `config`. Raises TryLaterError where it gives no answer."""
    from hsm.wire import client  # noqa: PLC0415  # commands load what they need: --help is instant
    from hsm.wire.run_directory import ADMIN_SOCKET  # noqa: PLC0415
    from proxy.config.file import load  # noqa: PLC0415

    return asyncio.run(client.ask(load(config).run.socket(ADMIN_SOCKET), CODEC, body, timeout_s))


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
