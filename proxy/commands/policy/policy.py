"""`hsmitm policy ...`: the commands and their options."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from hsm.errors import MisconfiguredError
from proxy.commands.options import CONFIG, ConfigOption, JsonOption, print_json

app = typer.Typer(help="The decryption policy: what it does, did, and would do.", no_args_is_help=True)


@app.command("test")
def asked(
    *,
    host: Annotated[str, typer.Option(help="Whom the client asks for: a name or an address.")],
    client: Annotated[str, typer.Option("--from", help="The client's address.")] = "",
    user: Annotated[str, typer.Option(help="Who the client is.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="A group that the user is in; may be repeated.")] = None,
    port: Annotated[int, typer.Option(help="The port that is asked for.", min=1, max=65535)] = 443,
    sni: Annotated[
        str | None, typer.Option(help='What the ClientHello names; by default the host. --sni "" is no name.')
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="When, as 2027-03-02T12:00 (here) or 2027-03-02T12:00Z. By default now.")
    ] = None,
    listener: Annotated[str, typer.Option(help="Where the client comes in; by default the forward proxy.")] = "",
    ja4: Annotated[str, typer.Option(help="The ClientHello's JA4 fingerprint.")] = "",
    alpn: Annotated[list[str] | None, typer.Option(help="A protocol that it offers; may be repeated.")] = None,
    address: Annotated[
        list[str] | None, typer.Option(help="An address of the host, instead of a look-up; may be repeated.")
    ] = None,
    proved: Annotated[
        bool | None, typer.Option("--proved/--not-proved", help="Whether an SNI is proved that is not the host.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain HTTP.")] = False,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say what becomes of a connection, and of each rule before the one that matched why it did not."""
    from proxy.commands.policy import answer  # noqa: PLC0415  # commands load what they need: --help is instant
    from proxy.commands.policy.question import Question, facts_of  # noqa: PLC0415
    from proxy.config.worker import load  # noqa: PLC0415

    loaded = load(config)
    question = Question(
        host=host,
        port=port,
        at=_time(at),
        client=client,
        user=user,
        groups=tuple(group or ()),
        sni=sni,
        listener=listener,
        ja4=ja4,
        alpn=tuple(alpn or ()),
        addresses=tuple(address or ()),
        plain=plain,
        proved=proved,
    )
    found = answer.answer(facts_of(question, loaded), loaded)
    _say(found, answer.lines(found), as_json=as_json)


@app.command()
def show(config: ConfigOption = CONFIG, as_json: JsonOption = False) -> None:
    """Show the rules as they are understood, and each profile with every value."""
    from proxy.commands.policy import shown  # noqa: PLC0415
    from proxy.config.worker import load  # noqa: PLC0415

    found = shown.shown(load(config).policy, dt.datetime.now(dt.UTC))
    _say(found, shown.lines(found), as_json=as_json)


@app.command()
def replay(
    log: Annotated[
        list[Path] | None,
        typer.Option(
            help="A decryption log, or - for standard input; may be repeated. By default the one of --config."
        ),
    ] = None,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show the connections of the past that would be decided otherwise by the policy of --config, such as a draft."""
    from proxy.commands.policy import replay as replaying  # noqa: PLC0415
    from proxy.config.worker import load  # noqa: PLC0415

    loaded = load(config)
    kept = loaded.decryption_log.path(loaded.base)
    if not log and kept is None:
        raise MisconfiguredError(f"--log: {config} has no [decryption_log] file; say which log")
    found = replaying.replay(log or filter(None, [kept]), loaded.policy)
    _say(found, replaying.lines(found), as_json=as_json)


@app.command()
def hits(config: ConfigOption = CONFIG, as_json: JsonOption = False) -> None:
    """Show how often each rule has decided since hsmitm was started, and when last; unused rules first."""
    from proxy.commands.policy import hits as hitting  # noqa: PLC0415
    from proxy.config.worker import load  # noqa: PLC0415

    found = hitting.hits(load(config))
    _say(found, hitting.lines(found), as_json=as_json)


def _time(text: str | None) -> dt.datetime:
    """A time with a zone: this machine's, where none is written. Raises MisconfiguredError."""
    if text is None:
        return dt.datetime.now(dt.UTC)
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise MisconfiguredError(
            f"--at: '{text}' is no time; write 2027-03-02T12:00, with Z or +01:00 behind"
        ) from None
    return found if found.tzinfo is not None else found.astimezone()


def _say(report: object, lines: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        for line in lines:  # what a client said is shown, and does nothing to the terminal
            typer.echo("".join(one if one.isprintable() else "?" for one in line))
