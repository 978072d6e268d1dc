"""One vendor's module with a token of its own, and everything that it needs running: private sockets and directories.

A `Vendor` is made ready by `prepare`, which starts its daemons and makes its token, and ended by `end`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key

from hsm.member.process import MemberProcess
from hsm.uri import KeyURI
from hsm.wire.member import Generate, KeyType, Open, Opened, Selector
from tests.modules.daemon import Daemon
from tests.softhsm import in_s

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


def run(*command: str | Path, environment: Mapping[str, str] | None = None, text: str = "") -> str:
    """A program to its end, which must be a good one: what it says."""
    done = subprocess.run(
        [str(one) for one in command], env=os.environ | dict(environment or {}), input=text, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def library(*patterns: str, package: str) -> str:
    """The path of a library that a package has installed."""
    found = next((str(path) for pattern in patterns for path in sorted(Path("/").glob(pattern))), "")
    assert found, f"{package} is not installed: run ./dev test modules"
    return found


class Vendor(ABC):
    """A module, a token, a PIN, and the daemons behind it."""

    name: str
    ec = True
    """Whether it makes and uses EC keys."""
    token = "hsm"
    pin = "pin4711"
    """At most eight characters: openCryptoki takes no more."""

    def __init__(self, directory: Path) -> None:
        """Nothing runs yet. `directory` is made, and must have a short path: sockets are in it."""
        self.directory = directory
        self.daemons: list[Daemon] = []
        directory.mkdir(parents=True)
        self.pin_file = directory / "pin"
        self.pin_file.write_text(f"{self.pin}\n")
        self.pin_file.chmod(0o600)

    @property
    @abstractmethod
    def module(self) -> str:
        """The path of its library."""

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What its library reads."""

    @abstractmethod
    def prepare(self) -> None:
        """Start what must run, and make the token."""

    def end(self) -> None:
        """End what was started, the last first."""
        for daemon in reversed(self.daemons):
            daemon.end()

    def kill(self) -> None:
        """Kill what answers the module; nothing where the module does all itself."""
        for daemon in reversed(self.daemons):
            daemon.kill()

    def revive(self) -> None:
        """Start again what `kill` killed."""
        for daemon in self.daemons:
            daemon.start()

    def member(self, name: str, **more: Any) -> dict[str, Any]:
        """A member of the configuration."""
        return {
            "name": name, "module": self.module, "token": self.token, "pin": {"file": str(self.pin_file)},
            "environment": self.environment,
        } | more  # fmt: skip

    def make_key(self, label: str, key_type: KeyType) -> None:
        """A key pair on the token: by hsmitm, as `init` does it."""
        asyncio.run(self._call({}, Generate(label, key_type)))

    def import_rsa(self, private: rsa.RSAPrivateKey, label: str, identifier: bytes) -> None:
        """Both halves of a key from a file."""
        key = self.directory / f"{label}.pem"
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        run(
            sys.executable, "-m", "tests.modules.importing", self.module, self.token, self.pin, key, label,
            identifier.hex(), environment=self.environment,
        )  # fmt: skip

    def public_key(self, label: str) -> PublicKey:
        """Of a key on the token."""
        opened = asyncio.run(self._call({label: KeyURI(object=label)}))
        assert isinstance(opened, Opened)
        found = opened.keys[label]
        assert not found.problem, found.problem
        public = load_der_public_key(found.spki)
        assert isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        return public

    async def _call(self, keys: dict[str, KeyURI], *more: Generate) -> Any:
        process = await MemberProcess.spawn(self.environment)
        try:
            opening = Open(self.module, Selector(self.token), self.pin, 1, keys, writable=bool(more))
            reply: Any = await process.channel.call(opening, in_s(20))
            for request in more:
                reply = await process.channel.call(request, in_s(60))
            return reply
        finally:
            await process.end()
