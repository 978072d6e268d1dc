"""Both CA keys and their certificates: what is there is kept, what is missing is made after saying so."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from pathlib import Path
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from hsm.certificates.ca import approve_ca
from hsm.certificates.leaf import SERIAL_BITS
from hsm.errors import MisconfiguredError, RefusedError
from hsm.member.process import MemberProcess
from hsm.schemes import PublicKey, certificate_schemes
from hsm.uri import KeyURI
from hsm.wire.member import Generate, KeyFound, Sign, Signature
from hsm.wire.worker import Authority
from proxy.commands.init.files import certificate_name, key_label, write
from proxy.commands.init.login import TIMEOUT_S, logged_in
from proxy.commands.init.pace import fit
from proxy.commands.init.place import Place
from proxy.commands.init.wanted import Confirm, Say, Wanted
from proxy.commands.pace import Fitting

CA_DAYS = 3650


async def make_keys(wanted: Wanted, directory: Path, place: Place, say: Say, confirm: Confirm) -> Fitting:
    """Both CA keys and certificates: what is there is kept, what is missing is made after saying so. The settings that
    fit what the partition takes to sign."""
    uris = {name: KeyURI(object=key_label(name)) for name in get_args(Authority)}
    async with logged_in(place.settings, place.pin, directory, uris) as (process, opened):
        where = f"partition {opened.partition}"
        plan = [_plan(wanted, directory, name, opened.keys[name], where) for name in uris]
        for line in filter(None, plan):
            say(line)
        if wanted.module and any(plan) and not confirm("Go on?"):
            raise MisconfiguredError("nothing was made")
        for name in uris:
            await _make_key(wanted, directory, name, opened.keys[name], process, say)
        return await fit(process, directory, say)


def _plan(wanted: Wanted, directory: Path, name: str, found: KeyFound, where: str) -> str:
    """What will be made for one CA, in a sentence; empty where all is there. Raises MisconfiguredError."""
    certificate = directory / certificate_name(name)
    if found.missing:
        if certificate.exists():
            raise MisconfiguredError(f"{certificate} exists, but its key '{key_label(name)}' is not on {where}")
        return f"will make the key '{key_label(name)}' ({wanted.key_type}) on {where}, and {certificate}"
    if found.problem:
        raise MisconfiguredError(f"the key '{key_label(name)}' on {where} cannot be used: {found.problem}")
    return "" if certificate.exists() else f"will use the key '{key_label(name)}' on {where}, and make {certificate}"


async def _make_key(
    wanted: Wanted, directory: Path, name: str, found: KeyFound, process: MemberProcess, say: Say
) -> None:
    certificate = directory / certificate_name(name)
    if found.missing:
        request = Generate(key_label(name), wanted.key_type)  # type: ignore[arg-type]  # checked at the start
        reply = await process.call(request, time.monotonic() + TIMEOUT_S)
        assert isinstance(reply, KeyFound)
        found = reply
        guarded = "sensitive, never extractable" if found.guarded else "WARNING: the HSM says it could be extracted"
        say(f"made the key '{key_label(name)}' ({wanted.key_type}; {guarded})")
    if certificate.exists():
        return
    public = load_der_public_key(found.spki)
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise MisconfiguredError(f"the key '{key_label(name)}' keeps no public half on the partition")
    identifier = x509.SubjectKeyIdentifier.from_public_key(public).digest.hex()[:8]
    subject = f"hsmitm forward {name} CA {identifier}"
    if name == "untrust":
        subject += ": server not verified"
    made = x509.load_der_x509_certificate(await _self_signed(process, name, subject[:64], public))
    write(certificate, made.public_bytes(Encoding.PEM).decode(), 0o644)
    say(f"wrote {certificate}, signed by its own key on the partition")


async def _self_signed(process: MemberProcess, name: str, subject: str, public: PublicKey) -> bytes:
    """A CA certificate (DER) of the key, in the first scheme that its partition makes. Raises RefusedError,
    MisconfiguredError for a key that cannot be a CA's."""
    refused: RefusedError | None = None
    try:
        schemes = certificate_schemes(public)
    except ValueError as error:
        raise MisconfiguredError(f"the key '{key_label(name)}' is {error}") from error
    for scheme in schemes:
        now, serial = dt.datetime.now(dt.UTC), secrets.randbits(SERIAL_BITS)
        approved = approve_ca(subject, public, CA_DAYS, now, serial, scheme)
        request = Sign(name, scheme.name, approved.digest, approved.tbs)
        try:
            signed = await process.call(request, time.monotonic() + TIMEOUT_S)
        except RefusedError as error:
            refused = refused or error
            continue
        assert isinstance(signed, Signature)
        if not scheme.verifies(public, approved.digest, signed.signature):
            raise RefusedError(f"the partition's signature by '{key_label(name)}' does not verify")
        return approved.certificate(signed.signature, public)
    assert refused is not None
    raise refused
