"""addons/revocation/crl.py: lists as a CA makes them, and as others do."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import subprocess
import time
from pathlib import Path

import pytest
from asn1crypto import parser as der_parser
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.revocation import crl
from addons.revocation.crl import Crl, CrlError
from tests.addons.revocation.ocsp_responder import HOUR, NOW, Authority, der, private_key
from tests.addons.revocation.stapled import CA
from tests.waiting import pause

URL = "http://ca.example/all.crl"
_RELATIVE = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "x")])


def read(data: bytes, issuer: Authority = CA) -> Crl:
    """The list, now."""
    return crl.read(data, issuer.certificate, NOW)


def scope(
    *,
    url: str | None = None,
    user: bool = False,
    ca: bool = False,
    indirect: bool = False,
    attributes: bool = False,
    reasons: frozenset[x509.ReasonFlags] | None = None,
    relative: bool = False,
) -> tuple[x509.ExtensionType, bool]:
    """What the list says that it is for."""
    return x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier(url)] if url else None,
        relative_name=_RELATIVE if relative else None,
        only_contains_user_certs=user,
        only_contains_ca_certs=ca,
        only_some_reasons=reasons,
        indirect_crl=indirect,
        only_contains_attribute_certs=attributes,
    ), True  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(1, 2**159 - 1) | st.integers(1, 300), max_size=12), st.integers(1, 300))
def test_it_finds_what_cryptography_finds(listed: set[int], other: int) -> None:
    """For every serial number in it, and for others, a list says what cryptography reads in it."""
    data = CA.list_revoked(*listed)
    ours, theirs = read(data), x509.load_der_x509_crl(data)
    for serial in (*listed, other, *(one + 1 for one in listed)):
        entry = theirs.get_revoked_certificate_by_serial_number(serial)
        assert ours.revoked(serial, [URL], ca=False) == (entry and entry.revocation_date_utc)


@pytest.mark.parametrize("key", ["rsa", "authority", "p384"])
@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_signatures(key: str, digest: hashes.HashAlgorithm) -> None:
    """RSA and ECDSA lists of every digest that counts are read."""
    issuer = Authority(private_key(key))
    assert read(issuer.list_revoked(7, digest=digest), issuer).revoked(7, [], ca=False) == NOW - HOUR


def test_lists_of_openssl(tmp_path: Path) -> None:
    """A list that the openssl command made, with PSS, without entries' extensions and with them, is read as well."""
    issuer = Authority(private_key("rsa"))
    (tmp_path / "ca.pem").write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        private_key("rsa").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    lines = [
        "R\t401122000000Z\t250102030405Z\t0A\tunknown\t/CN=one\n",
        "R\t401122000000Z\t250102030405Z,keyCompromise\t00FFEE\tunknown\t/CN=two\n",
    ]
    (tmp_path / "index").write_text("".join(lines))
    (tmp_path / "conf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={tmp_path}/index\ndefault_md=sha256\ndefault_crl_days=2\ncrl_extensions=e\n"
        "[e]\nauthorityKeyIdentifier=keyid\n"
    )
    command = ["openssl", "ca", "-config", str(tmp_path / "conf"), "-gencrl", "-keyfile", str(tmp_path / "key.pem")]
    command += ["-cert", str(tmp_path / "ca.pem"), "-sigopt", "rsa_padding_mode:pss"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert made.returncode == 0, made.stderr
    data = x509.load_pem_x509_crl(made.stdout.encode()).public_bytes(Encoding.DER)
    found = crl.read(data, issuer.certificate, dt.datetime.now(dt.UTC))
    since = dt.datetime(2025, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert [found.revoked(serial, [], ca=False) for serial in (10, 0xFFEE, 11)] == [since, since, None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no CRL in DER"),
        (b"\x30\x80" + bytes(20), "no CRL in DER"),
        (b"\x30\x84\xff\xff\xff\xff" + bytes(20), "no CRL in DER"),
        (b"\x30\x03\x02\x01\x01", "no CRL in DER"),
        (b"<html>", "no CRL in DER"),
        (CA.list_revoked(5)[:-1], "no CRL in DER"),
        (CA.list_revoked(5) + b"\0", "no CRL in DER"),
        (der(CA.certificate), "cannot be read|no CRL"),
        (Authority(private_key("other")).list_revoked(), "signature does not verify"),
        (CA.list_revoked(issuer="somebody"), "of another issuer, CN=somebody"),
        (CA.list_revoked(this_update=NOW - 48 * HOUR, next_update=NOW - HOUR), "expired at"),
        (CA.list_revoked(this_update=NOW + HOUR, next_update=NOW + 2 * HOUR), "check the clock"),
        (CA.list_revoked(extensions=[(x509.DeltaCRLIndicator(3), True)]), "a delta CRL"),
        (
            CA.list_revoked(extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)]),
            "critical extension that is not known here, 1.2.3",
        ),
        (
            CA.list_revoked(
                extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(70_000)), False)]
            ),
            "more than 64 KiB beside its entries",
        ),
        (Authority(private_key("ed25519")).list_revoked(), "signature|SHA-256"),
    ],
)
def test_what_is_no_list_of_this_ca(data: bytes, message: str) -> None:
    """Whatever is not its issuer's whole and current list says nothing, and why is told in a sentence."""
    with pytest.raises(CrlError, match=message):
        read(data)


