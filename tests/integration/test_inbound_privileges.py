"""Where an inbound key is, and what a worker that is taken over can have signed with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from hsm.certificates.files import inbound_name
from hsm.errors import RefusedError, TryLaterError
from hsm.wire.client import ask
from hsm.wire.member import Sign
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import CODEC, Reply, Request, TlsDecrypt, TlsSign, TlsSigned
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.integration.test_privileges import memory_holds
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    """The key of a site, which the test knows and no worker must."""
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def site(
    softhsm_module: str, private: rsa.RSAPrivateKey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InboundSystem]:
    """A site whose key was imported, one that may decrypt, and one of a key made on the partition."""
    made = InboundSystem.make_inbound(tmp_path_factory.mktemp("keys"), workers="1")
    made.import_key("brought", private)
    made.import_key("old", rsa.generate_private_key(65537, 2048))
    made.generate(ec="p256")
    with plain_origin() as port:
        upstream = f"http://127.0.0.1:{port}"
        made.listener()
        made.site("shop.example.com", keys=["brought"], upstream=upstream)
        made.site("ec.example.com", keys=["ec"], upstream=upstream)
        made.site("legacy.example.com", keys=["old"], upstream=upstream, rsa_key_exchange=True)
        with made:
            yield made


def test_the_key_is_in_no_worker(site: InboundSystem, private: rsa.RSAPrivateKey) -> None:
    """While a key that the test knows signs, its primes are in the member's memory and in no other process's."""
    numbers = private.private_numbers()
    forms = [one.to_bytes(128, order) for one in (numbers.p, numbers.q) for order in ("big", "little")]
    (member,) = site.pids("hsm.token.main")
    with _signing(site, inbound_name(site.publics["brought"])):
        # SoftHSM clears the key after each signature: one must be caught in the act.
        wait_until(lambda: any(memory_holds(member, one) for one in forms), "the search finds the key where it is", 30)
        assert site.curl("shop.example.com").returncode == 0
        assert site.process is not None
        for pid in (*site.pids("proxy.processes.worker"), *site.pids("proxy.main signer"), site.process.pid):
            assert not any(memory_holds(pid, one) for one in forms)


@contextmanager
def _signing(site: InboundSystem, key: str) -> Iterator[None]:
    """Have the key sign without pause."""
    leave = threading.Event()

    async def sign() -> None:
        while not leave.is_set():
            asked = TlsSign(key, "rsa_pss_rsae_sha256", bytes(32))
            await ask(site.config.run.socket(WORKER_SOCKET), CODEC, asked, 5)

    async def several() -> None:
        await asyncio.gather(*(sign() for _ in range(8)))

    thread = threading.Thread(target=lambda: asyncio.run(several()))
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join(20)


def _ask(site: InboundSystem, body: Request) -> Reply:
    return asyncio.run(ask(site.config.run.socket(WORKER_SOCKET), CODEC, body, 5))


def test_a_worker_gets_what_the_sites_key_may_sign_and_no_more(site: InboundSystem) -> None:
    """A worker that asks for a CA's key, for another scheme, for a digest of another size or for a decryption that no
    site turned on is refused; the log and a counter tell."""
    shop, ec = inbound_name(site.publics["brought"]), inbound_name(site.publics["ec"])
    good = TlsSign(shop, "rsa_pss_rsae_sha256", bytes(32))
    assert isinstance(_ask(site, good), TlsSigned)
    before = site.status().counters["refused_requests"]
    asked: list[Any] = [
        TlsSign("trust", "ecdsa_secp256r1_sha256", bytes(32)),
        TlsSign("inbound-0", "rsa_pss_rsae_sha256", bytes(32)),
        TlsSign(shop, "ecdsa_secp256r1_sha256", bytes(32)),
        TlsSign(shop, "rsa_pkcs1_sha1", bytes(20)),
        TlsSign(shop, "rsa_pss_rsae_sha256", bytes(48)),
        TlsSign(ec, "ecdsa_secp384r1_sha384", bytes(48)),
        TlsDecrypt(shop, bytes(256)),
        TlsDecrypt(ec, bytes(256)),
        TlsDecrypt(inbound_name(site.publics["old"]), bytes(255)),
    ]
    for body in asked:
        with pytest.raises(RefusedError):
            _ask(site, body)
    asked.append(Sign(shop, "rsa_pss_rsae_sha256", bytes(32)))  # no word of a worker's: the connection ends
    with pytest.raises(TryLaterError, match="closed the connection"):
        _ask(site, asked[-1])
    assert isinstance(_ask(site, good), TlsSigned)
    assert site.status().counters["refused_requests"] == before + len(asked)
    site.until_logged("refused", times=len(asked))


def test_rsa_key_exchange_only_where_a_site_turns_it_on(site: InboundSystem) -> None:
    """A client that can nothing but RSA key exchange is served by the site that says so, and by no other."""
    old = ("--tls-max", "1.2", "--ciphers", "AES128-GCM-SHA256:@SECLEVEL=0")
    assert site.curl("legacy.example.com", "/", *old).returncode == 0
    assert site.curl("shop.example.com", "/", *old).returncode == 35
