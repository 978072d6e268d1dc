"""The demo's policy: one site inspected, one bypassed, one blocked, one lie refused, and what the log says of each."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from msgspec import MsgspecError
from rich.console import Console

from addons.records import record
from addons.records.record import Record
from hsm.errors import MisconfiguredError
from proxy.config import edit
from proxy.config.file import Config
from proxy.demo.origin import Origin
from proxy.demo.visit import connect, visit

SHOP, BANK, GAMES, EVIL = "shop.demo.test", "bank.demo.test", "games.demo.test", "evil.demo.test"
_LOG = "decryption.jsonl"
_MARK = "# ---- the demo's policy"
_RULES = f"""
{_MARK} {"-" * 94}

[[policy.rules]]
name = "bank"
to = {{ domains = ["{BANK}"] }}
action = "bypass"

[[policy.rules]]
name = "games"
to = {{ domains = ["{GAMES}"] }}
action = "block"
"""
_LOGGED_S = 5.0


def add_to(path: Path) -> None:
    """Give the demo's configuration its policy, its log and whom to ask, where it has none of them yet."""
    text = edit.read(path)
    if _MARK in text:
        return
    text = text.replace('\ncontact = ""\n', '\ncontact = "the demo\'s help desk"\n', 1)
    if "\n[decryption_log]\n" not in text:  # made by a version that had none
        text += f'\n[decryption_log]\nfile = "{_LOG}"\n'
    edit.write(path, text + _RULES)


async def prove(config: Config, origin: Origin, ours: Path, theirs: Path, console: Console) -> list[tuple[bool, str]]:
    """Four clients, and each claim with whether it held. `ours` is the CA that the proxy signs with, `theirs` the one
    of the servers."""
    log = config.file.decryption_log.path(config.base)
    if log is None:
        raise MisconfiguredError("the demo's hsmitm.toml has no [decryption_log] file; choose another --dir")
    begin = log.stat().st_size if log.exists() else 0
    console.rule("[bold]the policy decides", align="left")
    shop = await visit(config, f"https://{SHOP}:{origin.port}/", trusting=ours)
    console.print(f"{SHOP}: inspected\n    certificate signed by {shop.issuer}")
    bank = await visit(config, f"https://{BANK}:{origin.port}/", trusting=theirs)
    console.print(f"{BANK}: passed on unread\n    certificate signed by {bank.issuer}, the server's own")
    games = await connect(config, GAMES, origin.port)
    console.print(f"{GAMES}: {games.status}, and a page")
    console.print("".join(f"    {line}".rstrip() + "\n" for line in games.page.splitlines()), end="")
    lie = f"{BANK}:{origin.port}:{EVIL}:{origin.port}"
    forged = await visit(config, f"https://{BANK}:{origin.port}/", "--connect-to", lie, trusting=theirs)
    console.print(f"{EVIL}, under the name {BANK}: refused\n    {forged.text[:70]}")
    records = await _logged(log, begin, 4)
    console.print("\nThe decryption log has")
    for one in records:
        console.print(_line(one))
    return [
        (shop.status == "200" and "hsmitm" in shop.issuer, f"{SHOP} was inspected"),
        (bank.status == "200" and "origin" in bank.issuer, f"{BANK} was not: the client saw the server's certificate"),
        (
            games.status == "403" and games.id in {one.event.id for one in records} and games.id in games.page,
            f"{GAMES} was blocked, with a page whose id is in the log",
        ),
        ("hello" not in forged.text and forged.status == "000", f"a client that lied about {BANK} got nothing"),
        (
            [(one.event.action, one.hsmitm.rule) for one in records]
            == [("decrypted", "default"), ("bypassed", "bank"), ("blocked", "games"), ("blocked", "default")],
            "the log has a record of each of the four, with the rule that decided",
        ),
    ]


def _line(one: Record) -> str:
    why = f", {one.hsmitm.error.class_}" if one.hsmitm.error else ""
    return f"    {one.event.action:<10}{one.destination.address:<18}rule {one.hsmitm.rule}{why}"


async def _logged(log: Path, begin: int, number: int) -> list[Record]:
    """So many new records, as clients began: a record is written when its connection ends."""
    until = time.monotonic() + _LOGGED_S
    found: list[Record] = []
    while len(found) < number and time.monotonic() < until:
        await asyncio.sleep(0.05)  # another process's doing
        found = _new(log, begin)
    return sorted(found, key=lambda one: one.event.start)


def _new(log: Path, begin: int) -> list[Record]:
    if not log.exists():
        return []
    found = []
    for line in log.read_bytes()[begin:].splitlines():
        try:
            found.append(record.read(line))
        except MsgspecError:  # it is being written
            continue
    return found