def test_a_changed_list_is_seen() -> None:
    """One bit in an entry, and the list is not its issuer's any more."""
    data = bytearray(CA.list_revoked(0x1122334455667788))
    at = data.index(bytes.fromhex("1122334455667788"))
    data[at] ^= 1
    with pytest.raises(CrlError, match="signature does not verify"):
        read(bytes(data))


_REAL = CA.list_revoked(5, 2**150, extensions=[scope(url=URL), (x509.CRLNumber(7), False)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # cryptography's, of what is odd and no more
@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=80) | st.lists(st.tuples(st.integers(0, len(_REAL) - 1), st.integers(0, 255)), max_size=6))
def test_whatever_comes_is_read_or_refused(what: bytes | list[tuple[int, int]]) -> None:
    """Noise, and a real list with some bytes changed, end in a sentence, never otherwise; only the real one is read."""
    if isinstance(what, list):
        changed = bytearray(_REAL)
        for at, value in what:
            changed[at] = value
        what = bytes(changed)
    try:
        read(what)
    except CrlError:
        return
    assert what == _REAL


def test_a_ca_that_may_sign_no_lists() -> None:
    """A CA whose certificate forbids it has no list."""
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    certificate = CA.certify("test CA", private_key("authority"), extensions=[x509.BasicConstraints(True, None), usage])
    with pytest.raises(CrlError, match="may not sign any"):
        crl.read(CA.list_revoked(), certificate, NOW)


@pytest.mark.parametrize(
    ("extension", "ca", "covers"),
    [
        (scope(user=True), False, True),
        (scope(user=True), True, False),
        (scope(ca=True), True, True),
        (scope(ca=True), False, False),
        (scope(url=URL), False, True),
        (scope(url="http://ca.example/other.crl"), False, False),
        (scope(indirect=True), False, False),
        (scope(attributes=True), False, False),
        (scope(reasons=frozenset([x509.ReasonFlags.key_compromise])), False, False),
        (scope(relative=True), False, False),
    ],
)
def test_a_list_says_nothing_beyond_its_scope(
    extension: tuple[x509.ExtensionType, bool], ca: bool, covers: bool
) -> None:
    """A list of a part, of others' certificates or of some reasons does not make the rest of them good."""
    found = read(CA.list_revoked(extensions=[extension]))
    if covers:
        assert found.revoked(1, ["ldap://x/", URL], ca=ca) is None
    else:
        with pytest.raises(CrlError):
            found.revoked(1, ["ldap://x/", URL], ca=ca)


def _many(number: int) -> tuple[bytes, list[int]]:
    """A list with so many entries, put together from a small one: cryptography takes many seconds to make it."""
    chance = random.Random(1)
    serials = [chance.getrandbits(126) | 1 << 125 for _ in range(number)]
    entries = b"".join(b"\x30\x21\x02\x10" + one.to_bytes(16) + b"\x17\x0d250102030405Z" for one in serials)
    _, cut = crl._cut(CA.list_revoked(1, extensions=[(x509.CRLNumber(1), False)]))
    signed = der_parser.emit(0, 1, 16, cut.head + der_parser.emit(0, 1, 16, entries) + cut.tail)
    key = CA.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = der_parser.emit(0, 0, 3, b"\0" + key.sign(signed, ec.ECDSA(hashes.SHA256())))
    _, _, algorithm = crl._element(cut.behind, 0)
    return der_parser.emit(0, 1, 16, signed + cut.behind[:algorithm] + signature), serials


def test_what_a_list_takes() -> None:
    """A list that is kept takes its entries and little more: what its signature went over is not kept."""
    data, _ = _many(1000)
    found = read(data)
    assert len(data) - 200 < found.size < len(data) + 200
    assert sum(len(getattr(found._cut, name)) for name in found._cut.__struct_fields__) == found.size


@pytest.mark.alone
async def test_a_long_list_holds_nobody_up() -> None:
    """While a list of ten megabytes is verified and searched on a thread, the event loop goes on."""
    data, serials = _many(280_000)
    assert 9 << 20 < len(data) < 10 << 20

    def work() -> tuple[object, object]:
        found = read(data)
        return found.revoked(serials[-1], [], ca=False), found.revoked(5, [], ca=False)

    working = asyncio.create_task(asyncio.to_thread(work))
    gaps, last = [], time.perf_counter()
    while not working.done():
        await pause(0.0005)
        gaps.append(-last + (last := time.perf_counter()))
    assert await working == (dt.datetime(2025, 1, 2, 3, 4, 5, tzinfo=dt.UTC), None)
    assert max(gaps) < 0.1  # cryptography alone holds the interpreter's lock for 124 ms at a time
