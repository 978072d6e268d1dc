"""Which CA may sign, what a leaf of it is up to the bytes that verifiers accept, and what is refused."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from hsm import names
from hsm.certificates.issuer import Issuer
from hsm.errors import MisconfiguredError, RefusedError
from tests.hsm.certificates.software import (
    DAY,
    LEAF_KEY,
    NOW,
    PROFILE,
    SERIAL,
    ca_extensions,
    certified,
    extension,
    foreign_ca,
    issuer,
    key_usage,
    mint,
    named,
    own_ca,
    private_key,
    spki,
    subordinate,
)

# --- CAs that are refused ---------------------------------------------------------------------------------------------


def swapped() -> list[x509.Certificate]:
    """A right chain in the wrong order."""
    ca, root = subordinate()
    return [root, ca]


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (list, "holds no certificate"),
        (lambda: [foreign_ca(constraints=None)], "not a CA certificate"),
        (lambda: [foreign_ca(constraints=x509.BasicConstraints(ca=False, path_length=None))], "not a CA certificate"),
        (lambda: [mint(["example.com"])], "not a CA certificate"),
        (lambda: [foreign_ca(usage=key_usage(digital_signature=True, crl_sign=True))], "lacks keyCertSign"),
        (lambda: [foreign_ca(ends=NOW - DAY)], "expired on 2026-05-31; renew the CA"),
        (lambda: [foreign_ca(starts=NOW + DAY / 24)], "valid from 2026-06-01 13:30 UTC on; check the clock"),
        (swapped, "put the CA first"),
        (lambda: [own_ca("p256"), own_ca("rsa")], "'CN=Test p256' is not issued by .* 'CN=Test rsa'"),
        (lambda: [subordinate()[0], certified(named("Root"), private_key("p384", 8), ca_extensions())], "not issued"),
        (lambda: [foreign_ca("p521")], "secp521r1, for which TLS needs .*; use P-256 or P-384"),
        (lambda: [foreign_ca("rsa-1024")], "1024 bits; use 2048 to 4096"),
        (lambda: [foreign_ca("ed25519")], "RSA and EC keys are used"),
    ],
    ids=[
        "empty", "no basicConstraints", "CA false", "leaf", "no keyCertSign", "expired", "not yet valid", "order",
        "stranger", "other key", "p521", "rsa-1024", "ed25519",
    ],
)  # fmt: skip
def test_refuses_ca(chain: Callable[[], list[x509.Certificate]], why: str) -> None:
    """A certificate that cannot be the CA stops the start with what is wrong."""
    with pytest.raises(MisconfiguredError, match=why):
        Issuer(chain(), NOW)


def test_refuses_a_ca_whose_key_is_for_pss_alone(tmp_path: Path) -> None:
    """A CA certificate with an id-RSASSA-PSS key is refused at the start: clients would reject its PKCS#1 leaves."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes",
            "-keyout", "key.pem", "-out", "ca.pem", "-subj", "/CN=PSS", "-addext", "keyUsage=critical,keyCertSign",
        ],
        cwd=tmp_path, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    with pytest.raises(MisconfiguredError, match="PSS"):
        Issuer([ca], ca.not_valid_before_utc)


def test_accepts_a_ca_without_key_usage() -> None:
    """A CA made before keyUsage was usual still signs."""
    ca = foreign_ca(usage=None)
    mint(["example.com"], by=Issuer([ca], NOW)).verify_directly_issued_by(ca)


@pytest.mark.parametrize("edge", ["not_valid_before_utc", "not_valid_after_utc"])
def test_a_ca_is_valid_in_its_first_and_last_second(edge: str) -> None:
    """Both ends of a validity belong to it (RFC 5280 section 4.1.2.5)."""
    ca = own_ca("p256")
    assert Issuer([ca], getattr(ca, edge)).certificate is ca


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (31 * DAY, "'CN=Test p256' expired on 2026-07-01; renew the CA"),
        (-2 * DAY, "check the clock"),
    ],
    ids=["expired", "not yet valid"],
)
def test_a_ca_that_is_not_valid_at_mint_time_signs_nothing(later: dt.timedelta, why: str) -> None:
    """A CA that expires while the signer runs refuses each request from that moment on."""
    by = Issuer([own_ca("p256", 30)], NOW)
    mint(["example.com"], by=by)
    with pytest.raises(RefusedError, match=why):
        mint(["example.com"], by=by, now=NOW + later)


