"""The command line of `init`. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import Struct

from hsm.errors import MisconfiguredError
from hsm.wire.member import KeyType
from proxy.commands.options import KEY_TYPE
from proxy.config.hsm import UserType
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
    empty_pin: bool = False
    user_type: UserType = "user"
    so_pin_file: Path | None = None
    on_terminal: bool = False
    key_type: str = KEY_TYPE
    listen: str
    status_listen: str
    upstream_ca: str | None = None
    scripts: tuple[str, ...] = ()
    allow_destinations: tuple[str, ...] = ()


def user_type_named(text: str) -> UserType:
    """A type of user as the command line names it. Raises MisconfiguredError."""
    try:
        found: UserType = msgspec.convert(int(text, 0) if text[:1].isdigit() else text, UserType)
    except (ValueError, msgspec.ValidationError):
        raise MisconfiguredError(
            f"--user-type {text}: write user, crypto-user, or a vendor's number of it, as 0x80000001"
        ) from None
    return found


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
    if wanted.module is None and (wanted.pin_file or wanted.empty_pin or wanted.user_type != "user"):
        raise MisconfiguredError(
            "--pin-file, --empty-pin and --user-type are for a partition that you name with --module and --token; a "
            "new SoftHSM partition gets a PIN of its own"
        )
    if wanted.pin_file and wanted.empty_pin:
        raise MisconfiguredError("--pin-file and --empty-pin: give one of them")
    if wanted.module is not None and wanted.so_pin_file is not None:
        raise MisconfiguredError("--so-pin-file is for a new SoftHSM partition; the one that you name has its own")
