"""TLS signature schemes: their forms on a token, and their verification."""

from __future__ import annotations

from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from hsm.schemes import SCHEMES, Form, Scheme, certificate_scheme, certificate_schemes, forms_for, in_words

MESSAGE = b"what a handshake signs"
RSA_PKCS, RSA_PSS, ECDSA = 0x1, 0xD, 0x1041  # CKM_RSA_PKCS, CKM_RSA_PKCS_PSS, CKM_ECDSA

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def private_key(kind: str) -> PrivateKey:
    """A software key of this kind."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}[kind])


def kind_for(scheme: Scheme) -> str:
    """The kind of key that makes `scheme`."""
    return {None: "rsa", "secp256r1": "p256", "secp384r1": "p384"}[scheme.curve]


def sign(scheme: Scheme, digest: bytes) -> bytes:
    """A signature of `digest` as cryptography makes it."""
    key, prehashed = private_key(kind_for(scheme)), Prehashed(scheme.hash)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(digest, ec.ECDSA(prehashed))
    pss = padding.PSS(padding.MGF1(scheme.hash), scheme.digest_size)
    return key.sign(digest, pss if scheme.family == "rsa_pss" else padding.PKCS1v15(), prehashed)


def rsa_public(bits: int) -> rsa.RSAPublicKey:
    """A public key with a modulus of this length; nobody has its private half."""
    return rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) | 1).public_key()


each_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))


@each_scheme
def test_verifies(scheme: Scheme) -> None:
    """A signature of this digest by this key is right; of another digest, by another key or spoilt it is wrong."""
    public = private_key(kind_for(scheme)).public_key()
    digest = scheme.digest(MESSAGE)
    signature = sign(scheme, digest)
    assert scheme.verifies(public, digest, signature)
    assert not scheme.verifies(public, scheme.digest(b"another"), signature)
    assert not scheme.verifies(public, digest, signature[:-1] + bytes([signature[-1] ^ 1]))
    assert not scheme.verifies(public, digest, b"")
    assert not scheme.verifies(public, digest, bytes(len(signature)))
    if isinstance(public, rsa.RSAPublicKey):
        stranger: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = rsa_public(2048)
    else:
        stranger = ec.generate_private_key(public.curve).public_key()
    assert not scheme.verifies(stranger, digest, signature)


@each_scheme
def test_verifies_no_other_scheme(scheme: Scheme) -> None:
    """A right signature in another scheme of the same key is a wrong signature: a PSS client is not served PKCS#1."""
    public = private_key(kind_for(scheme)).public_key()
    for other in SCHEMES.values():
        if other.fits(public) and other is not scheme:
            assert not scheme.verifies(public, scheme.digest(MESSAGE), sign(other, other.digest(MESSAGE)))


@each_scheme
def test_digest_is_of_the_schemes_hash(scheme: Scheme) -> None:
    """The name of a scheme says its digest, and the digest has the size that is announced."""
    assert scheme.name.endswith(scheme.hash_name)
    assert len(scheme.digest(MESSAGE)) == scheme.digest_size == int(scheme.hash_name.removeprefix("sha")) // 8


@each_scheme
@pytest.mark.parametrize("kind", ["rsa", "p256", "p384", "p521"])
def test_fits(scheme: Scheme, kind: str) -> None:
    """A key is offered for the schemes of its family and, as TLS 1.3 wants it, its curve alone."""
    assert scheme.fits(private_key(kind).public_key()) is (kind_for(scheme) == kind)


