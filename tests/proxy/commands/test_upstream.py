"""`hsmitm upstream pin`: what is wrong with a server's certificate, and the table that accepts it."""

from __future__ import annotations

import json
import socket
import ssl
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from addons.upstream.judge import spki_sha256
from proxy.main import app
from tests.addons.upstream.faulty import NOW, ROOT, Shown, shown

HOST = "localhost"
_DOMAIN = "\nhost = 'evil'\n\x1b[31m"


@contextmanager
def serving(server: Shown, directory: Path) -> Iterator[int]:
    """A real TLS server."""
    (directory / "server.pem").write_bytes(server.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(directory / "server.pem")

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection = listening.accept()[0]
                with suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        pool.submit(serve)
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a root of its own."""
    (tmp_path / "roots.pem").write_bytes(ROOT.pem)
    (tmp_path / "hsmitm.toml").write_text('[proxy]\nupstream_ca = "roots.pem"\n')
    return tmp_path / "hsmitm.toml"


def _pin(config: Path, server: Shown, *options: str) -> tuple[int, str]:
    with serving(server, config.parent) as port:
        done = CliRunner().invoke(app, ["upstream", "pin", f"{HOST}:{port}", "--config", str(config), *options])
    return done.exit_code, done.output


def test_a_broken_certificate_is_shown_with_its_table(config: Path) -> None:
    """What is wrong stands in comments above the table: the whole can be appended to hsmitm.toml."""
    server = shown("self-signed", HOST)
    status, said = _pin(config, server, "--reason", 'CHG-1 "NAS"', "--days", "7")
    assert status == 0, said
    assert "# Wrong: its certificate is self-signed." in said
    (table,) = tomllib.loads(said)["upstream"]["accept"]
    assert table == {
        "host": HOST, "spki_sha256": spki_sha256(server.chain[0]), "reason": 'CHG-1 "NAS"',
        "expires": datetime.now(UTC).date() + timedelta(days=7),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "words"), [("expired", "has expired"), ("RSA-1024", "a weak key"), ("wrong name", "is for other names")]
)
def test_each_fault_is_named(config: Path, fault: str, words: str) -> None:
    """Also those that OpenSSL does not mind."""
    assert f"# Wrong: its certificate {words}" in _pin(config, shown(fault, HOST))[1].replace(" has a weak", " a weak")


def test_a_good_certificate_needs_no_table(config: Path) -> None:
    """Where nothing is wrong there is nothing to accept."""
    status, said = _pin(config, shown("", HOST))
    assert status == 0
    assert "Nothing is wrong with it" in said
    assert tomllib.loads(said) == {}


def test_programs_read_json(config: Path) -> None:
    """The same for programs."""
    found = json.loads(_pin(config, shown("expired", HOST), "--json")[1])
    assert found["host"] == HOST
    assert found["wrong"][0].startswith("its certificate has expired")
    assert len(found["spki_sha256"]) == 64


def test_a_server_cannot_write_into_the_configuration(config: Path) -> None:
    """Line ends and control characters of a certificate's names are shown, and do nothing."""
    server = shown("self-signed", HOST)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _DOMAIN)])
    builder = x509.CertificateBuilder(name, name, server.key.public_key(), 1, NOW, NOW + timedelta(days=1))
    server.chain[0] = builder.sign(server.key, hashes.SHA256())
    status, said = _pin(config, server)
    assert status == 0, said
    assert "\x1b" not in said
    assert tomllib.loads(said)["upstream"]["accept"][0]["host"] == HOST
    assert set(tomllib.loads(said)) == {"upstream"}


@pytest.mark.parametrize("server", ["nas:0", "nas:http", "-:443"])
def test_a_server_that_is_none_is_refused(config: Path, server: str) -> None:
    """With a sentence that says how to write it."""
    done = CliRunner().invoke(app, ["upstream", "pin", "--config", str(config), "--", server])
    assert done.exit_code != 0
    assert "write a host, or a host and a port" in str(done.exception)


def test_a_server_that_is_not_there_is_told(config: Path) -> None:
    """One sentence, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = CliRunner().invoke(app, ["upstream", "pin", f"{HOST}:{port}", "--config", str(config)])
    assert f"no connection to {HOST}:{port}" in str(done.exception)
