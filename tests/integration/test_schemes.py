"""Keys whose partition forbids some schemes, as an operator and real clients meet them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.rig.quirks_module import QuirksModule
from hsm.schemes import SCHEMES
from hsm.wire.member import KeyFound
from proxy.demo.origin import OriginCA
from tests.cas import make_ca
from tests.hsm.restricted import RSA_PKCS, RSA_PSS, SHA256_RSA_PSS, place_key
from tests.integration.harness import HSMITM, OriginThread, hsmitm
from tests.integration.inbound_clients import CLIENTS, RefusedError, Tls, Wanted, s_client
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.softhsm import MODULE, Store, make_store
from tests.waiting import wait_until


def place(system: InboundSystem, label: str, *allowed: int) -> None:
    """An RSA key on the system's partition that may use these mechanisms."""
    (member,) = system.config.members()
    pin = (system.directory / "pin").read_text().strip()
    system.publics[label] = place_key(member.environment, "hsmitm", pin, label, "rsa", allowed)


@pytest.fixture(scope="module")
def plain() -> Iterator[int]:
    """A server without TLS."""
    with plain_origin() as port:
        yield port


def only(directory: Path, plain: int, label: str, *allowed: int, **listener: object) -> InboundSystem:
    """A system with one site, whose key may use these mechanisms."""
    made = InboundSystem.make_inbound(directory, workers="1")
    place(made, label, *allowed)
    made.listener(**listener)
    made.site(f"{label}.example.com", keys=[label], upstream=f"http://127.0.0.1:{plain}")
    return made


def checked(system: InboundSystem) -> subprocess.CompletedProcess[str]:
    """What `hsmitm check` says."""
    return subprocess.run(
        [*HSMITM, "check", "--config", str(system.toml)], capture_output=True, text=True, timeout=60, check=False
    )


def status(system: InboundSystem, *command: str) -> str:
    """What a command shows of the running system."""
    return subprocess.run(
        [*HSMITM, *command, "--config", str(system.toml)], capture_output=True, text=True, timeout=30, check=True,
        env=os.environ | {"COLUMNS": "300"},
    ).stdout  # fmt: skip


def seen(system: InboundSystem, name: str, client: str, tls: Tls) -> str:
    """The TLS version in which a client that speaks `tls` alone got its page; "refused" where it did not."""
    try:
        found = CLIENTS[client](Wanted(name, system.port, system.root, tls))
    except RefusedError:
        return "refused"
    assert "/page" in found.body
    return found.tls


@pytest.fixture(scope="module")
def old(softhsm_module: str, plain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InboundSystem]:
    """A site whose key signs PKCS#1 v1.5 alone, which TLS 1.3 does not have."""
    with only(tmp_path_factory.mktemp("old") / "s", plain, "old", RSA_PKCS) as made:
        yield made


@pytest.fixture(scope="module")
def new(softhsm_module: str, plain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InboundSystem]:
    """A site whose key signs RSA-PSS alone."""
    with only(tmp_path_factory.mktemp("new") / "s", plain, "new", RSA_PSS) as made:
        yield made


@pytest.mark.parametrize("client", CLIENTS)
def test_a_key_for_pkcs1_alone(old: InboundSystem, client: str) -> None:
    """Every client gets TLS 1.2 of a site whose token makes no RSA-PSS; one that wants TLS 1.3 alone is refused."""
    assert seen(old, "old.example.com", client, "TLSv1.2") == "TLSv1.2"
    assert seen(old, "old.example.com", client, "TLSv1.3") == "refused"


def test_a_client_that_speaks_both_falls_to_tls_1_2(old: InboundSystem) -> None:
    """A client that offers TLS 1.3 and 1.2, as all do, is served with TLS 1.2, and takes it for no attack."""
    reply = old.curl("old.example.com", "/page", "--verbose")
    assert reply.returncode == 0, reply.stderr
    assert "SSL connection using TLSv1.2" in reply.stderr
    assert "Traceback" not in old.log


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
def test_a_key_for_pss_alone(new: InboundSystem, client: str, tls: Tls) -> None:
    """A key that makes RSA-PSS alone serves TLS 1.3 and TLS 1.2."""
    assert seen(new, "new.example.com", client, tls) == tls


