"""The command line: what can be called, with which options. `proxy.commands` and `proxy.processes` do it.

Every error is one sentence on standard error, and an exit status of sysexits.h.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from hsm.errors import HsmitmError, MisconfiguredError
from hsm.wire.admin import Status, StatusReport
from proxy.commands import hsm as hsm_commands
from proxy.commands import upstream as upstream_commands
from proxy.commands.options import (
    CA_DAYS,
    CONFIG,
    KEY_TYPE,
    KEY_TYPES,
    STATUS_TIMEOUT_S,
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    ask,
    print_json,
)
from proxy.commands.policy import policy as policy_commands
from proxy.config.operation import ProxySection, StatusSection

_PROXY, _STATUS = ProxySection(), StatusSection()

app = typer.Typer(
    help="A TLS decryption proxy whose keys live in an HSM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def init(
    directory: Annotated[Path, typer.Option("--dir", help="Where everything goes that is made.")] = Path(),
    module: Annotated[str | None, typer.Option(help="The vendor's PKCS#11 library. Without it: SoftHSM.")] = None,
    token: Annotated[str | None, typer.Option(help="The label of a partition that exists already.")] = None,
    serial: Annotated[str | None, typer.Option(help="Its serial number, instead of --token.")] = None,
    slot: Annotated[int | None, typer.Option(help="Its slot, instead of --token.", min=0)] = None,
    env: EnvironmentOption = None,
    pin_file: Annotated[Path | None, typer.Option(help="A file of mode 0600 with the partition's PIN.")] = None,
    empty_pin: Annotated[bool, typer.Option("--empty-pin", help="The partition's PIN is empty.")] = False,
    user_type: Annotated[
        str, typer.Option(help="Whom the PIN is of: user, crypto-user (Luna), or a vendor's number of it.")
    ] = "user",
    so_pin_file: Annotated[
        Path | None, typer.Option(help="Where the new partition's SO PIN goes; best on another medium.")
    ] = None,
    key_type: Annotated[
        str | None, typer.Option(help=f"{KEY_TYPES}. By default {KEY_TYPE}, or what the partition can make.")
    ] = None,
    trust_key: Annotated[str | None, typer.Option(help="The PKCS#11 URI of a key that is there, for the CA.")] = None,
    untrust_key: Annotated[
        str | None, typer.Option(help="The same for the CA of servers that did not verify; another key.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="The CAs' subject (RFC 4514): 'CN=Example inspection,O=Example'.")
    ] = None,
    days: Annotated[int | None, typer.Option(help=f"How long the CAs are valid. By default {CA_DAYS}.")] = None,
    listen: Annotated[str, typer.Option(help="Where the proxy listens.")] = _PROXY.listen,
    status_listen: Annotated[str, typer.Option(help="Where /metrics is served; empty: nowhere.")] = _STATUS.listen,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before making keys on a partition.")] = False,
) -> None:
    """Write a commented hsmitm.toml and prepare the partition. Never overwrites."""
    from proxy.commands.init.init import initialise  # noqa: PLC0415  # commands load what they need: --help is instant
    from proxy.commands.init.wanted import Wanted, user_type_named  # noqa: PLC0415

    wanted = Wanted(
        directory=directory,
        module=module,
        token=token,
        serial=serial,
        slot=slot,
        environment=tuple(env or ()),
        pin_file=pin_file,
        empty_pin=empty_pin,
        user_type=user_type_named(user_type),
        so_pin_file=so_pin_file,
        on_terminal=sys.stdout.isatty(),
        key_type=key_type,
        trust_key=trust_key,
        untrust_key=untrust_key,
        subject=subject,
        days=days,
        listen=listen,
        status_listen=status_listen,
    )
    asyncio.run(initialise(wanted, print, (lambda _: True) if yes else typer.confirm))


@app.command()
def run(config: ConfigOption = CONFIG) -> None:
    """Start signer, members and workers."""
    from proxy.config.file import load  # noqa: PLC0415
    from proxy.processes import signer as signing  # noqa: PLC0415
    from proxy.processes import supervisor  # noqa: PLC0415

    loaded = load(config)
    supervisor.run(loaded, signing.prompt_pins(loaded), with_signer=True)


@app.command()
def signer(
    config: ConfigOption = CONFIG,
    supervised: Annotated[bool, typer.Option(hidden=True)] = False,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    workers_as: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run the signer alone: the half that holds the PIN."""
    from proxy.config.file import load  # noqa: PLC0415
    from proxy.processes import signer as signing  # noqa: PLC0415

    signing.run(load(config, workers_as), is_child=supervised, ready_fd=ready_fd)


