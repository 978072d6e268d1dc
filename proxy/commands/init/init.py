"""The order of things: options, partition, keys, certificates, and hsmitm.toml at last."""

from __future__ import annotations

from pathlib import Path

from hsm.errors import MisconfiguredError
from proxy.commands.init.files import certificate_name, write
from proxy.commands.init.keys import make_keys
from proxy.commands.init.place import given, new_softhsm
from proxy.commands.init.text import text
from proxy.commands.init.wanted import Confirm, Say, Wanted, check
from proxy.commands.options import CONFIG


async def initialise(wanted: Wanted, say: Say, confirm: Confirm) -> Path:
    """Do it. Returns the path of hsmitm.toml; raises MisconfiguredError with nothing overwritten."""
    directory = wanted.directory.absolute()
    toml = directory / CONFIG
    if toml.exists():
        raise MisconfiguredError(f"{toml} exists; it is not overwritten. Choose another --dir, or edit it")
    check(wanted)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = await given(wanted, say) if wanted.module else await new_softhsm(wanted, directory, say)
    keys, fit = await make_keys(wanted, directory, place, say, confirm)
    write(toml, text(wanted, place, keys, fit), 0o644)
    say(f"wrote {toml}")
    say(f"Clients must trust {directory / certificate_name('trust')}. Next: hsmitm run --config {toml}")
    return toml