def test_a_client_of_tls_1_2_without_pss(new: InboundSystem) -> None:
    """A TLS 1.2 client that knows no RSA-PSS is refused by a key that makes nothing else, before the HSM is asked."""
    wanted = Wanted("new.example.com", new.port, new.root, "TLSv1.2")
    assert "HTTP/1.1 200" in s_client(wanted, "-sigalgs", "RSA-PSS+SHA256:RSA+SHA256").stdout
    refused = s_client(wanted, "-sigalgs", "RSA+SHA256:RSA+SHA512")
    assert "alert handshake failure" in refused.stderr


def test_check_says_what_a_key_for_pkcs1_means(old: InboundSystem) -> None:
    """`hsmitm check` says what the token forbids, what that costs, and what to do; it is no fault."""
    done = checked(old)
    assert done.returncode == 0, done.stdout
    assert (
        "WARN   key of old.example.com: TLS 1.3 needs RSA-PSS, which this token does not make: use an EC key; with "
        "this one clients get TLS 1.2" in done.stdout
    )
    assert (
        "makes no rsa_pss_rsae_sha256, 384 and 512: it did not sign a challenge: CKR_MECHANISM_INVALID" in done.stdout
    )


def test_check_says_what_a_key_for_pss_means(new: InboundSystem) -> None:
    """`hsmitm check` says which clients a key for RSA-PSS alone does not serve."""
    done = checked(new)
    assert done.returncode == 0, done.stdout
    assert (
        "WARN   key of new.example.com: TLS 1.2 clients that do not know RSA-PSS are refused: this token does not make "
        "PKCS#1 v1.5 signatures with it" in done.stdout
    )
    assert "TLS 1.3 needs" not in done.stdout


def test_the_status_shows_what_is_lacking(old: InboundSystem) -> None:
    """`hsmitm status` and `hsmitm hsm status` show the schemes that a member does not make, and why."""
    for command in (["status"], ["hsm", "status"]):
        assert (
            "makes no rsa_pss_rsae_sha256, 384 and 512 with key of old.example.com: it did not sign a challenge: "
            "CKR_MECHANISM_INVALID (0x70) while signing" in status(old, *command)
        )


