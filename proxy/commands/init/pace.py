"""What the partition takes to sign, and the settings that fit that: a slow HSM's are written into hsmitm.toml."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsm.errors import HsmitmError, RefusedError
from hsm.member.process import MemberProcess
from hsm.schemes import Scheme, certificate_schemes
from hsm.wire.member import Sign
from hsm.wire.worker import Authority
from proxy.commands.init.login import TIMEOUT_S
from proxy.commands.init.wanted import Say
from proxy.commands.pace import Fitting, Measured, fitting, measure


async def fit(process: MemberProcess, certificates: Mapping[Authority, Path], say: Say) -> Fitting:
    """The settings that fit what an open partition takes, by the slower of the CAs' keys; said where they are not the
    defaults. Where it cannot be measured, `check` will say why."""
    found: list[Measured] = []
    for name, certificate in certificates.items():
        try:
            found.append(await _measured(process, name, certificate))
        except HsmitmError:
            continue
    slowest = max(found, key=lambda one: one.alone_s, default=None)
    fitted = fitting(slowest) if slowest else Fitting()
    if slowest and fitted != Fitting():
        say(f"{slowest}; {fitted} are set for that")
    return fitted


async def _measured(process: MemberProcess, name: str, certificate: Path) -> Measured:
    public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    assert isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    refused: RefusedError | None = None
    for scheme in certificate_schemes(public):
        try:
            return await measure(functools.partial(_sign, process, name, scheme))
        except RefusedError as error:
            refused = error
    assert refused is not None
    raise refused


async def _sign(process: MemberProcess, name: str, scheme: Scheme) -> None:
    message = b"hsmitm init measures how long this takes"
    request = Sign(name, scheme.name, scheme.digest(message), message)
    await process.call(request, time.monotonic() + TIMEOUT_S)
