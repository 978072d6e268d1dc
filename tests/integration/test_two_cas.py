"""Clients that verify RSA signatures alone, or ECDSA alone: what check says of them, and what the log. That each is
served where there is a CA of each sort: tests/exchanges/test_tls.py."""

from __future__ import annotations

import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.demo.origin import OriginCA
from tests.addons.edge.hellos import built
from tests.integration.harness import HSMITM, OriginThread, System
from tests.integration.test_forward import tunnel
from tests.integration.two_cas import with_rsa_ca


@pytest.fixture(scope="module")
def two(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> System:
    """A proxy with an EC CA, as `hsmitm init` makes it, and an RSA CA behind it. It does not run."""
    made = System.make(tmp_path_factory.mktemp("two") / "s", upstream_ca=origin_ca.pem, workers="1")
    with_rsa_ca(made)
    return made


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