def test_tls_1_3_that_no_client_can_have(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """A listener for TLS 1.3 alone with a key that cannot sign it is wrong, and `hsmitm check` says so."""
    done = checked(only(tmp_path / "s", plain, "old", RSA_PKCS, minimum_version="TLS1.3"))
    assert done.returncode == 78
    assert (
        "WRONG  key of old.example.com: TLS 1.3 needs RSA-PSS, which this token does not make: use an EC key, or set "
        "minimum_version to TLS1.2: no client is served as it is" in done.stdout
    )


def test_a_token_that_hashes_itself(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """A site's key that signs messages and no digests cannot serve TLS; `hsmitm check` says that this is why."""
    done = checked(only(tmp_path / "s", plain, "whole", SHA256_RSA_PSS))
    assert done.returncode == 78
    assert "only where it hashes the message itself (CKR_MECHANISM_INVALID (0x70)), and a TLS server has" in done.stdout


def test_a_ca_for_pss_alone(softhsm_module: str, origin: OriginThread, origin_ca: OriginCA, tmp_path: Path) -> None:
    """A forward CA whose key makes RSA-PSS alone signs leaves that clients verify, and `hsmitm check` says which
    clients may not."""
    made = InboundSystem.make_inbound(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1")
    place(made, "pss", RSA_PSS)
    (member,) = made.config.members()
    spki = made.publics["pss"].public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    store = Store(made.directory, "hsmitm", {"pss": KeyFound(spki=spki)})
    assert member.environment["SOFTHSM2_CONF"] == store.environment["SOFTHSM2_CONF"]
    secret = (made.directory / "pin").read_text().strip()
    path = asyncio.run(make_ca(store, "pss", made.directory, scheme=SCHEMES["rsa_pss_rsae_sha256"], pin=secret))
    text = made.toml.read_text()
    text = text.replace("object=hsmitm-forward-trust", "object=pss")
    made.toml.write_text(text.replace("forward-trust.pem", path.name))
    done = checked(made)
    assert done.returncode == 0, done.stdout
    assert (
        "WARN   forward-trust key: leaves are signed in rsa_pss_rsae_sha256, because this token does not make "
        "rsa_pkcs1_sha256; TLS 1.2 clients that do not know RSA-PSS refuse them" in done.stdout
    )
    with made:
        (listener,) = made.status().listeners
        reply = subprocess.run(
            ["curl", "--silent", "--show-error", "--proxy", f"http://{listener.address}", "--cacert", str(path),
             f"https://localhost:{origin.port}/x"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert "says hello over TLS" in reply.stdout, reply.stderr
        shown = subprocess.run(
            ["openssl", "s_client", "-proxy", listener.address, "-connect", f"localhost:{origin.port}"],
            input="", capture_output=True, text=True, timeout=30, check=False,
        ).stdout  # fmt: skip
        pem = shown[shown.index("-----BEGIN CERTIFICATE") : shown.index("-----END CERTIFICATE")]
        leaf = x509.load_pem_x509_certificate(f"{pem}-----END CERTIFICATE-----\n".encode())
        assert isinstance(leaf.signature_algorithm_parameters, padding.PSS)


def test_a_policy_that_comes_while_we_run(softhsm_module: str, plain: int, tmp_path: Path) -> None:
    """When a policy forbids RSA-PSS while hsmitm runs, new clients get TLS 1.2 within seconds; `hsmitm hsm reset`, once
    the policy is gone, brings TLS 1.3 back. No process is started again for it."""
    made = InboundSystem.make_inbound(tmp_path / "s", workers="1")
    place(made, "shop")
    module = QuirksModule(tmp_path / "quirks")
    (member,) = made.config.members()
    environment = member.environment | module.environment(MODULE)
    pairs = ", ".join(f'{name} = "{value}"' for name, value in environment.items())
    made.edit(module=f'"{module.path}"', environment=f"{{ {pairs} }}", keep_alive_s="0.5")
    made.listener(tickets=False)
    made.site("shop.example.com", keys=["shop"], upstream=f"http://127.0.0.1:{plain}")

    def version() -> str:
        reply = made.curl("shop.example.com", "/page", "--verbose")
        found = re.search(r"SSL connection using (\S+)", reply.stderr)
        return found[1] if found and reply.returncode == 0 else ""

    with made:
        assert version() == "TLSv1.3"
        with module.quirk("forbid C_SignInit CKM_RSA_PKCS_PSS 0x70"):
            wait_until(lambda: version() == "TLSv1.2", "clients fall to TLS 1.2", 15)
            assert "makes no rsa_pss_rsae_sha256" in status(made, "hsm", "status")
        status(made, "hsm", "reset")
        wait_until(lambda: version() == "TLSv1.3", "clients have TLS 1.3 again", 15)
        (told,) = made.status().members
        assert told.state == "up"
        assert "Traceback" not in made.log


@pytest.mark.parametrize(
    ("forbidden", "pss"),
    [(["CKM_RSA_PKCS"], False), ([f"CKM_{one}RSA_PKCS" for one in ("", "SHA256_", "SHA384_", "SHA512_")], True)],
    ids=["no digests", "no PKCS#1"],
)
def test_init_on_a_token_with_a_policy(softhsm_module: str, tmp_path: Path, forbidden: list[str], *, pss: bool) -> None:
    """`hsmitm init` on a token that forbids what CAs usually sign with makes CAs as the token lets it, and `hsmitm
    check` finds them right."""
    store = asyncio.run(make_store(tmp_path / "hsm", {}))
    module = QuirksModule(tmp_path / "quirks", *(f"forbid C_SignInit {name} 0x70" for name in forbidden))
    environment = store.environment | module.environment(MODULE)
    directory = tmp_path / "s"
    given = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
    done = hsmitm(
        "init", "--dir", str(directory), "--key-type", "rsa-2048", "--listen", "127.0.0.1:0", "--status-listen", "",
        "--yes", "--module", str(module.path), "--token", store.label, "--pin-file", str(store.pin_file), *given,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("trust", "untrust"):
        ca = x509.load_pem_x509_certificate((directory / f"forward-{name}.pem").read_bytes())
        ca.verify_directly_issued_by(ca)
        assert isinstance(ca.signature_algorithm_parameters, padding.PSS) is pss
    done = hsmitm("check", "--config", str(directory / "hsmitm.toml"))
    assert done.returncode == 0, done.stdout
    assert ("leaves are signed in rsa_pss_rsae_sha256" in done.stdout) is pss
