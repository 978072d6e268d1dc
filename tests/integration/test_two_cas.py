"""Clients that verify RSA signatures alone, or ECDSA alone: served where there is a CA of each sort."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.wire.member import KeyFound
from proxy.demo.origin import OriginCA
from tests.addons.edge.hellos import built
from tests.cas import make_ca
from tests.hsm.restricted import place_key
from tests.integration.harness import HSMITM, OriginThread, System
from tests.integration.test_forward import tunnel
from tests.softhsm import Store


@pytest.fixture(scope="module")
def two(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxy with an EC CA, as `hsmitm init` makes it, and an RSA CA behind it on the same partition."""
    made = System.make(tmp_path_factory.mktemp("two") / "s", upstream_ca=origin_ca.pem, workers="1")
    (member,) = made.config.members()
    secret = (made.directory / "pin").read_text().strip()
    public = place_key(member.environment, "hsmitm", secret, "old", "rsa")
    store = Store(
        made.directory,
        "hsmitm",
        {"old": KeyFound(spki=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))},
    )
    ca = asyncio.run(make_ca(store, "old", made.directory, pin=secret))
    text = made.toml.read_text().replace("[forward.trust]", "[[forward.trust]]")
    more = f'[[forward.trust]]\ncertificate = "{ca.name}"\nkey = "pkcs11:token=hsmitm;object=old;type=private"\n\n'
    made.toml.write_text(text.replace("[forward.untrust]", more + "[forward.untrust]"))
    with made as system:
        yield system


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("schemes", "issuer"),
    [
        ("RSA+SHA256:RSA-PSS+SHA256", "old CA"),
        ("ECDSA+SHA256", "hsmitm forward trust CA"),
        ("ECDSA+SHA256:RSA+SHA256:RSA-PSS+SHA256", "hsmitm forward trust CA"),
    ],
)
def test_each_client_gets_what_it_verifies(
    two: System, origin: OriginThread, version: str, schemes: str, issuer: str
) -> None:
    """OpenSSL's client with these schemes gets a leaf that verifies, of the first CA that it can verify."""
    cas = two.directory / "both.pem"
    cas.write_bytes(two.ca.read_bytes() + (two.directory / "old-ca.pem").read_bytes())
    done = subprocess.run(
        ["openssl", "s_client", "-proxy", two.proxy, "-connect", f"two.test:{origin.port}", "-servername", "two.test",
         "-verify_hostname", "two.test", "-CAfile", str(cas), "-verify_return_error", "-sigalgs", schemes, version],
        input="", capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(rf"issuer=.*CN ?= ?{issuer}", done.stdout), done.stdout


def _checked(system: System) -> str:
    done = subprocess.run(
        [*HSMITM, "check", "--config", str(system.toml)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_check_says_which_clients_an_ec_ca_leaves_out(two: System, system: System) -> None:
    """With an EC CA alone it warns; with an RSA CA beside it there is nothing to warn of."""
    assert "WARN   forward.trust: an EC CA alone. Clients that verify no ECDSA get no connection" in _checked(system)
    said = _checked(two)
    assert "an EC CA alone" not in said
    assert "forward.trust[1]: 'CN=old CA' is a CA" in said


def test_a_client_that_verifies_no_ca_of_ours_is_told_apart(system: System, origin: OriginThread) -> None:
    """Its operator reads an alert, ours a class and a sentence that says what would help: no word of trust."""
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    share = b"\0\x45\0\x17\0\x41" + point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    name = b"plain-rsa.test"
    sni = (0, (len(name) + 3).to_bytes(2) + b"\0" + len(name).to_bytes(2) + name)
    rsa_alone = b"\0\4\x08\4\4\1"
    hello = built(b"\x13\1", sni, (43, b"\2\3\4"), (10, b"\0\2\0\x17"), (13, rsa_alone), (50, rsa_alone), (51, share))
    with tunnel(system, name.decode(), origin.port) as connection:
        connection.sendall(hello)
        assert connection.recv(100) == b"\x15\3\3\0\2\2\x28"  # handshake_failure (40)
    system.until_logged(
        "(no-common-signature): the client verifies no P-256 ECDSA signatures in certificates, as its ClientHello says",
        "[forward.trust] can be a list of two, with an RSA CA beside this one",
    )