@app.command()
def proxy(config: ConfigOption = CONFIG) -> None:
    """Run the workers alone: the half that meets the network."""
    from proxy.config.file import load  # noqa: PLC0415
    from proxy.processes import supervisor  # noqa: PLC0415

    supervisor.run(load(config), {}, with_signer=False)


@app.command()
def status_page(config: ConfigOption = CONFIG) -> None:
    """Run the status page alone, where `user` of the table status says that it is another user's."""
    from proxy.processes import status_page as serving  # noqa: PLC0415

    serving.alone(config)


@app.command()
def status(
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show members, workers, listeners, certificates and counters."""
    from proxy.commands import tables  # noqa: PLC0415

    report = ask(config, Status(), STATUS_TIMEOUT_S)
    assert isinstance(report, StatusReport)
    if as_json:
        print_json(report)
    else:
        tables.show(report)


app.command()(hsm_commands.reload)
app.add_typer(hsm_commands.app, name="hsm")
app.add_typer(policy_commands.app, name="policy")
app.add_typer(upstream_commands.app, name="upstream")
for _found in entry_points(group="hsmitm.commands"):
    app.add_typer(_found.load(), name=_found.name)


@app.command()
def check(config: ConfigOption = CONFIG) -> None:
    """Try every part of a configuration without serving; say what is right, what is wrong and what to do."""
    from proxy.commands import check as checking  # noqa: PLC0415

    if not asyncio.run(checking.check(config, print)):
        raise typer.Exit(os.EX_CONFIG)


@app.command()
def explain(
    host: Annotated[str, typer.Argument(help="A name, an address, a URL, or the id on a page.", metavar="HOST|ID")],
    client: Annotated[str, typer.Option("--from", help="The client's address.", metavar="ADDRESS")] = "",
    port: Annotated[int | None, typer.Option(help="The server's port.", show_default="443")] = None,
    user: Annotated[str, typer.Option(help="The user's name.")] = "",
    log: Annotated[Path | None, typer.Option(help="Another decryption log than [decryption_log] file.")] = None,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say why a host does, or does not, work: policy, server, last connections, HSM. Nothing is changed."""
    from proxy.commands.explain import explain as explaining  # noqa: PLC0415
    from proxy.commands.explain import screen  # noqa: PLC0415

    report = explaining.explain(config, explaining.asked_about(config, host, port, client, user, log), log)
    if as_json:
        print_json(report)
    else:
        typer.echo("\n".join(screen.lines(report)))


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Where the demo's partition and files go.")] = Path("demo"),
    once: Annotated[bool, typer.Option("--once", help="End after the proof.")] = False,
) -> None:
    """Set up a partition, run the proxy and show the main job on real traffic."""
    from proxy.demo import demo as show  # noqa: PLC0415

    if not asyncio.run(show.demo(directory, once=once)):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of `hsmitm`."""
    try:
        app(standalone_mode=True)
    except HsmitmError as error:
        logging.shutdown()  # what was logged stands above this
        print(f"hsmitm: {error}", file=sys.stderr)
        sys.exit(os.EX_CONFIG if isinstance(error, MisconfiguredError) else os.EX_UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("HSMITM_DEBUG"):
            raise
        print(
            f"hsmitm: internal error, please report it: {type(error).__name__}: {error} "
            "(set HSMITM_DEBUG=1 for the traceback)",
            file=sys.stderr,
        )
        sys.exit(os.EX_SOFTWARE)


if __name__ == "__main__":
    main()