# --- leaves that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ([], "a leaf for 0 names; 1 to 100"),
        ([f"h{number}.example" for number in range(101)], "a leaf for 101 names; 1 to 100"),
        (["example.com", "example.com"], "a name stands twice"),
        (["example.com", "EXAMPLE.com."], "a name stands twice"),
        (["2001:db8::1", "2001:db8:0::1"], "a name stands twice"),
        (["example.com", "bad name.example"], "the label 'bad name'"),
        (["b\u00fccher.example"], "no part of a host name"),
        (["*.com"], "at least two labels"),
        (["*"], "at least two labels"),
        ([""], "0 characters"),
        (["fe80::1%eth0"], "scope"),
    ],
    ids=["none", "101", "twice", "twice in two spellings", "address twice", "space", "not ASCII", "*.com", "*", "empty",
         "scope"],
)  # fmt: skip
def test_refuses_names(wanted: list[str], why: str) -> None:
    """A request for names that no leaf may carry is refused, with the name that is wrong."""
    with pytest.raises(RefusedError, match=why):
        issuer().approve(wanted, spki(LEAF_KEY), PROFILE, NOW, SERIAL)


def test_accepts_a_hundred_names() -> None:
    """The limit itself is possible."""
    assert len(extension(mint([f"h{one}.example" for one in range(100)]), x509.SubjectAlternativeName).value) == 100


