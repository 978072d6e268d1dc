"""The command line of `init`. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from msgspec import Struct

from hsm.errors import MisconfiguredError
from hsm.wire.member import KeyType
from proxy.commands.options import KEY_TYPE
from proxy.config.section import Address

Say = Callable[[str], object]
Confirm = Callable[[str], bool]


class Wanted(Struct, frozen=True, kw_only=True):
    """The command line of `init`. `on_terminal` is whether somebody, and no log, reads what is said."""

    directory: Path
    module: str | None
    token: str | None
    environment: tuple[str, ...] = ()
    pin_file: Path | None = None
    so_pin_file: Path | None = None
    on_terminal: bool = False
    key_type: str = KEY_TYPE
    listen: str
    status_listen: str
    upstream_ca: str | None = None
    scripts: tuple[str, ...] = ()
    allow_destinations: tuple[str, ...] = ()


def check(wanted: Wanted) -> None:
    """Raise MisconfiguredError for what cannot be, or would have no effect."""
    if wanted.key_type not in get_args(KeyType):
        raise MisconfiguredError(f"--key-type {wanted.key_type}: use one of {', '.join(get_args(KeyType))}")
    for name, text in (("--listen", wanted.listen), ("--status-listen", wanted.status_listen)):
        try:
            if text or name == "--listen":
                Address.parse(text)
        except ValueError as error:
            raise MisconfiguredError(f"{name}: {error}") from None
    if (wanted.module is None) != (wanted.token is None):
        raise MisconfiguredError("--module and --token go together: the vendor's library, and the partition's label")
    if wanted.module is not None and wanted.so_pin_file is not None:
        raise MisconfiguredError("--so-pin-file is for a new SoftHSM partition; the one that you name has its own")
