"""What a client can verify, read from ClientHellos that real TLS libraries wrote."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.proxy.layers.tls import parse_client_hello
from mitmproxy.tls import ClientHello
from OpenSSL import SSL

from addons.tls.client_hello import can_ecdsa, can_verify, certificate_schemes, returns

_ECDSA_ONLY = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
_RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:AES128-GCM-SHA256"
_OF_A_LIMITED_MACHINE = """
import ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.maximum_version = ssl.TLSVersion[sys.argv[1]]
output = ssl.MemoryBIO()
try:
    context.wrap_bio(ssl.MemoryBIO(), output, server_hostname="example.com").do_handshake()
except ssl.SSLWantReadError:
    sys.stdout.buffer.write(output.read())
"""


def _parsed(records: bytes) -> ClientHello:
    hello = parse_client_hello(records)
    assert hello is not None, "the library wrote no whole ClientHello"
    return hello


def _stdlib_hello(*, ciphers: str = "DEFAULT", lowest: str = "TLSv1_2", highest: str = "TLSv1_3") -> ClientHello:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TLS 1.0 and 1.1 are what is tested
        context.minimum_version = ssl.TLSVersion[lowest]
        context.maximum_version = ssl.TLSVersion[highest]
    context.set_ciphers(ciphers)
    output = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), output, server_hostname="example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return _parsed(output.read())


def _openssl_hello(*, ciphers: bytes = b"DEFAULT", algorithms: bytes = b"", highest: int = 0) -> ClientHello:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(highest)
    context.set_cipher_list(ciphers)
    if algorithms:
        assert SSL._lib.SSL_CTX_set1_sigalgs_list(context._context, algorithms) == 1
    client = SSL.Connection(context)
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return _parsed(client.bio_read(65535))


def _hello_of_a_limited_machine(directory: Path, limits: str, highest: str) -> ClientHello:
    """A ClientHello where the machine's administrator wrote `limits` into openssl.cnf."""
    configuration = directory / "openssl.cnf"
    configuration.write_text(
        f"openssl_conf = first\n[first]\nssl_conf = second\n[second]\nsystem_default = third\n[third]\n{limits}\n"
    )
    written = subprocess.run(
        [sys.executable, "-I", "-c", _OF_A_LIMITED_MACHINE, highest],
        env=os.environ | {"OPENSSL_CONF": str(configuration)},
        capture_output=True,
        check=True,
        timeout=30,
    )
    return _parsed(written.stdout)


@pytest.mark.parametrize("lowest", ["TLSv1_2", "TLSv1_3"])
def test_a_client_that_speaks_tls_1_3_gets_ecdsa(lowest: str) -> None:
    """A browser of today is given the cheap P-256 leaf."""
    assert can_ecdsa(_stdlib_hello(lowest=lowest), tls_1_3=True)


def test_the_cipher_suites_of_tls_1_2_do_not_matter_to_a_tls_1_3_handshake() -> None:
    """In TLS 1.3 a suite says nothing of the certificate: RSA suites for older servers do no harm."""
    hello = _stdlib_hello(ciphers=_RSA_ONLY)
    assert can_ecdsa(hello, tls_1_3=True)
    assert not can_ecdsa(hello, tls_1_3=False)


def test_a_client_with_tls_1_3_alone_gets_no_ecdsa_where_we_do_not_speak_it() -> None:
    """With tls_version_client_max below TLS 1.3, TLS 1.3's own suites promise nothing."""
    assert not can_ecdsa(_stdlib_hello(lowest="TLSv1_3"), tls_1_3=False)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(("ciphers", "expected"), [("DEFAULT", True), (_ECDSA_ONLY, True), (_RSA_ONLY, False)])
def test_a_tls_1_2_client_is_judged_by_its_suites(ciphers: str, expected: bool, ours: bool) -> None:
    """An old library that offers RSA suites alone gets an RSA leaf, whatever we could speak."""
    assert can_ecdsa(_stdlib_hello(ciphers=ciphers, highest="TLSv1_2"), tls_1_3=ours) is expected


