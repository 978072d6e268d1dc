"""Throw-away CA certificates, signed by a key of a test partition as `hsmitm init` signs them."""

from __future__ import annotations

import datetime as dt
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from hsm.certificates.ca import approve_ca
from hsm.certificates.leaf import SERIAL_BITS
from hsm.member.process import MemberProcess
from hsm.schemes import PublicKey, Scheme, certificate_scheme
from hsm.wire.member import Sign, Signature
from tests.softhsm import PIN, Store, in_s


def public_key(store: Store, key_name: str) -> PublicKey:
    """The public half of a key of `store`."""
    key = load_der_public_key(store.keys[key_name].spki)
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    return key


async def make_ca(
    store: Store,
    key_name: str,
    directory: Path,
    *,
    now: dt.datetime | None = None,
    days: int = 30,
    scheme: Scheme | None = None,
    pin: str = PIN,
) -> Path:
    """A PEM file in `directory` with a self-signed CA of the key `key_name`, made `now` for `days` days; signed in
    `scheme`, or the key's preferred one."""
    key = public_key(store, key_name)
    made = now or dt.datetime.now(dt.UTC)
    approved = approve_ca(f"{key_name} CA", key, days, made, secrets.randbits(SERIAL_BITS), scheme)
    request = Sign(key_name, (scheme or certificate_scheme(key)).name, approved.digest, approved.tbs)
    process = await MemberProcess.spawn(store.environment)
    try:
        await process.channel.call(store.opening(1, pin), in_s(20))
        signed = await process.channel.call(request, in_s(20))
    finally:
        await process.end()
    assert isinstance(signed, Signature)
    certificate = x509.load_der_x509_certificate(approved.certificate(signed.signature, key))
    certificate.verify_directly_issued_by(certificate)
    path = directory / f"{key_name}-ca.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path