@pytest.mark.parametrize(
    ("name", "mechanisms", "forms"),
    [
        ("rsa_pkcs1_sha256", {RSA_PKCS, 0x40, 0x41}, [RSA_PKCS, 0x40]),
        ("rsa_pkcs1_sha256", {0x40, 0x41, 0x42}, [0x40]),
        ("rsa_pkcs1_sha384", {0x40, 0x41, 0x42}, [0x41]),
        ("rsa_pkcs1_sha512", {0x40, 0x41, 0x42}, [0x42]),
        ("rsa_pkcs1_sha512", {0x40, 0x41}, []),
        ("rsa_pss_rsae_sha256", {RSA_PSS, 0x43}, [RSA_PSS, 0x43]),
        ("rsa_pss_rsae_sha256", {0x43, 0x44, 0x45}, [0x43]),
        ("rsa_pss_rsae_sha384", {0x43, 0x44, 0x45}, [0x44]),
        ("rsa_pss_rsae_sha512", {0x43, 0x44, 0x45}, [0x45]),
        ("rsa_pss_rsae_sha256", {RSA_PKCS, 0x40, ECDSA}, []),
        ("ecdsa_secp256r1_sha256", {ECDSA, 0x1044}, [ECDSA, 0x1044]),
        ("ecdsa_secp256r1_sha256", {0x1044, 0x1045}, [0x1044]),
        ("ecdsa_secp384r1_sha384", {0x1044, 0x1045}, [0x1045]),
        ("ecdsa_secp384r1_sha384", {0x1044}, []),
        ("ecdsa_secp256r1_sha256", {0x1042, RSA_PKCS, RSA_PSS}, []),
    ],
)
def test_forms(name: str, mechanisms: set[int], forms: list[int]) -> None:
    """A token gets the digest where it takes one, then the message where it hashes itself, and else nothing."""
    found = forms_for(SCHEMES[name], mechanisms, mechanisms)
    assert found == tuple(Form(one, whole=one not in (RSA_PKCS, RSA_PSS, ECDSA)) for one in forms)


def test_a_mechanism_that_does_not_sign_comes_last() -> None:
    """A token that lists a mechanism without CKF_SIGN is asked for the others first, and for that one all the same."""
    found = forms_for(SCHEMES["rsa_pkcs1_sha256"], {RSA_PKCS, 0x40}, {0x40})
    assert found == (Form(0x40, whole=True), Form(RSA_PKCS, whole=False))
    assert forms_for(SCHEMES["rsa_pkcs1_sha256"], {RSA_PKCS}, set()) == (Form(RSA_PKCS, whole=False),)


def test_in_words() -> None:
    """An operator reads several schemes of one kind as one."""
    assert in_words([]) == ""
    assert in_words(["rsa_pkcs1_sha256"]) == "rsa_pkcs1_sha256"
    assert in_words(SCHEMES) == (
        "rsa_pkcs1_sha256, 384 and 512, rsa_pss_rsae_sha256, 384 and 512, ecdsa_secp256r1_sha256, "
        "ecdsa_secp384r1_sha384"
    )


@each_scheme
def test_payload(scheme: Scheme) -> None:
    """A hashing token gets the message, or nothing where there is none; another one gets the digest."""
    digest = scheme.digest(MESSAGE)
    assert Form(0, whole=True).payload(scheme, digest, MESSAGE) == MESSAGE
    assert Form(0, whole=True).payload(scheme, digest, None) is None
    raw = Form(0, whole=False).payload(scheme, digest, MESSAGE)
    assert raw == Form(0, whole=False).payload(scheme, digest, None)
    assert raw is not None
    assert raw.endswith(digest)
    assert (raw == digest) is (scheme.family != "rsa_pkcs1")


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.family == "rsa_pkcs1"])
def test_digest_info_is_what_pkcs1_signs(name: str) -> None:
    """What CKM_RSA_PKCS is given is, byte for byte, what a PKCS#1 v1.5 signature by cryptography holds."""
    scheme = SCHEMES[name]
    digest = scheme.digest(MESSAGE)
    public = private_key("rsa").public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    signed = public.recover_data_from_signature(sign(scheme, digest), padding.PKCS1v15(), None)
    assert Form(RSA_PKCS, whole=False).payload(scheme, digest, None) == signed