def test_a_client_before_tls_1_2_gets_rsa() -> None:
    """A client that sends no signature algorithms means SHA-1, and we do not sign ECDSA with that."""
    hello = _stdlib_hello(ciphers="DEFAULT:@SECLEVEL=0", lowest="TLSv1", highest="TLSv1_1")
    assert 13 not in dict(hello.extensions)
    assert not can_ecdsa(hello, tls_1_3=True)


@pytest.mark.parametrize(
    ("algorithms", "expected"),
    [
        (b"ECDSA+SHA256", True),
        (b"RSA+SHA256:ECDSA+SHA256", True),
        (b"RSA+SHA256:RSA-PSS+SHA256", False),
        (b"ECDSA+SHA384:RSA+SHA256", False),
        (b"ed25519:RSA+SHA256", False),
    ],
)
@pytest.mark.parametrize("highest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_client_must_know_ecdsa_with_p_256_and_sha_256(algorithms: bytes, expected: bool, highest: int) -> None:
    """A client whose signature algorithms lack ecdsa_secp256r1_sha256 gets RSA, though its suites would allow more."""
    assert can_ecdsa(_openssl_hello(algorithms=algorithms, highest=highest), tls_1_3=True) is expected


@pytest.mark.parametrize(("ciphers", "expected"), [(b"DEFAULT", True), (b"aRSA", False), (b"aECDSA", True)])
def test_another_library_is_judged_alike(ciphers: bytes, expected: bool) -> None:
    """The OpenSSL inside cryptography, with the groups of 2026, is understood as well as the system's."""
    assert can_ecdsa(_openssl_hello(ciphers=ciphers, highest=SSL.TLS1_2_VERSION), tls_1_3=True) is expected


def test_a_machine_whose_openssl_allows_rsa_alone_gets_rsa(tmp_path: Path) -> None:
    """An administrator who took ECDSA out of openssl.cnf is not given ECDSA."""
    hello = _hello_of_a_limited_machine(tmp_path, "SignatureAlgorithms = RSA-PSS+SHA256:RSA+SHA256", "TLSv1_3")
    assert not can_ecdsa(hello, tls_1_3=True)


@pytest.mark.parametrize(
    ("groups", "highest", "expected"),
    [
        ("X25519:P-384", "TLSv1_2", False),
        ("X25519:P-256", "TLSv1_2", True),
        ("X25519:P-384", "TLSv1_3", True),
    ],
)
def test_a_curve_that_the_client_lacks_rules_ecdsa_out_in_tls_1_2_alone(
    tmp_path: Path, groups: str, highest: str, expected: bool
) -> None:
    """TLS 1.2 ties a certificate's curve to the supported groups (RFC 8422); TLS 1.3 does not."""
    assert can_ecdsa(_hello_of_a_limited_machine(tmp_path, f"Groups = {groups}", highest), tls_1_3=True) is expected


def test_a_suite_that_we_do_not_offer_is_no_reason_for_ecdsa() -> None:
    """A device with ECDSA for CCM alone, which mitmproxy's cipher list lacks, must get the RSA leaf that it can use."""
    ciphers = b"ECDHE-ECDSA-AES128-CCM:ECDHE-RSA-AES128-GCM-SHA256"
    hello = _openssl_hello(ciphers=ciphers, highest=SSL.TLS1_2_VERSION)
    assert hello.cipher_suites[:2] == [0xC0AC, 0xC02F]
    assert not can_ecdsa(hello, tls_1_3=True)


def _hello(suites: list[int], extensions: list[tuple[int, bytes]]) -> ClientHello:
    listed = b"".join(suite.to_bytes(2) for suite in suites)
    encoded = b"".join(kind.to_bytes(2) + len(body).to_bytes(2) + body for kind, body in extensions)
    return ClientHello(
        b"\x03\x03"
        + bytes(32)
        + b"\0"
        + len(listed).to_bytes(2)
        + listed
        + b"\x01\0"
        + len(encoded).to_bytes(2)
        + encoded
    )


_KINDS = st.sampled_from([10, 13, 43]) | st.integers(1, 0xFFFF).filter(lambda kind: kind != 16)
"""Extensions but for server_name and ALPN, which mitmproxy parses itself before anybody asks us."""


@given(
    suites=st.lists(st.integers(0, 0xFFFF) | st.sampled_from([0x1301, 0xC02B, 0xC02F]), max_size=8),
    extensions=st.lists(st.tuples(_KINDS, st.binary(max_size=40)), max_size=6),
    tls_1_3=st.booleans(),
)
@example(suites=[], extensions=[], tls_1_3=True)
@example(suites=[0xC02B], extensions=[(13, b"\0\x02\x04\x03"), (43, b"\x03\x03\x04\x03"), (10, b"\0")], tls_1_3=True)
def test_nonsense_in_extensions_is_never_an_error(
    suites: list[int], extensions: list[tuple[int, bytes]], tls_1_3: bool
) -> None:
    """Whatever a client writes into its extensions, it gets an answer: ECDSA only where it named it."""
    able = can_ecdsa(_hello(suites, extensions), tls_1_3=tls_1_3)
    assert not able or b"\x04\x03" in dict(extensions)[13]


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ([], False),
        ([(35, b"")], False),
        ([(35, b"a ticket")], True),
        ([(41, b"\0\5an id")], True),
        ([(43, b"\2\3\4"), (35, b"")], False),
    ],
    ids=["nothing", "asks for a ticket", "TLS 1.2 ticket", "TLS 1.3 ticket", "TLS 1.3, the first time"],
)
def test_a_client_that_returns_is_known(extensions: list[tuple[int, bytes]], expected: bool) -> None:
    """A client that has a ticket is told from one that is here for the first time."""
    assert returns(_hello([], extensions)) is expected