def compressed(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half with a compressed point: the same key, other bytes."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


def rsa_spki(bits: int) -> bytes:
    """A public key with a modulus of this length; nobody has its private half."""
    public = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) | 1).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_accepts_rsa_leaf_keys(bits: int) -> None:
    """The RSA keys that workers make are taken."""
    key = spki(rsa.generate_private_key(65537, bits))
    assert issuer().approve(["example.com"], key, PROFILE, NOW, SERIAL).serial == SERIAL


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (lambda: spki(private_key("p256")), "the CA's own key"),
        (lambda: spki(private_key("ed25519")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: spki(private_key("p384")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: spki(private_key("rsa-1024")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: rsa_spki(2047), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: rsa_spki(4097), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: compressed(LEAF_KEY), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: compressed(private_key("p256")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: spki(LEAF_KEY) + b"\0", "not a SubjectPublicKeyInfo"),
        (lambda: spki(LEAF_KEY)[:-1], "not a SubjectPublicKeyInfo"),
        (lambda: spki(LEAF_KEY)[:-1] + bytes([spki(LEAF_KEY)[-1] ^ 1]), "not a SubjectPublicKeyInfo"),
        (lambda: spki(LEAF_KEY, Encoding.PEM), "not a SubjectPublicKeyInfo"),
        (lambda: b"", "not a SubjectPublicKeyInfo"),
        (lambda: b"garbage", "not a SubjectPublicKeyInfo"),
    ],
    ids=["the CA's own", "ed25519", "p384", "rsa-1024", "rsa-2047", "rsa-4097", "compressed", "the CA's own compressed",
         "a byte more", "a byte less", "not on the curve", "PEM", "empty", "garbage"],
)  # fmt: skip
def test_refuses_leaf_key(key: Callable[[], bytes], why: str) -> None:
    """A leaf for a key that clients would not take, or that is the CA's own, is refused."""
    with pytest.raises(RefusedError, match=why):
        issuer().approve(["example.com"], key(), PROFILE, NOW, SERIAL)


@given(st.binary(max_size=300))
def test_any_bytes_for_a_leaf_key_are_refused(raw: bytes) -> None:
    """Whatever a worker sends in place of a key is a refused request, not a crash of the signer."""
    with pytest.raises(RefusedError, match="not a SubjectPublicKeyInfo"):
        issuer().approve(["example.com"], raw, PROFILE, NOW, SERIAL)


# --- the last look at the draft ---------------------------------------------------------------------------------------


def altered(draft: x509.Certificate, *replaced: tuple[x509.ExtensionType, bool], **fields: Any) -> x509.Certificate:
    """`draft` with other fields; an extension in `replaced` takes the place of its kind, or is added."""
    kinds = {type(one): (one, critical) for one, critical in replaced}
    left_out = fields.pop("without", None)
    plain = {
        "issuer_name": draft.issuer,
        "subject_name": draft.subject,
        "public_key": draft.public_key(),
        "serial_number": draft.serial_number,
        "not_valid_before": draft.not_valid_before_utc,
        "not_valid_after": draft.not_valid_after_utc,
    }
    builder = x509.CertificateBuilder(**(plain | fields))
    kept = {type(one.value): (one.value, one.critical) for one in draft.extensions if type(one.value) is not left_out}
    for one, critical in (kept | kinds).values():
        builder = builder.add_extension(one, critical)
    return builder.sign(private_key("p256"), hashes.SHA256())


def alternative(*wanted: str) -> x509.SubjectAlternativeName:
    """These names as a leaf carries them."""
    return x509.SubjectAlternativeName([names.general_name(name) for name in wanted])


Bug = Callable[[x509.Certificate], x509.Certificate]
BUGS: dict[str, tuple[Bug, str]] = {
    "CA": (lambda d: altered(d, (x509.BasicConstraints(ca=True, path_length=None), True)), "it would be a CA"),
    "keyCertSign": (lambda d: altered(d, (key_usage(key_cert_sign=True), True)), "it would be a CA"),
    "cRLSign": (lambda d: altered(d, (key_usage(crl_sign=True), True)), "it would be a CA"),
    "clientAuth beside": (
        lambda d: altered(
            d, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        ),
        "not serverAuth alone",
    ),
    "codeSigning": (
        lambda d: altered(d, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)),
        "not serverAuth alone",
    ),
    "any purpose": (
        lambda d: altered(d, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)),
        "not serverAuth alone",
    ),
    "other names": (lambda d: altered(d, (alternative("other.example"), False)), "its names differ"),
    "a name more": (lambda d: altered(d, (alternative("example.com", "other.example"), False)), "its names differ"),
    "an e-mail address": (
        lambda d: altered(d, (x509.SubjectAlternativeName([x509.RFC822Name("example.com")]), False)),
        "its names differ",
    ),
    "names not critical": (lambda d: altered(d, subject_name=x509.Name([])), "not critical beside an empty subject"),
    "other common name": (
        lambda d: altered(d, subject_name=named("other.example")),
        "not a leaf: .*(subject|common name)",
    ),
    "other issuer": (lambda d: altered(d, issuer_name=named("Other CA")), "its issuer differs"),
    "other authority key": (
        lambda d: altered(d, (x509.AuthorityKeyIdentifier(b"other", None, None), False)),
        "authorityKeyIdentifier differs",
    ),
    "other key": (lambda d: altered(d, public_key=private_key("p256", 2).public_key()), "not a leaf: .*key"),
    "the CA's key": (lambda d: altered(d, public_key=private_key("p256").public_key()), "not a leaf: .*key"),
    "outlives its CA": (lambda d: altered(d, not_valid_after=NOW + 3651 * DAY), "it outlives its CA"),
    "too long": (lambda d: altered(d, not_valid_after=NOW + 46 * DAY), "its validity is too long"),
    "too long ago": (lambda d: altered(d, not_valid_before=NOW - 90 * DAY), "its validity is too long"),
    "never valid": (lambda d: altered(d, not_valid_after=d.not_valid_before_utc), "it would not be valid yet"),
    "short serial": (lambda d: altered(d, serial_number=1), "its serial number is too short"),
    "an extension more": (lambda d: altered(d, (x509.OCSPNoCheck(), False)), "not a leaf: .*extensions"),
    **{
        f"without {kind.__name__}": (partial(altered, without=kind), "not a leaf")
        for kind in (
            x509.BasicConstraints,
            x509.KeyUsage,
            x509.ExtendedKeyUsage,
            x509.SubjectAlternativeName,
            x509.SubjectKeyIdentifier,
            x509.AuthorityKeyIdentifier,
        )
    },
}


@pytest.mark.parametrize(("bug", "why"), BUGS.values(), ids=list(BUGS))
def test_a_bug_in_the_draft_is_refused(bug: Bug, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the building of leaves wrong in any one respect, the look at the finished bytes would still refuse it."""
    by, draft = issuer(), Issuer._draft
    monkeypatch.setattr(Issuer, "_draft", lambda *given: bug(draft(*given)))
    with pytest.raises(RefusedError, match=why):
        by.approve(["example.com"], spki(LEAF_KEY), PROFILE, NOW, SERIAL)


def test_an_unaltered_draft_passes_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look refuses the alteration and not the way in which the test before this one makes it."""
    by, draft = issuer(), Issuer._draft
    monkeypatch.setattr(Issuer, "_draft", lambda *given: altered(draft(*given)))
    assert by.approve(["example.com"], spki(LEAF_KEY), PROFILE, NOW, SERIAL).serial == SERIAL
