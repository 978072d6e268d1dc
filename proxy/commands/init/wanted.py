"""The command line of `init`: what goes together, and what would have no effect. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from msgspec import Struct

from hsm import uri
from hsm.errors import MisconfiguredError
from hsm.uri import KeyURI
from hsm.wire.member import KEY_TYPES, Selector
from hsm.wire.worker import Authority
from proxy.commands.init.subject import CN_LENGTH, SUFFIX, common_name
from proxy.config.hsm import UserType
from proxy.config.section import Address

Say = Callable[[str], object]
Confirm = Callable[[str], bool]

_AS_IN = "write it as in 'CN=Example inspection,O=Example'"
_MOST_DAYS = 9125
"""25 years: longer than any client should trust one key."""


class Wanted(Struct, frozen=True, kw_only=True):
    """The command line of `init`. `on_terminal` is whether somebody, and no log, reads what is said. What nobody chose
    is None."""

    directory: Path
    module: str | None
    token: str | None
    serial: str | None = None
    slot: int | None = None
    environment: tuple[str, ...] = ()
    pin_file: Path | None = None
    empty_pin: bool = False
    user_type: UserType = "user"
    so_pin_file: Path | None = None
    on_terminal: bool = False
    key_type: str | None = None
    trust_key: str | None = None
    untrust_key: str | None = None
    subject: str | None = None
    days: int | None = None
    listen: str
    status_listen: str
    upstream_ca: str | None = None
    scripts: tuple[str, ...] = ()
    allow_destinations: tuple[str, ...] = ()

    @property
    def selector(self) -> Selector:
        """The partition that is named."""
        return Selector(self.token, self.serial, self.slot)

    def key(self, name: Authority) -> KeyURI | None:
        """The URI that is given for a CA's key."""
        text = self.trust_key if name == "trust" else self.untrust_key
        return None if text is None else uri.parse(text)


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
    if wanted.key_type is not None and wanted.key_type not in KEY_TYPES:
        raise MisconfiguredError(f"--key-type {wanted.key_type}: use one of {', '.join(KEY_TYPES)}")
    for name, text in (("--listen", wanted.listen), ("--status-listen", wanted.status_listen)):
        try:
            if text or name == "--listen":
                Address.parse(text)
        except ValueError as error:
            raise MisconfiguredError(f"{name}: {error}") from None
    _check_partition(wanted)
    _check_keys(wanted)
    if wanted.days is not None and not 1 <= wanted.days <= _MOST_DAYS:
        raise MisconfiguredError(f"--days {wanted.days}: use 1 to {_MOST_DAYS}")
    if wanted.subject is not None:
        _check_subject(wanted.subject)


def _check_partition(wanted: Wanted) -> None:
    named = {"--token": wanted.token, "--serial": wanted.serial, "--slot": wanted.slot}
    given = [option for option, value in named.items() if value is not None]
    if wanted.module is None:
        for option, value in {
            **named, "--pin-file": wanted.pin_file, "--empty-pin": wanted.empty_pin or None,
            "--user-type": wanted.user_type if wanted.user_type != "user" else None,
            "--env": wanted.environment or None,
            "--trust-key": wanted.trust_key, "--untrust-key": wanted.untrust_key,
        }.items():  # fmt: skip
            if value is not None:
                raise MisconfiguredError(
                    f"{option} has no effect without --module: a new SoftHSM partition is made. --module and --token "
                    "(or --serial, --slot) go together: the vendor's library, and the partition"
                )
        return
    if len(given) != 1:
        raise MisconfiguredError(
            "--module and --token go together: the vendor's library, and the partition by its label, or by --serial, "
            "or by --slot; give exactly one of the three"
        )
    if "" in (wanted.token, wanted.serial):
        raise MisconfiguredError(f"{given[0]} is empty; name the partition by --serial or --slot")
    if wanted.pin_file and wanted.empty_pin:
        raise MisconfiguredError("--pin-file and --empty-pin: give one of them")
    if wanted.so_pin_file is not None:
        raise MisconfiguredError("--so-pin-file is for a new SoftHSM partition; the one that you name has its own")


def _check_keys(wanted: Wanted) -> None:
    found = {}
    for option, name in (("--trust-key", "trust"), ("--untrust-key", "untrust")):
        try:
            found[option] = wanted.key(name)  # type: ignore[arg-type]  # one of the two
        except ValueError as error:
            raise MisconfiguredError(f"{option}: {error}") from None
    if found["--trust-key"] and found["--trust-key"] == found["--untrust-key"]:
        raise MisconfiguredError(
            "--trust-key and --untrust-key name one key: clients would trust servers that did not verify"
        )
    if all(found.values()) and wanted.key_type is not None:
        raise MisconfiguredError("--key-type has no effect: both keys exist already, as --trust-key and --untrust-key")


def _check_subject(text: str) -> None:
    try:
        name = x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        why = f" ({error})" if str(error) else ""
        raise MisconfiguredError(
            f"--subject '{text}' is no name{why}; write it as in 'CN=Example inspection,O=Example'"
        ) from None
    if not list(name):
        raise MisconfiguredError("--subject is empty; write it as in 'CN=Example inspection,O=Example'")
    if len(common_name(name) or "") > CN_LENGTH - len(SUFFIX):
        raise MisconfiguredError(
            f"--subject: its CN has more than {CN_LENGTH - len(SUFFIX)} characters; the CA that clients must not trust "
            f"is called so, too, with '{SUFFIX}'"
        )
