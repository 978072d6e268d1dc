"""A template that was approved: one certificate, once, of the issuer that approved it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from asn1crypto.x509 import Certificate as RawCertificate
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import hsm
from hsm.certificates.ca import approve_ca
from hsm.certificates.leaf import Approved
from hsm.errors import RefusedError
from tests.hsm.certificates.software import (
    LEAF_KEY,
    NOW,
    PROFILE,
    SERIAL,
    each_ca_key,
    finished,
    issuer,
    mint,
    own_ca,
    private_key,
    sign,
    spki,
)


@each_ca_key
def test_a_template_becomes_one_certificate(ca_key: str) -> None:
    """The certificate holds the approved bytes and the signature unchanged; a second one cannot be made of it."""
    approved = issuer(ca_key).approve(["example.com"], spki(LEAF_KEY), PROFILE, NOW, SERIAL)
    scheme = issuer(ca_key).scheme
    assert approved.digest == scheme.digest(approved.tbs)
    signature = sign(private_key(ca_key), scheme, approved.digest)
    leaf = x509.load_der_x509_certificate(approved.certificate(signature, issuer(ca_key).key))
    assert leaf.tbs_certificate_bytes == approved.tbs
    assert leaf.signature == signature
    assert leaf.serial_number == approved.serial == SERIAL
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (approved.not_before, approved.not_after)
    raw = RawCertificate.load(leaf.public_bytes(Encoding.DER))
    assert raw["signature_algorithm"].dump() == raw["tbs_certificate"]["signature"].dump()
    with pytest.raises(RefusedError, match="a certificate already"):
        approved.certificate(signature, issuer(ca_key).key)


def test_a_template_of_another_issuer() -> None:
    """A signature by another key than that of the CA which approved the leaf gives no certificate; the right one does,
    after all."""
    approved = issuer("p256").approve(["example.com"], spki(LEAF_KEY), PROFILE, NOW, SERIAL)
    for other in (private_key("rsa"), private_key("p256", 2)):
        with pytest.raises(RefusedError, match="approved by another issuer than the one that signed it"):
            finished(approved, other)
    finished(approved, private_key("p256")).verify_directly_issued_by(own_ca("p256"))


def test_a_ca_of_another_key() -> None:
    """Nor is a CA's own template redeemed with a signature by another key."""
    approved = approve_ca("Test", private_key("p256").public_key(), 30, NOW, SERIAL)
    with pytest.raises(RefusedError, match="approved by another issuer"):
        finished(approved, private_key("p256", 2))


@pytest.mark.parametrize("seal", [None, object()])
def test_a_template_that_nobody_approved(seal: object) -> None:
    """A template cannot be made by hand, not even of a certificate that is a leaf."""
    by = issuer("p256")
    with pytest.raises(TypeError, match="approved by an issuer"):
        Approved(mint(["example.com"]), by.key, by.scheme, seal)


def test_who_approves() -> None:
    """In the whole program two places alone can make a template: the issuer, and what makes a new CA."""
    root = Path(hsm.__file__).parent.parent
    holders = [
        path.relative_to(root).as_posix()
        for package in ("hsm", "addons", "proxy", "bench")
        for path in sorted((root / package).rglob("*.py"))
        if re.search(r"\bSEAL\b", path.read_text())
    ]
    assert holders == ["hsm/certificates/ca.py", "hsm/certificates/issuer.py", "hsm/certificates/leaf.py"]
