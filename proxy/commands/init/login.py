"""How `init` logs in: as the member will, with a PIN that had the same checks, noted in the same place.

Where the operator gives no PIN the token is looked at first: one that needs no login gets none, and one with a PIN pad
of its own can have the PIN typed there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from msgspec import structs

from hsm.errors import HsmitmError, MisconfiguredError
from hsm.member.login import Login
from hsm.member.process import MemberProcess
from hsm.member.settings import MemberSettings
from hsm.secrets import pin
from hsm.secrets.refusals import Refusals
from hsm.secrets.settings import PinSource
from hsm.uri import KeyURI
from hsm.wire.member import Open, Opened, Partition, Selector
from proxy.commands.init.files import toml
from proxy.commands.init.wanted import Say, Wanted
from proxy.config.operation import RunSection

TIMEOUT_S = 120.0
"""For each call; some HSMs take a minute to make an RSA key."""


async def source_of(
    wanted: Wanted, module: str, selector: Selector, environment: dict[str, str], say: Say
) -> tuple[PinSource, str]:
    """Where the PIN of a partition comes from, and the PIN. Raises MisconfiguredError, and what looking raises."""
    if wanted.pin_file is not None:
        source = PinSource(file=str(wanted.pin_file.absolute()))
        return source, await pin.read(source, Path())
    if wanted.empty_pin:
        return PinSource(empty=True), ""
    nobody = MisconfiguredError("give the partition's PIN with --pin-file FILE (mode 0600), or run on a terminal")
    try:
        found = await _looked_at(module, selector, environment)
    except HsmitmError as error:
        if sys.stdin.isatty():
            raise
        raise nobody from error
    if "LOGIN_REQUIRED" not in found.flags:
        say(f"partition {found} needs no login")
        return PinSource(none=True), ""
    if not sys.stdin.isatty():
        raise nobody
    pad = "PROTECTED_AUTHENTICATION_PATH" in found.flags
    typed = pin.ask(f"PIN of partition {found}{' (empty: it is typed at the PIN pad of the HSM)' if pad else ''}: ")
    if pad and not typed:
        say("type the PIN at the HSM's own PIN pad")
        return PinSource(pad=True), ""
    return PinSource(prompt=True), await pin.read(PinSource(prompt=True), Path(), typed)


async def _looked_at(module: str, selector: Selector, environment: dict[str, str]) -> Partition:
    process = await MemberProcess.spawn(environment)
    try:
        looked = await process.call(Open(module, selector, None, 0, {}), time.monotonic() + TIMEOUT_S)
        assert isinstance(looked, Opened)
        return looked.partition
    finally:
        await process.end()


def pin_toml(source: PinSource) -> str:
    """A PIN's source as hsmitm.toml has it."""
    ((field, value),) = ((name, one) for name, one in structs.asdict(source).items() if one)
    return f"{{ {field} = {toml(value)} }}"


@asynccontextmanager
async def logged_in(
    settings: MemberSettings, secret: str, directory: Path, uris: dict[str, KeyURI], spkis: dict[str, bytes]
) -> AsyncIterator[tuple[MemberProcess, Opened]]:
    """A process that is logged in with sessions that may write, and what it found of the keys: of those with a public
    half in `spkis` (DER) the right one.

    What is remembered of a PIN stays in `directory`, where the signer will look for it; nothing else does.
    """
    state = directory / RunSection().state
    made, refusals = not state.exists(), Refusals(state)
    refusals.prepare()
    login = Login(
        member=settings.name, source=settings.pin, secret=secret, place=settings.place, refusals=refusals
    )  # fmt: skip
    opening = Open(
        settings.module, settings.selector, None, settings.sessions, uris, writable=True, user_type=settings.user_type,
        spkis=spkis, anywhere=[],
    )  # fmt: skip
    try:
        await login.check()
        process = await MemberProcess.spawn(settings.environment)
        try:
            opened = await login.opened(process, opening, quick_s=TIMEOUT_S, longest_s=TIMEOUT_S)
            yield process, opened
        finally:
            await process.end()
    finally:
        with suppress(OSError):  # there is something in it to remember
            if made:
                state.rmdir()
