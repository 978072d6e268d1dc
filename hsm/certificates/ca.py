"""The template of a CA's own certificate. No I/O, no clock, no HSM."""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.x509.oid import NameOID

from hsm.certificates.leaf import SEAL, Approved
from hsm.certificates.settings import BACKDATED
from hsm.certificates.standin import stand_in
from hsm.errors import MisconfiguredError
from hsm.schemes import PublicKey, Scheme, certificate_scheme


def approve_ca(
    subject: str | x509.Name, key: PublicKey, days: int, now: dt.datetime, serial: int, scheme: Scheme | None = None
) -> Approved:
    """The template of a self-signed CA for `key`: pathLen 0, so that it can sign leaves and nothing else. `subject`
    is its name, or the common name alone. `scheme` is one of `hsm.schemes.certificate_schemes`, the first unless given.

    Raises MisconfiguredError for a key that cannot be a CA's.
    """
    try:
        preferred = certificate_scheme(key)
    except ValueError as error:
        raise MisconfiguredError(f"the key is {error}") from error
    if isinstance(subject, str):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(identifier.digest, None, None), critical=False)
    )
    scheme = scheme or preferred
    draft = builder.sign(stand_in(key), scheme.hash, rsa_padding=scheme.certificate_padding)
    return Approved(draft, key, scheme, SEAL)
