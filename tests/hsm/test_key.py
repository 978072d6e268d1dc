"""A key of the group: what is asked of a member for it, and what is believed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm import wire
from hsm.key import Key
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI

P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
SIGN_P256 = SCHEMES["ecdsa_secp256r1_sha256"]


def key_of(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, scheme: str) -> Key:
    """The key of the group with this private half somewhere."""
    return Key("trust", KeyURI(object="ca"), private.public_key(), SCHEMES[scheme])


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    """An RSA key."""
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def key() -> Key:
    """A P-256 key of the group."""
    return key_of(P256, SIGN_P256.name)


def signed(request: wire.Sign, private: ec.EllipticCurvePrivateKey = P256) -> bytes:
    """What a member of that private key answers."""
    return private.sign(request.digest, ec.ECDSA(Prehashed(hashes.SHA256())))


def test_a_request_names_the_key_and_carries_both_forms(key: Key) -> None:
    """A member is told which key and scheme, and gets the digest and the message: tokens differ in what they want."""
    message = b"message"
    digest = key.scheme.digest(message)
    assert key.request(message, digest) == wire.Sign("trust", SIGN_P256.name, digest, message)


def test_a_challenge_is_fresh_and_consistent(key: Key) -> None:
    """No two test signatures are of the same bytes, so that an old signature proves nothing."""
    challenges = [key.challenge() for _ in range(100)]
    assert len({one.digest for one in challenges}) == 100
    for one in challenges:
        assert one.message is not None
        assert len(one.message) == 32
        assert one.digest == key.scheme.digest(one.message)


def test_believes_its_own_signature_of_that_request_alone(key: Key) -> None:
    """A signature counts if it is this key's and of what was asked: not another key's, not of other bytes, not torn."""
    request, other = key.challenge(), key.challenge()
    assert key.verifies(request, signed(request))
    assert not key.verifies(other, signed(request))
    assert not key.verifies(request, signed(request, ec.generate_private_key(ec.SECP256R1())))
    assert not key.verifies(request, signed(request)[:-1])
    assert not key.verifies(request, b"")


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name.startswith("rsa_")])
def test_believes_an_rsa_signature_of_its_scheme_alone(rsa_key: rsa.RSAPrivateKey, scheme: str) -> None:
    """A signature by the right RSA key, but with another padding or digest than was asked for, is not believed."""
    key = key_of(rsa_key, scheme)
    request = key.challenge()
    for name, other in SCHEMES.items():
        if other.family == "ecdsa" or other.digest_size != key.scheme.digest_size:
            continue
        pss = padding.PSS(padding.MGF1(other.hash), other.digest_size)
        how = pss if other.family == "rsa_pss" else padding.PKCS1v15()
        signature = rsa_key.sign(request.digest, how, Prehashed(other.hash))
        assert key.verifies(request, signature) == (name == scheme)


@pytest.mark.parametrize("private", [P256, P384])
def test_spki_is_the_public_key(private: ec.EllipticCurvePrivateKey) -> None:
    """What members look for is the public key of the certificate, whole."""
    scheme = "ecdsa_secp256r1_sha256" if private is P256 else "ecdsa_secp384r1_sha384"
    assert load_der_public_key(key_of(private, scheme).spki) == private.public_key()
