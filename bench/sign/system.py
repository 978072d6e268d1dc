"""The depth `signer`'s system: a signer on members and inbound keys of the measurement."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomlkit
from cryptography.hazmat.primitives.serialization import Encoding

from bench.sign.signer import SignerProcess
from bench.sign.target import Target, TargetKey
from hsm.member.settings import MemberSettings
from proxy.demo.origin import OriginCA


class SigningSystem(SignerProcess):
    """A signer on the members of `target`, each with so many sessions, and a site for each of its keys."""

    def __init__(self, directory: Path, target: Target, sessions: int) -> None:
        """`directory` is made."""
        super().__init__(directory, target.pins)
        self._target = target
        directory.mkdir(mode=0o700)
        self.toml.write_text(tomlkit.dumps(self._configuration(sessions)))

    def _configuration(self, sessions: int) -> dict[str, Any]:
        return {
            "hsm": {
                "high_availability": len(self._target.members) > 1,
                # An HSM that is slow is measured, not given up.
                "attempt_timeout_ms": 10_000,
                "request_budget_ms": 30_000,
                "members": [_member(one, sessions) for one in self._target.members],
            },
            "inbound": [{"listen": "127.0.0.1:0", "sites": list(self._sites(set(self._target.keys.values())))}],
            "status": {"listen": ""},
            "log": {"level": "warning"},
        }

    def _sites(self, keys: Iterable[TargetKey]) -> Iterable[dict[str, Any]]:
        ca = OriginCA()
        for number, key in enumerate(keys):
            name, certificate = f"site-{number}.bench.test", self.directory / f"site-{number}.pem"
            certificate.write_bytes(ca.certify(key.public, [name]).public_bytes(Encoding.PEM))
            yield {
                "names": [name],
                "certificate": certificate.name,
                "key": str(key.uri),
                "upstream": "http://127.0.0.1",
            }


def _member(settings: MemberSettings, sessions: int) -> dict[str, Any]:
    selector = settings.selector
    named = {"token": selector.label, "serial": selector.serial, "slot": selector.slot}
    return {
        "name": settings.name,
        "module": settings.module,
        "pin": {"prompt": True},
        "sessions": sessions,
        "environment": settings.environment,
        "start_timeout_s": settings.start_timeout_s,
    } | {name: value for name, value in named.items() if value is not None}