# what a client verifies in certificates


def _offering(schemes: bytes) -> ClientHello:
    """OpenSSL's hello with these signature algorithms, in OpenSSL's words."""
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    assert SSL._lib.SSL_CTX_set1_sigalgs_list(settings._context, schemes) == 1  # type: ignore[attr-defined]  # not in its interface
    client = SSL.Connection(settings)
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return _parsed(client.bio_read(65535))


_P256, _P384 = (ec.generate_private_key(curve).public_key() for curve in (ec.SECP256R1(), ec.SECP384R1()))
_RSA = rsa.generate_private_key(65537, 2048).public_key()


@pytest.mark.parametrize(
    ("schemes", "keys"),
    [
        (b"RSA+SHA256:RSA-PSS+SHA256", [_RSA]),
        (b"RSA-PSS+SHA256", [_RSA]),
        (b"ECDSA+SHA256", [_P256]),
        (b"ECDSA+SHA384", [_P384]),
        (b"ed25519", []),
        (b"RSA+SHA512:ECDSA+SHA256", [_RSA, _P256]),
    ],
)
def test_a_hello_says_which_cas_it_verifies(schemes: bytes, keys: list[object]) -> None:
    """By signature_algorithms, and the curve that goes with each hash."""
    offered = certificate_schemes(_offering(schemes))
    assert [one for one in (_RSA, _P256, _P384) if can_verify(offered, one)] == keys


def test_what_is_said_of_certificates_counts_before_what_is_said_of_handshakes() -> None:
    """signature_algorithms_cert (RFC 8446 section 4.2.3) is for them alone; who sends neither verifies RSA."""
    body = b"\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0"
    handshakes, certificates = b"\0\x0d\0\4\0\2\4\3", b"\0\x32\0\4\0\2\4\1"
    both = ClientHello(body + b"\0\x10" + handshakes + certificates)
    assert [can_verify(certificate_schemes(both), one) for one in (_RSA, _P256)] == [True, False]
    assert [can_verify(certificate_schemes(ClientHello(body)), one) for one in (_RSA, _P256)] == [True, False]
