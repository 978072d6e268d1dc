"""The CA that `hsmitm init` makes."""

from __future__ import annotations

import pytest
from cryptography import x509

from hsm.certificates.ca import approve_ca
from hsm.certificates.settings import BACKDATED
from hsm.errors import MisconfiguredError
from tests.hsm.certificates.software import (
    DAY,
    DIGESTS,
    NOW,
    SERIAL,
    each_ca_key,
    extension,
    key_usage,
    named,
    own_ca,
    private_key,
)


@each_ca_key
def test_own_ca(ca_key: str) -> None:
    """The CA that `init` makes signs leaves and nothing else, for as long as was asked."""
    ca = own_ca(ca_key)
    ca.verify_directly_issued_by(ca)
    assert ca.signature_algorithm_oid == DIGESTS[ca_key]
    assert ca.subject == ca.issuer == named(f"Test {ca_key}")
    assert extension(ca, x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert extension(ca, x509.BasicConstraints).critical
    assert extension(ca, x509.KeyUsage).value == key_usage(key_cert_sign=True, crl_sign=True)
    assert extension(ca, x509.KeyUsage).critical
    identifier = extension(ca, x509.SubjectKeyIdentifier).value.digest
    assert extension(ca, x509.AuthorityKeyIdentifier).value.key_identifier == identifier
    assert ca.not_valid_before_utc == (NOW - BACKDATED).replace(microsecond=0)
    assert ca.not_valid_after_utc == (NOW + 3650 * DAY).replace(microsecond=0)
    assert ca.serial_number == SERIAL


@pytest.mark.parametrize(("kind", "why"), [("p521", "use P-256 or P-384"), ("rsa-1024", "use 2048 to 4096")])
def test_own_ca_refuses_a_key(kind: str, why: str) -> None:
    """`init` does not make a CA that the signer would refuse."""
    with pytest.raises(MisconfiguredError, match=why):
        approve_ca("Test", private_key(kind).public_key(), 3650, NOW, SERIAL)
