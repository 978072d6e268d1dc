"""The certificate of one CA: signed by its own key on the partition, or found and proved to be that key's."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable

from cryptography import x509

from hsm.certificates.ca import approve_ca
from hsm.certificates.leaf import SERIAL_BITS, Approved
from hsm.errors import MisconfiguredError, RefusedError
from hsm.member.key import Key
from hsm.member.process import MemberProcess
from hsm.schemes import PublicKey, Scheme, certificate_schemes
from hsm.wire.member import Sign, Signature
from proxy.commands.init.login import TIMEOUT_S
from proxy.commands.init.plan import Plan


async def prove(process: MemberProcess, one: Plan, public: PublicKey) -> None:
    """See by a challenge that the certificate which exists is the key's. Raises MisconfiguredError, RefusedError."""
    key = Key(one.name, one.uri, public, certificate_schemes(public)[0])
    request, signature = await _signed(process, public, lambda scheme: key.challenge(scheme, whole=True))
    if not key.verifies(request, signature):
        raise MisconfiguredError(f"{one.certificate} is not the certificate of the key '{one.uri.object or one.uri}'")


async def self_signed(
    process: MemberProcess, one: Plan, subject: x509.Name, public: PublicKey, days: int
) -> x509.Certificate:
    """A CA certificate of the key, in the first scheme that its partition makes. Raises RefusedError, and
    MisconfiguredError for a key that cannot be a CA's."""
    now, serial = dt.datetime.now(dt.UTC), secrets.randbits(SERIAL_BITS)
    templates: dict[str, Approved] = {}

    def request_for(scheme: Scheme) -> Sign:
        approved = templates[scheme.name] = approve_ca(subject, public, days, now, serial, scheme)
        return Sign(one.name, scheme.name, approved.digest, approved.tbs)

    request, signature = await _signed(process, public, request_for)
    approved = templates[request.scheme]
    if not approved.scheme.verifies(public, request.digest, signature):
        raise RefusedError(f"the signature by '{one.uri.object or one.uri}' on {one.where} does not verify")
    return x509.load_der_x509_certificate(approved.certificate(signature, public))


async def _signed(
    process: MemberProcess, public: PublicKey, request_for: Callable[[Scheme], Sign]
) -> tuple[Sign, bytes]:
    """What was signed in the first scheme that the partition makes, and the signature."""
    refused: RefusedError | None = None
    try:
        schemes = certificate_schemes(public)
    except ValueError as error:
        raise MisconfiguredError(f"the key is {error}") from error
    for scheme in schemes:
        request = request_for(scheme)
        try:
            signed = await process.call(request, time.monotonic() + TIMEOUT_S)
        except RefusedError as error:
            refused = refused or error
            continue
        assert isinstance(signed, Signature)
        return request, signed.signature
    assert refused is not None
    raise refused
