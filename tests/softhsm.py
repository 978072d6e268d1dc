"""Throw-away SoftHSM partitions, made the way the product makes them: by a member process."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from hsm.member.process import MemberProcess
from hsm.member.settings import MemberSettings
from hsm.secrets.settings import PinSource
from hsm.uri import KeyURI
from hsm.wire.member import Generate, Initialise, KeyFound, KeyType, Open, Selector

MODULE = next(
    (
        str(path)
        for pattern in ("usr/lib/softhsm/libsofthsm2.so", "usr/lib/*/softhsm/libsofthsm2.so")
        for path in Path("/").glob(pattern)
    ),
    "",
)
PIN = "pin-for-tests-4711"
SO_PIN = "so-pin-for-tests"


def in_s(seconds: float) -> float:
    """A deadline."""
    return time.monotonic() + seconds


@dataclass
class Store:
    """A SoftHSM token directory of its own with one partition."""

    directory: Path
    label: str = "tests"
    keys: dict[str, KeyFound] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a member process needs to find it."""
        return {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")}

    @property
    def pin_file(self) -> Path:
        """A file with the right PIN."""
        return self.directory / "pin"

    def settings(self, name: str = "m1", sessions: int = 2, pin_file: Path | None = None) -> MemberSettings:
        """A member on this partition."""
        return MemberSettings(
            name=name,
            module=MODULE,
            selector=Selector(label=self.label),
            pin=PinSource(file=str(pin_file or self.pin_file)),
            sessions=sessions,
            environment=self.environment,
        )

    def uris(self) -> dict[str, KeyURI]:
        """The keys that were made, by their label."""
        return {name: KeyURI(object=name) for name in self.keys}

    def opening(self, sessions: int = 2, given_pin: str | None = PIN, **more: object) -> Open:
        """The first call to a member process."""
        return Open(MODULE, Selector(label=self.label), given_pin, sessions, self.uris(), **more)


async def make_store(directory: Path, keys: dict[str, KeyType], label: str = "tests") -> Store:
    """A new partition with `keys` (label to type) on it."""
    store = Store(directory, label)
    (directory / "tokens").mkdir(parents=True)
    (directory / "softhsm2.conf").write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    store.pin_file.write_text(f"{PIN}\n")
    store.pin_file.chmod(0o600)
    process = await MemberProcess.spawn(store.environment)
    try:
        call = process.channel.call
        await call(Initialise(MODULE, label, SO_PIN, PIN), in_s(20))
        if keys:
            await call(store.opening(1, writable=True), in_s(20))
        for name, key_type in keys.items():
            found = await call(Generate(name, key_type), in_s(60))
            assert isinstance(found, KeyFound)
            store.keys[name] = found
    finally:
        await process.end()
    return store
