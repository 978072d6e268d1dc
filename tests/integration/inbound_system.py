"""`hsmitm run` in front of sites of our own, their keys on its partition, and a plain origin behind some of them.

`InboundSystem` adds listeners and sites to a System's configuration. Certificates come from a throw-away CA; private
keys are made on the partition and never leave it, but for the one that is imported because it must decrypt.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench.rig.port import free_port
from hsm.member.process import MemberProcess
from hsm.wire.member import Generate, KeyFound, KeyType, Open
from tests.integration.harness import System
from tests.softhsm import MODULE, in_s

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class SiteCA:
    """The CA of our own sites, with an intermediate as real ones have."""

    def __init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._authority("site root", self._root_key.public_key(), "site root", self._root_key)
        self.intermediate = self._authority("site CA", self._key.public_key(), "site root", self._root_key)

    @property
    def pem(self) -> str:
        """The root, for clients."""
        return self.root.public_bytes(Encoding.PEM).decode()

    def _authority(
        self, name: str, public: ec.EllipticCurvePublicKey, issuer: str, key: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            self._builder(name, public, issuer, key, days=30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )

    @staticmethod
    def _builder(
        name: str, public: PublicKey, issuer: str, key: ec.EllipticCurvePrivateKey, days: int
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    def issue(self, public: PublicKey, names: Sequence[str], *, client: bool = False, days: int = 20) -> str:
        """A chain in PEM: a certificate of `public` for `names`, then the intermediate."""
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        bits = x509.KeyUsage(True, False, isinstance(public, rsa.RSAPublicKey), *[False] * 6)
        leaf = (
            self._builder(names[0], public, "site CA", self._key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(bits, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return "".join(one.public_bytes(Encoding.PEM).decode() for one in (leaf, self.intermediate))

    def client(self, directory: Path, name: str = "client") -> Path:
        """A PEM file with a client's key and chain."""
        private = ec.generate_private_key(ec.SECP256R1())
        key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        path = directory / f"{name}.pem"
        path.write_text(key + self.issue(private.public_key(), [name], client=True))
        return path


@dataclass
class InboundSystem(System):
    """`sites` makes certificates and writes them into the configuration, before the start."""

    site_ca: SiteCA = field(default_factory=SiteCA)
    publics: dict[str, PublicKey] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    client_key: Path = Path()

    @classmethod
    def make_inbound(cls, directory: Path, upstream_ca: str = "", **edits: str) -> InboundSystem:
        """A directory with a configuration that has no sites yet."""
        made = cls(System.make(directory, upstream_ca=upstream_ca, **edits).directory)
        (made.directory / "site-root.pem").write_text(made.site_ca.pem)
        return made

    @property
    def root(self) -> Path:
        """What clients must trust."""
        return self.directory / "site-root.pem"

    @property
    def port(self) -> int:
        """Of the first listener."""
        return self.ports[0]

    def generate(self, **keys: KeyType) -> None:
        """Keys on the partition, label to type."""
        self.publics |= asyncio.run(self._generate(keys))

    async def _generate(self, keys: dict[str, KeyType]) -> dict[str, PublicKey]:
        (member,) = self.config.members()
        process = await MemberProcess.spawn(member.environment)
        try:
            secret = (self.directory / "pin").read_text().strip()
            opening = Open(member.module, member.selector, secret, 1, {}, writable=True)
            await process.channel.call(opening, in_s(20))
            made = {}
            for label, key_type in keys.items():
                found = await process.channel.call(Generate(label, key_type), in_s(60))
                assert isinstance(found, KeyFound)
                public: Any = load_der_public_key(found.spki)
                made[label] = public
        finally:
            await process.end()
        return made

    def import_key(self, label: str, private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        """A key from a file, as an operator brings an existing site's key: it may decrypt."""
        (member,) = self.config.members()
        with tempfile.NamedTemporaryFile() as file:
            file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            identifier = hashes.Hash(hashes.SHA1())
            identifier.update(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
            done = subprocess.run(
                ["softhsm2-util", "--import", file.name, "--module", MODULE, "--token", "hsmitm", "--label", label,
                 "--id", identifier.finalize().hex(), "--pin", (self.directory / "pin").read_text().strip()],
                env=member.environment | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=30,
                check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        self.publics[label] = private.public_key()

    def listener(self, **settings: Any) -> int:
        """A [[inbound]] on a free port, which is returned."""
        port = free_port()
        self._append("[[inbound]]", {"listen": f"127.0.0.1:{port}"} | settings)
        self.ports.append(port)
        return port

    def site(self, *names: str, keys: Sequence[str], certificates: Sequence[str] = (), **settings: Any) -> None:
        """A [[inbound.sites]] of the last listener, with a certificate for each of `keys` (labels)."""
        files = list(certificates)
        for label in keys[len(files) :]:
            files.append(f"{names[0].replace('*', 'any')}-{label}.pem")
            self.certify(files[-1], label, names)
        uris = [f"pkcs11:object={label};type=private" for label in keys]
        self._append("[[inbound.sites]]", {"names": list(names), "certificate": files, "key": uris} | settings)

    def certify(self, file: str, label: str, names: Sequence[str], days: int = 20) -> None:
        """Write a certificate of the key `label`."""
        (self.directory / file).write_text(self.site_ca.issue(self.publics[label], names, days=days))

    def _append(self, table: str, values: dict[str, Any]) -> None:
        lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
        self.toml.write_text("\n".join([self.toml.read_text(), table, *lines, ""]))

    def curl(self, name: str, path: str = "/", *options: str, port: int = 0) -> subprocess.CompletedProcess[str]:
        """A request to one of our sites."""
        port = port or self.port
        return subprocess.run(
            ["curl", "--silent", "--show-error", "--max-time", "30", "--cacert", str(self.root),
             "--resolve", f"{name}:{port}:127.0.0.1", *options, f"https://{name}:{port}{path}"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else str(value)


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        seen = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        answer = body if self.command == "POST" else f"{self.requestline}\n{seen}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _answer


@contextmanager
def plain_origin() -> Iterator[int]:
    """A server without TLS that answers with the request's headers, or with its body. Yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
