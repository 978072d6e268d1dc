"""A key of the group: what is asked of a member for it, and what is believed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import structs

from hsm.member.key import Key, inbound_key
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from hsm.wire.member import Sign

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


def signed(request: Sign, private: ec.EllipticCurvePrivateKey = P256) -> bytes:
    """What a member of that private key answers."""
    return private.sign(request.digest, ec.ECDSA(Prehashed(hashes.SHA256())))


def test_a_request_names_the_key_and_carries_both_forms(key: Key) -> None:
    """A member is told which key and scheme, and gets the digest and the message: tokens differ in what they want."""
    message = b"message"
    digest = key.scheme.digest(message)
    assert key.request(message, digest) == Sign("trust", SIGN_P256.name, digest, message)


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
    key = key_of(private, scheme)
    assert load_der_public_key(key.spki) == private.public_key()
    assert structs.replace(key, spki=b"another's").spki == key.spki


# --- inbound keys -----------------------------------------------------------------------------------------------------


def test_an_inbound_key_signs_every_scheme_that_fits(rsa_key: rsa.RSAPrivateKey) -> None:
    """A server's RSA key signs three schemes of each padding, an EC key the one of its curve; a CA's key just one."""
    uri = KeyURI(object="shop")
    made = inbound_key(uri, rsa_key.public_key(), ("shop",))
    assert sorted(one.name for one in made.schemes) == sorted(name for name in SCHEMES if name.startswith("rsa_"))
    assert made.scheme.name == made.challenge().scheme == "rsa_pkcs1_sha256"
    assert [one.name for one in inbound_key(uri, P384.public_key(), ("shop",)).schemes] == ["ecdsa_secp384r1_sha384"]
    assert [one.name for one in key_of(rsa_key, "rsa_pkcs1_sha256").schemes] == ["rsa_pkcs1_sha256"]


def test_only_a_key_of_a_site_is_an_inbound_key(key: Key) -> None:
    """A CA's key is never one that workers may use, and no inbound key is without a site."""
    assert (key.inbound, key.title) == (False, "forward-trust key")
    made = inbound_key(KeyURI(object="shop"), P256.public_key(), ("shop", "blog"))
    assert (made.inbound, made.title) == (True, "key of shop, blog")
    with pytest.raises(ValueError, match="without a site"):
        inbound_key(KeyURI(object="shop"), P256.public_key(), ())


def test_a_digest_alone_is_asked_for_in_any_scheme(rsa_key: rsa.RSAPrivateKey) -> None:
    """A handshake has no message: the request carries the digest, and its signature counts in the scheme that was
    asked for alone."""
    made = inbound_key(KeyURI(object="shop"), rsa_key.public_key(), ("shop",))
    pss = SCHEMES["rsa_pss_rsae_sha384"]
    request = made.request(None, pss.digest(b"message"), pss)
    assert request == Sign(made.name, "rsa_pss_rsae_sha384", pss.digest(b"message"), None)
    how = padding.PSS(padding.MGF1(pss.hash), pss.digest_size)
    assert made.verifies(request, rsa_key.sign(request.digest, how, Prehashed(pss.hash)))
    assert not made.verifies(request, rsa_key.sign(request.digest, padding.PKCS1v15(), Prehashed(pss.hash)))


def test_a_scheme_that_does_not_fit_is_never_believed(rsa_key: rsa.RSAPrivateKey) -> None:
    """A signature in a scheme of another kind of key, or in none, does not count."""
    made = inbound_key(KeyURI(object="shop"), rsa_key.public_key(), ("shop",))
    digest = bytes(32)
    signature = rsa_key.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    assert made.verifies(Sign(made.name, "rsa_pkcs1_sha256", digest), signature)
    for scheme in ("ecdsa_secp256r1_sha256", "none"):
        assert not made.verifies(Sign(made.name, scheme, digest), signature)
