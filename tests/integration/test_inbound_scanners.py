"""What TLS scanners say of our own sites: nothing that a careful operator would not want.

testssl.sh takes the better part of a minute, most of it shell: its scans run beside sslscan's.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.integration.scanners import (
    Finding,
    Target,
    sslscan,
    sslscan_objections,
    testssl,
    testssl_objections,
)
from tests.waiting import wait_until

EXCEPTIONS = {
    "engine_problem": "the scanner's own OpenSSL has no GOST engine; its checks use sockets of its own",
    "sessionresumption_ticket": "its client may leave before the tickets of TLS 1.3 come; resumption has its own test",
    "cert_revocation": "the throw-away CA of these tests publishes neither CRL nor OCSP; a real site's CA does",
}
CHECKED = (
    "SSLv2", "SSLv3", "TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT", "cipherlist_LOW",
    "cipherlist_3DES_IDEA", "cipher_order", "cert_signatureAlgorithm", "cert_keySize", "cert_trust",
    "cert_chain_of_trust", "cert_expirationStatus", "TLS_session_ticket", "TLS_timestamp", "heartbleed", "CCS",
    "ticketbleed", "ROBOT", "secure_renego", "secure_client_renego", "CRIME_TLS", "POODLE_SSL", "fallback_SCSV",
    "SWEET32", "FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4",
)  # fmt: skip
"""A scanner that could not connect finds nothing either."""


class Scanned:
    """Two running sites: one with the defaults, and one whose operator turned on RSA key exchange."""

    def __init__(self, directory: Path, plain: int) -> None:
        self.directory = directory
        self.system = InboundSystem.make_inbound(directory, workers="1")
        self.system.generate(shop_rsa="rsa-2048", shop_ec="p256")
        self.system.import_key("old", rsa.generate_private_key(public_exponent=65537, key_size=2048))
        behind = f"http://127.0.0.1:{plain}"
        # The scanner complains of certificates that end within 60 days, as the other tests' do.
        files = ["shop_ec.pem", "shop_rsa.pem"]
        for file in files:
            self.system.certify(file, file.removesuffix(".pem"), ["shop.example.com"], days=90)
        self.system.listener()
        # The default: testssl.sh looks for secure renegotiation without naming the site.
        self.system.site(
            "shop.example.com", keys=["shop_ec", "shop_rsa"], certificates=files, upstream=behind, default=True
        )
        self.system.listener()
        self.system.site("old.example.com", keys=["old"], upstream=behind, rsa_key_exchange=True)
        self.shop = Target("shop.example.com", self.system.ports[0], self.system.root)
        self.old = Target("old.example.com", self.system.ports[1], self.system.root)


@pytest.fixture(scope="module")
def scanned(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanned]:
    """The sites, running."""
    with plain_origin() as plain:
        made = Scanned(tmp_path_factory.mktemp("scanned"), plain)
        with made.system:
            workers = made.system.worker_pids()
            yield made
            assert made.system.worker_pids() == workers


Findings = Future[list[Finding]]


@pytest.fixture(scope="module")
def attacks(scanned: Scanned) -> Iterator[tuple[Findings, Findings]]:
    """testssl.sh against both sites; what it says of HTTP headers would be the origin's doing."""
    whole = ("--protocols", "--std", "--server-defaults", "--server-preference", "--vulnerable")
    with ThreadPoolExecutor(2) as pool:
        yield (
            pool.submit(testssl, scanned.shop, scanned.directory, *whole),
            pool.submit(testssl, scanned.old, scanned.directory, "--robot"),
        )


def test_sslscan_finds_nothing(scanned: Scanned, attacks: object) -> None:
    """A site with an RSA and a P-256 key and the default settings speaks TLS 1.2 and 1.3, with forward secrecy and AEAD
    ciphers alone, and no SHA-1."""
    found = sslscan(scanned.shop)
    assert sslscan_objections(found) == []
    assert {one.get("version") for one in found.iter("protocol") if one.get("enabled") == "1"} == {"1.2", "1.3"}
    assert {one.get("cipher", "").partition("-AES")[0].partition("-CHACHA20")[0] for one in found.iter("cipher")} == {
        "TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA", "ECDHE-RSA", "DHE-RSA",
    }  # fmt: skip
    assert {one.get("name") for one in found.iter("group")} >= {"x25519", "secp256r1 (NIST P-256)"}


def test_sslscan_finds_rsa_key_exchange(scanned: Scanned, attacks: object) -> None:
    """A site that was told to accept RSA key exchange is reported for exactly that: the scan sees what is there."""
    why = "no forward secrecy, or nobody proves who it is"
    assert sslscan_objections(sslscan(scanned.old)) == [
        f"cipher {one}: {why}" for one in ("AES256-GCM-SHA384", "AES128-GCM-SHA256")
    ]


def test_testssl_finds_nothing(attacks: tuple[Findings, Findings]) -> None:
    """A site with the default settings is open to no attack that has a name, and has no default worth a complaint."""
    findings = attacks[0].result()
    assert testssl_objections(findings, EXCEPTIONS, CHECKED) == []
    assert {one.text for one in findings if one.identifier == "cert_numbers"} == {"2"}, "the RSA and the EC key"
    (robot,) = [one.text for one in findings if one.identifier == "ROBOT"]
    assert "no RSA key transport cipher" in robot


def test_rsa_key_exchange_is_no_oracle(attacks: tuple[Findings, Findings]) -> None:
    """A site with RSA key exchange does not tell an attacker which ciphertexts were padded correctly (ROBOT)."""
    findings = attacks[1].result()
    assert testssl_objections(findings, EXCEPTIONS, ["ROBOT"]) == []
    assert [one.text for one in findings if one.identifier == "ROBOT"] == ["not vulnerable"], "it was tried"


def test_testssl_finds_old_versions(scanned: Scanned, tmp_path: Path) -> None:
    """A server of another kind that speaks TLS 1.0 is complained of: the scan sees what is there."""
    certificate = tmp_path / "weak.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=weak.example.com",
         "-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    said = tmp_path / "server.log"
    with said.open("wb") as log:
        server = subprocess.Popen(
            ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(certificate), "-www",
             "-key", str(certificate.with_suffix(".key")), "-cipher", "ALL:@SECLEVEL=0", "-min_protocol", "TLSv1"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:

        def port() -> int:
            found = re.search(r"ACCEPT 127\.0\.0\.1:(\d+)", said.read_text())
            return int(found[1]) if found else 0

        weak = Target("weak.example.com", wait_until(port, "openssl listens"), scanned.system.root)
        findings = testssl(weak, tmp_path, "--protocols")
    finally:
        server.kill()
        server.wait(10)
    objections = testssl_objections(findings, EXCEPTIONS, CHECKED[:4])
    assert [one.partition(" ")[0] for one in objections] == ["TLS1:", "TLS1_1:"], objections
