"""A throw-away CA that answers OCSP, well and badly, and an HTTP responder on loopback that gives its answers."""

from __future__ import annotations

import datetime as dt
import functools
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
HOUR = dt.timedelta(hours=1)
OCSP_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
_CA_USAGE = x509.KeyUsage(True, False, False, False, False, True, True, False, False)

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@functools.cache
def private_key(name: str) -> Private:
    """One key for each name: "rsa", "ed25519", or a P-256 key for any other; "p384..." are P-384."""
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, 2048)
    if name.startswith("ed25519"):
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP384R1() if name.startswith("p384") else ec.SECP256R1())


def common_name(name: str) -> x509.Name:
    """CN=name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def der(certificate: x509.Certificate) -> bytes:
    """Its bytes."""
    return certificate.public_bytes(Encoding.DER)


def _hash_for(key: Private) -> hashes.HashAlgorithm | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


@dataclass
class Authority:
    """A CA."""

    key: Private = field(default_factory=lambda: private_key("authority"))
    name: str = "test CA"

    def __post_init__(self) -> None:
        self.certificate = self.certify(self.name, self.key, extensions=[x509.BasicConstraints(True, None), _CA_USAGE])

    def certify(
        self,
        name: str,
        key: Private,
        *,
        serial: int | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
        start: dt.datetime = NOW - 24 * HOUR,
        end: dt.datetime = NOW + 24 * 90 * HOUR,
        digest: hashes.HashAlgorithm | None = None,
    ) -> x509.Certificate:
        """A certificate."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(common_name(self.name))
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        for extension in (issuer, subject, *extensions):
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, digest or _hash_for(self.key))  # type: ignore[arg-type]

    def leaf(
        self,
        *urls: str,
        key: Private | None = None,
        lists: Sequence[str] = (),
        issuers: Sequence[str] = (),
        **more: Any,
    ) -> x509.Certificate:
        """A site's certificate that names responders, CRLs, and where its issuer's certificate is; `more` is as for
        `certify`."""
        places = [(AuthorityInformationAccessOID.OCSP, url) for url in urls]
        places += [(AuthorityInformationAccessOID.CA_ISSUERS, url) for url in issuers]
        access = [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in places]
        points = [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in lists]
        extensions: list[x509.ExtensionType] = [
            *([x509.AuthorityInformationAccess(access)] if access else []),
            *([x509.CRLDistributionPoints(points)] if points else []),
            *more.pop("extensions", []),
        ]
        name = more.pop("name", "shop.example.com")
        return self.certify(name, key or private_key("leaf"), extensions=extensions, **more)

    def list_revoked(
        self,
        *serials: int,
        this_update: dt.datetime = NOW - HOUR,
        next_update: dt.datetime = NOW + 24 * HOUR,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        issuer: str = "",
        key: Private | None = None,
        digest: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """A CRL, DER, with these serial numbers; `extensions` are told with whether they are critical."""
        builder = x509.CertificateRevocationListBuilder(common_name(issuer or self.name), this_update, next_update)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update).build()
            builder = builder.add_revoked_certificate(entry)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        signer = key or self.key
        return builder.sign(signer, digest or _hash_for(signer)).public_bytes(Encoding.DER)  # type: ignore[arg-type]

    def delegate(
        self, *, extensions: Sequence[x509.ExtensionType] = (OCSP_SIGNING,), **more: Any
    ) -> tuple[x509.Certificate, Private]:
        """A responder's certificate with its key, for `respond(signer=...)`; `more` is as for `certify`."""
        key = private_key("delegate")
        return self.certify("responder", key, extensions=extensions, **more), key

    def respond(
        self,
        leaf: x509.Certificate,
        *,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        this_update: dt.datetime = NOW - HOUR,
        next_update: dt.datetime | None = NOW + 24 * HOUR,
        signer: tuple[x509.Certificate, Private] | None = None,
        enclosed: Sequence[x509.Certificate] | None = None,
        identity: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH,
        certificate_id: hashes.HashAlgorithm | None = None,
        signature: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """A response, DER. A `signer` other than the CA is enclosed unless `enclosed` says what is."""
        certificate, key = signer or (self.certificate, self.key)
        revoked = this_update if status is ocsp.OCSPCertStatus.REVOKED else None
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=leaf,
            issuer=self.certificate,
            algorithm=certificate_id or hashes.SHA1(),
            cert_status=status,
            this_update=this_update,
            next_update=next_update,
            revocation_time=revoked,
            revocation_reason=None,
        )
        builder = builder.responder_id(identity, certificate)
        if enclosed is None and signer is not None:
            enclosed = [certificate]
        if enclosed:
            builder = builder.certificates(list(enclosed))
        made = builder.sign(key, signature or _hash_for(key))  # type: ignore[arg-type]
        return made.public_bytes(Encoding.DER)

    def respond_by_openssl(self, directory: Path, leaves: Sequence[x509.Certificate], *more: str) -> bytes:
        """A response by the openssl command, which signs as cryptography does not: `more` are its options."""
        paths = {name: directory / name for name in ("ca.pem", "key.pem", "index", "request", "response")}
        paths["ca.pem"].write_bytes(self.certificate.public_bytes(Encoding.PEM))
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        paths["key.pem"].write_bytes(key)
        serials = [f"{leaf.serial_number:x}".upper() for leaf in leaves]
        serials = [serial.zfill(len(serial) + len(serial) % 2) for serial in serials]
        paths["index"].write_text("".join(f"V\t401122000000Z\t\t{one}\tunknown\t/CN={one}\n" for one in serials))
        asked = [word for one in serials for word in ("-serial", f"0x{one}")]
        common = ["openssl", "ocsp", "-no_nonce"]
        ask = [*common, "-issuer", str(paths["ca.pem"]), *asked, "-reqout", str(paths["request"])]
        answer = [*common, "-index", str(paths["index"]), "-CA", str(paths["ca.pem"]), "-rsigner", str(paths["ca.pem"])]
        answer += ["-rkey", str(paths["key.pem"]), "-reqin", str(paths["request"]), "-respout", str(paths["response"])]
        for command in (ask, [*answer, "-ndays", "2", *more]):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
            assert done.returncode == 0, done.stderr
        return paths["response"].read_bytes()


def unsuccessful(status: ocsp.OCSPResponseStatus) -> bytes:
    """A response without a status of a certificate, DER."""
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


@dataclass
class Responder:
    """An HTTP server on loopback. `answer` may be replaced while it runs."""

    url: str
    answer: Callable[[BaseHTTPRequestHandler], None]
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers (names in small letters) and body of each request."""


def respond_with(body: bytes, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer for `Responder`."""

    def answer(http: BaseHTTPRequestHandler) -> None:
        http.send_response(status)
        http.send_header("Content-Type", "application/ocsp-response")
        http.send_header("Content-Length", str(len(body)))
        http.end_headers()
        http.wfile.write(body)

    return answer


@contextmanager
def responding() -> Iterator[Responder]:
    """A responder until the end; it says "try later" until it is told otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            responder.asked.append((self.path, headers, body))
            responder.answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has gone is no news."""

    with Server(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/ocsp"
        responder = Responder(url, respond_with(unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield responder
        finally:
            server.shutdown()
            thread.join()
