"""`hsmitm upstream ...`: what an operator asks of servers on the other side of the proxy."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from hsm import names
from hsm.errors import MisconfiguredError, TryLaterError
from proxy.commands.options import CONFIG, ConfigOption, JsonOption, print_json

app = typer.Typer(help="Servers: what is wrong with their certificates.", no_args_is_help=True)

_DAYS = 90
_HTTPS = 443


@app.callback()
def _several() -> None:
    """With a callback typer keeps the command's name, of which there is one so far."""


@app.command()
def pin(
    server: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="The server, as clients ask for it.")],
    reason: Annotated[str, typer.Option(help="Why it is accepted: for the table.")] = "",
    days: Annotated[int, typer.Option(help="For how many days.", min=1, max=3650)] = _DAYS,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show what is wrong with a server's certificate, and the table that accepts its key all the same.

    What is printed can be appended to hsmitm.toml as it is, once somebody has said why in `reason`.
    """
    from addons.upstream.judge import spki_sha256  # noqa: PLC0415  # commands load what they need: --help is instant
    from addons.upstream.repeated import Roots  # noqa: PLC0415
    from addons.upstream.visit import visit  # noqa: PLC0415
    from proxy.config.worker import load  # noqa: PLC0415

    host, port = _place(server)
    settings = load(config)
    roots = Roots(file=str(settings.upstream_ca) if settings.upstream_ca else None)
    seen = visit(host, port, roots)
    leaf = seen.chain[0]
    expires = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=days)
    key = spki_sha256(leaf)
    if not key:
        raise TryLaterError(f"{host}:{port} shows a certificate whose key cannot be read")
    if as_json:
        print_json(
            {
                "host": host, "port": port, "address": seen.address, "tls": seen.version,
                "subject": leaf.subject.rfc4514_string(), "issuer": leaf.issuer.rfc4514_string(),
                "not_before": f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
                "not_after": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
                "wrong": list(seen.wrong), "spki_sha256": key, "expires": expires.isoformat(),
            }
        )  # fmt: skip
        return
    typer.echo(f"# {host}:{port} ({seen.address}) speaks {seen.version} and shows a certificate")
    typer.echo(f"#   for   {_line(leaf.subject.rfc4514_string())}")
    typer.echo(f"#   by    {_line(leaf.issuer.rfc4514_string())}")
    typer.echo(f"#   from  {leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}")
    if not seen.wrong:
        typer.echo("# Nothing is wrong with it: there is nothing to accept.")
        return
    for one in seen.wrong:
        typer.echo(f"# Wrong: {one}.")
    typer.echo("# Ask whoever runs that server whether this is its key; then nobody else's is accepted in its place.")
    typer.echo("[[upstream.accept]]")
    typer.echo(f'host = "{host}"')
    typer.echo(f'spki_sha256 = "{key}"')
    typer.echo(f"reason = {_quoted(reason)}" + ("" if reason else "  # say why, and where that was decided"))
    typer.echo(f"expires = {expires.isoformat()}")


def _place(server: str) -> tuple[str, int]:
    """Host, as A-labels or an address, and port. Raises MisconfiguredError."""
    host, colon, port = server.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = server, str(_HTTPS)
    try:
        if not 0 < int(port) < 65536:
            raise ValueError(f"{port} is no port")
        return names.to_ascii(host.removeprefix("[").removesuffix("]")), int(port)
    except ValueError as error:
        raise MisconfiguredError(f"{server}: write a host, or a host and a port: nas.example:8443 ({error})") from error


def _line(text: str) -> str:
    """What a server says, on one line and for terminals: it must not write into somebody's configuration."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    return '"' + "".join(_ESCAPED.get(one, one if one.isprintable() else f"\\u{ord(one):04X}") for one in text) + '"'


_ESCAPED = {'"': '\\"', "\\": "\\\\"}
