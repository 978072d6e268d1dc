"""Where the keys go: a partition that the operator names, or a new one of SoftHSM's."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from msgspec import Struct

from hsm.errors import MisconfiguredError
from hsm.member.process import MemberProcess
from hsm.member.settings import MemberSettings
from hsm.secrets.settings import PinSource
from hsm.vendor_variables import read_by_vendors
from hsm.wire.member import Initialise, Selector
from proxy.commands.init.files import write
from proxy.commands.init.login import TIMEOUT_S, source_of
from proxy.commands.init.wanted import Say, Wanted
from proxy.commands.options import variables
from proxy.config.hsm import UserType, user_type_number

_SOFTHSM = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/*/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


class Place(Struct, frozen=True, kw_only=True):
    """Where the keys go: a partition that exists now."""

    module: str
    selector: Selector
    environment: dict[str, str]
    pin: str
    pin_source: PinSource
    member: str
    user_type: UserType = "user"

    @property
    def settings(self) -> MemberSettings:
        """The member that will use it, as hsmitm.toml will say."""
        return MemberSettings(
            name=self.member,
            module=self.module,
            selector=self.selector,
            pin=self.pin_source,
            environment=self.environment,
            user_type=user_type_number(self.user_type),
        )


async def given(wanted: Wanted, say: Say) -> Place:
    """A partition that exists, on a module that the operator named."""
    assert wanted.module is not None
    environment = read_by_vendors(os.environ) | variables(wanted.environment)
    module = str(Path(wanted.module).absolute()) if "/" in wanted.module else wanted.module
    source, secret = await source_of(wanted, module, wanted.selector, environment, say)
    return Place(
        module=module,
        selector=wanted.selector,
        environment=environment,
        pin=secret,
        pin_source=source,
        member="hsm1",
        user_type=wanted.user_type,
    )


async def new_softhsm(wanted: Wanted, directory: Path, say: Say) -> Place:
    """A SoftHSM token store under `directory`, with one token and random PINs in files of mode 0600."""
    module = next((str(path) for pattern in _SOFTHSM for path in Path("/").glob(pattern[1:])), None)
    if module is None:
        raise MisconfiguredError(
            "SoftHSM is not installed: run 'apt-get install softhsm2', or name your HSM's library with --module"
        )
    store, configuration, pin_path = directory / "softhsm", directory / "softhsm2.conf", directory / "pin"
    for path in (store, configuration, pin_path):
        if path.exists():
            raise MisconfiguredError(
                f"{path} exists without a hsmitm.toml; it is not overwritten. Choose another --dir"
            )
    user, officer = secrets.token_hex(12), secrets.token_hex(12)
    if wanted.so_pin_file is not None:
        write(wanted.so_pin_file.absolute(), f"{officer}\n", 0o600)
    store.mkdir(mode=0o700)
    write(configuration, f"directories.tokendir = {store}\nobjectstore.backend = file\nlog.level = ERROR\n", 0o644)
    write(pin_path, f"{user}\n", 0o600)
    environment = {"SOFTHSM2_CONF": str(configuration)}
    process = await MemberProcess.spawn(environment)
    try:
        await process.call(Initialise(module, "hsmitm", officer, user), time.monotonic() + TIMEOUT_S)
    finally:
        await process.end()
    say(f"made a SoftHSM partition 'hsmitm' in {store}; its PIN is in {pin_path} (mode 0600)")
    say(_of_officer(wanted, officer))
    return Place(
        module=module,
        selector=Selector("hsmitm"),
        environment=environment,
        pin=user,
        pin_source=PinSource(file="pin"),
        member="softhsm1",
    )


def _of_officer(wanted: Wanted, officer: str) -> str:
    """Where the security officer's PIN is now. hsmitm never needs it, and whoever has it can replace the user's PIN."""
    if wanted.so_pin_file is not None:
        return (
            f"the security officer's PIN is in {wanted.so_pin_file}; hsmitm never needs it: keep it elsewhere, offline"
        )
    if wanted.on_terminal:
        return f"the security officer's PIN is {officer}; it is kept nowhere and hsmitm never needs it: write it down"
    return "the security officer's PIN is kept nowhere: hsmitm never needs it (--so-pin-file FILE keeps it)"