@given(st.sampled_from([32, 48, 66]), st.data())
def test_encode_makes_der_of_ecdsa_halves(size: int, data: st.DataObject) -> None:
    """Both halves of a token's r||s come back from the DER, leading zeros and all."""
    r, s = (data.draw(st.integers(1, 256**size - 1)) for _ in range(2))
    encoded = SCHEMES["ecdsa_secp256r1_sha256"].encode(r.to_bytes(size) + s.to_bytes(size))
    assert decode_dss_signature(encoded) == (r, s)


@each_scheme
def test_encode_gives_a_signature_that_verifies(scheme: Scheme) -> None:
    """A token's raw answer becomes what TLS and X.509 carry; an RSA signature is that already."""
    key = private_key(kind_for(scheme))
    digest = scheme.digest(MESSAGE)
    signature = raw = sign(scheme, digest)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        raw = b"".join(half.to_bytes(key.key_size // 8) for half in decode_dss_signature(signature))
    assert scheme.encode(raw) == signature
    assert scheme.verifies(key.public_key(), digest, scheme.encode(raw))


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_a_token_that_answers_in_der_is_understood(curve: str) -> None:
    """Some tokens give an ECDSA signature as a SEQUENCE of two INTEGERs, whatever their size, instead of r||s."""
    key = private_key(curve)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    scheme = next(one for one in SCHEMES.values() if one.fits(key.public_key()))
    for number in range(40):
        digest = scheme.digest(b"%d" % number)
        der = key.sign(digest, ec.ECDSA(Prehashed(scheme.hash)))
        assert scheme.encode(der) == der
        raw = b"".join(half.to_bytes(key.key_size // 8) for half in decode_dss_signature(der))
        assert scheme.encode(raw) == der


@pytest.mark.parametrize("raw", [b"", b"\x30", b"\x30\x06\x02\x01", bytes(63), bytes(65), b"\x30" * 72])
def test_an_answer_that_is_no_signature_never_verifies(raw: bytes) -> None:
    """Whatever a token answers, it becomes bytes that do not verify, and no crash."""
    scheme, key = SCHEMES["ecdsa_secp256r1_sha256"], private_key("p256").public_key()
    assert not scheme.verifies(key, scheme.digest(MESSAGE), scheme.encode(raw))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (rsa_public(2048), "rsa_pkcs1_sha256"),
        (rsa_public(3072), "rsa_pkcs1_sha256"),
        (rsa_public(4096), "rsa_pkcs1_sha256"),
        (private_key("p256").public_key(), "ecdsa_secp256r1_sha256"),
        (private_key("p384").public_key(), "ecdsa_secp384r1_sha384"),
    ],
    ids=["rsa-2048", "rsa-3072", "rsa-4096", "p256", "p384"],
)
def test_certificate_scheme(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, name: str) -> None:
    """A CA signs in the scheme that every client of its key type knows."""
    assert certificate_scheme(key).name == name
    schemes = certificate_schemes(key)
    assert schemes[0] is certificate_scheme(key)
    assert len(schemes) == (6 if isinstance(key, rsa.RSAPublicKey) else 1)
    assert all(one.fits(key) for one in schemes)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (rsa_public(1024), "1024 bits; use 2048 to 4096"),
        (rsa_public(2047), "2047 bits; use 2048 to 4096"),
        (rsa_public(4097), "4097 bits; use 2048 to 4096"),
        (private_key("p521").public_key(), "secp521r1, for which TLS needs ecdsa_secp521r1_sha512, .*; use P-256 or"),
        (ec.derive_private_key(7, ec.SECP256K1()).public_key(), "secp256k1; use P-256 or P-384"),
    ],
    ids=["rsa-1024", "rsa-2047", "rsa-4097", "p521", "secp256k1"],
)
def test_certificate_scheme_refuses(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, why: str) -> None:
    """A key too weak, too slow or of a curve that clients do not know is refused with what to use."""
    with pytest.raises(ValueError, match=why):
        certificate_scheme(key)
