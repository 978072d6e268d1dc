"""`hsmitm hsm ...` and `hsmitm reload`: what an operator asks of the members and does with them while hsmitm runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from hsm.errors import TryLaterError
from hsm.member.settings import MemberSettings
from hsm.wire.admin import CODEC, Info, InfoReport, Reload, Reply, Reset, Status, StatusReport, Told
from proxy.commands.options import (
    CONFIG,
    STATUS_TIMEOUT_S,
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    ask,
    print_json,
    variables,
)
from proxy.config.section import default

app = typer.Typer(help="The members: status, what their HSMs report, reset, add, remove.", no_args_is_help=True)

_SESSIONS: int = default(MemberSettings, "sessions")
_PATIENCE_S = 180.0
"""A member may take its start timeout to come up, and each is reset in turn."""
_INFO_TIMEOUT_S = 60.0


@app.command()
def status(config: ConfigOption = CONFIG, as_json: JsonOption = False) -> None:
    """Show the group and each member: serial number, partition, state, last error, next attempt."""
    from proxy.commands import tables  # noqa: PLC0415  # commands load what they need: --help is instant

    report = ask(config, Status(), STATUS_TIMEOUT_S)
    assert isinstance(report, StatusReport)
    if as_json:
        print_json({"group": report.group, "members": report.members})
    else:
        tables.show_members(report)


@app.command()
def info(config: ConfigOption = CONFIG, as_json: JsonOption = False) -> None:
    """Show what each member's HSM reports: slots, firmware, memory, session counts, mechanisms."""
    from proxy.commands import tables  # noqa: PLC0415

    report = ask(config, Info(), _INFO_TIMEOUT_S)
    assert isinstance(report, InfoReport)
    if as_json:
        print_json(report)
    else:
        tables.show_info(report)


@app.command()
def reset(
    member: Annotated[str | None, typer.Argument(help="A member's name; without it each member in turn.")] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Build new sessions beside the old ones, move, drain; start a member that is down or quarantined.

    No signature fails: the old sessions serve until the new ones have proved their keys.
    """
    _say(ask(config, Reset(member), _PATIENCE_S))


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The new member's name.")],
    pin_file: Annotated[str, typer.Option(help="A file of mode 0600 with the partition's PIN.")],
    token: Annotated[str | None, typer.Option(help="The partition's label; or give --serial or --slot.")] = None,
    serial: Annotated[str | None, typer.Option(help="The partition's serial number.")] = None,
    slot: Annotated[int | None, typer.Option(help="The partition's slot.")] = None,
    module: Annotated[str | None, typer.Option(help="The vendor's library. Without it: the last member's.")] = None,
    sessions: Annotated[int, typer.Option(help="How many sessions.")] = _SESSIONS,
    env: EnvironmentOption = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Add a member to hsmitm.toml, and to the running signer without a restart."""
    from proxy.config import edit  # noqa: PLC0415
    from proxy.config.file import load  # noqa: PLC0415

    member = {
        "name": name,
        "module": module or load(config).file.hsm.members[-1].module,
        "token": token,
        "serial": serial,
        "slot": slot,
        "pin": {"file": pin_file},
        "sessions": sessions,
        "environment": variables(env or []) or None,
    }
    given = {field: value for field, value in member.items() if value is not None}
    _edit(config, edit.with_member(edit.read(config), given))


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The member's name.")],
    config: ConfigOption = CONFIG,
) -> None:
    """Take a member out of hsmitm.toml, and out of the running signer: its requests in flight end first."""
    from proxy.config import edit  # noqa: PLC0415

    _edit(config, edit.without_member(edit.read(config), name))


def _edit(config: Path, text: str) -> None:
    """Write the configuration if it is right, and have the signer take it over."""
    from proxy.config import edit  # noqa: PLC0415
    from proxy.config.file import parse  # noqa: PLC0415

    parse(text.encode(), config.absolute())
    edit.write(config, text)
    typer.echo(f"{config} is written")
    take_over(config)


def take_over(config: Path) -> None:
    """Have the running signer read the configuration again, and print what it did."""
    try:
        _say(ask(config, Reload(), _PATIENCE_S))
    except TryLaterError as error:
        typer.echo(f"it takes effect at the next start: {error}")


def reload(config: ConfigOption = CONFIG) -> None:
    """Read hsmitm.toml again: members, times, our own sites and the policy change without dropping a connection."""
    from hsm.wire import client  # noqa: PLC0415
    from hsm.wire.run_directory import ADMIN_SOCKET  # noqa: PLC0415
    from proxy.config import status as places  # noqa: PLC0415

    # Not the whole file: what is wrong in it is the signer's to say, who remembers that a reload has failed.
    signer = places.run_directory(config).socket(ADMIN_SOCKET)
    try:
        _say(asyncio.run(client.ask(signer, CODEC, Reload(), _PATIENCE_S)))
    except TryLaterError:
        from proxy.config.file import load  # noqa: PLC0415

        load(config)  # nobody is there: a file that is wrong is the better news
        raise


def _say(told: Reply) -> None:
    """Print what was done. Where a part of it failed, the command ends as one that failed."""
    assert isinstance(told, Told)
    for line in told.lines:
        typer.echo(line)
    if told.failed:
        raise typer.Exit(os.EX_CONFIG if told.failed == "lasting" else os.EX_UNAVAILABLE)
