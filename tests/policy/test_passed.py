"""Connections that a rule bypasses, through a running hsmitm: the honest one passes byte for byte, with its server's
own certificate; the forged one does not pass, and a server whose certificate is bad is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.addons.edge.proving.showing import Showing
from tests.addons.upstream.faulty import ROOT, shown
from tests.integration.harness import System
from tests.integration.test_forward import tunnel

_RULE = """
[[policy.rules]]
name = "bank"
to = { domains = [".bank.test"] }
action = "bypass"
"""
_VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def system(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An hsmitm that bypasses the bank."""
    made = System.make(tmp_path_factory.mktemp("passed") / "s", upstream_ca=ROOT.pem.decode(), workers="1")
    with made.toml.open("a") as file:
        file.write(_RULE)
    with made as running:
        yield running


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Showing]:
    """The bank, which echoes."""
    with Showing(shown("", "www.bank.test"), tmp_path_factory.mktemp("bank")) as server:
        yield server


def _trusting(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=ROOT.pem.decode())
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT  # its test CA has no key identifiers
    if version is not None:
        made.minimum_version = made.maximum_version = version
    return made


@pytest.mark.parametrize("version", _VERSIONS)
def test_the_honest_one_passes(system: System, bank: Showing, version: ssl.TLSVersion) -> None:
    """100 MB come back as they went, the client sees the bank's own certificate, and no leaf is minted for it."""
    with tunnel(system, "www.bank.test", bank.port) as raw:
        raw.setblocking(False)
        issuer, sent, got = asyncio.run(_echoed(raw, _trusting(version), 100))
    assert issuer == ((("commonName", "a CA between"),),)
    assert got == sent


async def _echoed(raw: socket.socket, context: ssl.SSLContext, megabytes: int) -> tuple[object, bytes, bytes]:
    """Say so much while it comes back: who has signed the server's certificate, and the digests of both ways."""
    reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname="www.bank.test")
    block, sent, got = os.urandom(1 << 20), hashlib.sha256(), hashlib.sha256()

    async def say() -> None:
        for _ in range(megabytes):
            writer.write(block)
            await writer.drain()
            sent.update(block)

    talking = asyncio.create_task(say())
    left = megabytes << 20
    while left:
        data = await asyncio.wait_for(reader.read(min(left, 1 << 20)), 20)
        assert data
        got.update(data)
        left -= len(data)
    await talking
    issuer = writer.get_extra_info("peercert")["issuer"]
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return issuer, sent.digest(), got.digest()


@pytest.mark.parametrize("version", _VERSIONS)
def test_who_says_no_more_still_hears(system: System, bank: Showing, version: ssl.TLSVersion) -> None:
    """A client that ends its direction gets all of the answer to what it has said."""
    said, heard = os.urandom(1 << 18), b""
    with (
        tunnel(system, "www.bank.test", bank.port) as raw,
        _trusting(version).wrap_socket(raw, server_hostname="www.bank.test") as client,
    ):
        client.sendall(said)
        socket.socket.shutdown(client, socket.SHUT_WR)  # TCP's direction alone: an SSLSocket's own ends TLS as well
        while len(heard) < len(said) and (data := client.recv(65536)):
            heard += data
    assert heard == said


@pytest.mark.alone
def test_many_at_once(system: System, bank: Showing) -> None:
    """A thousand clients have each their own connection to the bank, all at the same time."""
    context = _trusting()

    def visit(number: int) -> ssl.SSLSocket:
        raw = tunnel(system, "www.bank.test", bank.port)
        client = context.wrap_socket(raw, server_hostname="www.bank.test")
        client.sendall(number.to_bytes(4))
        return client

    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        clients = [stack.enter_context(one) for one in pool.map(visit, range(1000))]
        assert [int.from_bytes(one.recv(4)) for one in clients] == list(range(1000))


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.2"])
def test_the_forged_one_does_not(system: System, bank: Showing, tmp_path: Path, host: str) -> None:
    """With the bank's SNI, and evil's CONNECT or address, the client gets no word from evil that nobody has read."""
    evil_shows = shown("", "evil.test")
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    at = "127.0.0.1" if host == "evil.test" else host
    with Showing(evil_shows, tmp_path, at=at) as evil, tunnel(system, host, evil.port) as raw:
        try:
            client = anybody.wrap_socket(raw, server_hostname="www.bank.test")
        except (ssl.SSLError, OSError):
            return
        with client:
            assert client.getpeercert(binary_form=True) != evil_shows.chain[0].public_bytes(Encoding.DER)


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize(("fault", "words"), [
    ("expired", "its certificate has expired"),
    ("untrusted", "its certificate was issued by a CA that is not trusted here"),
    ("wrong name", "its certificate is for other names"),
])  # fmt: skip
def test_a_bad_server_is_refused(
    system: System, tmp_path: Path, fault: str, words: str, version: ssl.TLSVersion
) -> None:
    """A rule that bypasses a site does not bypass what its certificate must be: the client is told in TLS, and the log
    says why."""
    name = f"{fault.replace(' ', '-')}-{version.name.lower().replace('_', '-')}.bank.test"
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    anybody.minimum_version = anybody.maximum_version = version
    with Showing(shown(fault, name), tmp_path, version) as server, tunnel(system, name, server.port) as raw:
        with pytest.raises(ssl.SSLError, match="access denied"):
            anybody.wrap_socket(raw, server_hostname=name)
        assert server.seen == [name]
    system.until_logged(f"{name} did not prove who it is: {words}")
