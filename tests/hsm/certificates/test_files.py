"""Certificates read from PEM files, by the signer and by workers alike, and what their keys are called."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hsm.certificates.files import inbound_name, load_chain, read, spki_of
from hsm.errors import MisconfiguredError
from tests.hsm.certificates.software import private_key
from tests.hsm.sites import write_certificate


def test_a_chain_of_a_site(tmp_path: Path) -> None:
    """A site's file gives its own certificate first, then that of its issuer."""
    path = write_certificate(private_key("p256").public_key(), "shop", tmp_path / "shop.pem")
    leaf, issuer = load_chain("shop", path)
    assert leaf.subject.rfc4514_string() == "CN=shop"
    assert issuer.subject.rfc4514_string() == "CN=Test Issuer"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing or holds no certificate is named, with what it should be."""
    path = tmp_path / "ca.pem"
    with pytest.raises(MisconfiguredError, match=r"cannot read the CA certificate .*ca.pem: No such file"):
        read(path, "CA certificate")
    path.write_text("nothing")
    with pytest.raises(MisconfiguredError, match=r"ca.pem holds no PEM certificate"):
        read(path)


def test_a_key_for_pss_alone(tmp_path: Path) -> None:
    """A site's certificate with an id-RSASSA-PSS key is refused: the key signs other schemes, too."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes", "-keyout",
            "key.pem", "-out", "shop.pem", "-subj", "/CN=shop", "-addext", "basicConstraints=critical,CA:FALSE",
        ],
        cwd=tmp_path, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    with pytest.raises(MisconfiguredError, match=r"site shop: .*shop.pem: its key is bound to RSASSA-PSS"):
        load_chain("shop", tmp_path / "shop.pem")


def test_an_inbound_key_is_called_by_its_public_key() -> None:
    """A renewed certificate of the same key is the same key: its name comes from the public key alone."""
    public = private_key("p256").public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    name = inbound_name(public)
    assert name == inbound_name(spki_of(public)) == f"inbound-{hashlib.sha256(spki_of(public)).hexdigest()[:32]}"
    assert inbound_name(private_key("p384").public_key()) != name
