"""Real clients of our own sites, each asked for the same: one page with one TLS version over one HTTP version.

Every client verifies the site's chain itself, trusting `Wanted.root` and nothing else; what it reports of the handshake
comes from it, not from us. A client that refuses raises RefusedError with its own words.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h2.config
import h2.connection
import h2.events
import h11
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration.test_chromium import _FLAGS, certutil

Tls = Literal["TLSv1.2", "TLSv1.3"]
Http = Literal["http/1.1", "h2"]


class RefusedError(Exception):
    """The client did not go through with it. Its message is what the client said."""


@dataclass(frozen=True)
class Wanted:
    """A page of a site, and how to fetch it."""

    name: str
    port: int
    root: Path
    tls: Tls = "TLSv1.3"
    http: Http = "http/1.1"
    path: str = "/page"

    @property
    def authority(self) -> str:
        """host:port, as the client's Host header says it."""
        return f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Seen:
    """What the client saw. `alpn` is empty where no protocol was agreed upon."""

    tls: str
    alpn: str
    key: str
    body: str


Client = Callable[[Wanted], Seen]


def key_type(certificate: x509.Certificate) -> str:
    """RSA-2048, P-256, P-384."""
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    return f"{'RSA' if isinstance(key, rsa.RSAPublicKey) else 'P'}-{key.key_size}"


def pem_key_type(text: str) -> str:
    """Of the first certificate in a text."""
    return key_type(x509.load_pem_x509_certificate(re.findall(_CERTIFICATE, text, re.DOTALL)[0].encode()))


_CERTIFICATE = "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----"


def run(*command: str | Path, text_in: str = "", timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    """A program to its end, whatever that is."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        command, input=text_in, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
        env=environment,
    )  # fmt: skip


# curl (OpenSSL)


def curl(wanted: Wanted, *options: str) -> Seen:
    """curl."""
    number = wanted.tls.removeprefix("TLSv")
    done = run(
        "curl", "--silent", "--show-error", "--verbose", "--max-time", "20", "--cacert", wanted.root,
        "--resolve", f"{wanted.authority}:127.0.0.1", f"--tlsv{number}", "--tls-max", number,
        "--http2" if wanted.http == "h2" else "--http1.1", "--write-out", "\n%{http_version} %{http_code}\n%{certs}",
        *options, f"https://{wanted.authority}{wanted.path}",
    )  # fmt: skip
    if done.returncode:
        raise RefusedError("\n".join(line for line in done.stderr.splitlines() if line.startswith("curl:")))
    body, numbers, certificates = re.fullmatch(r"(.*)\n([0-9.]+ \d+)\n(.*)", done.stdout, re.DOTALL).groups()  # type: ignore[union-attr]
    assert "SSL certificate verify ok" in done.stderr
    version = re.search(r"SSL connection using (\S+)", done.stderr)
    protocol = re.search(r"ALPN: server accepted (\S+)", done.stderr)
    assert version
    alpn = protocol[1] if protocol else ""
    assert numbers == ("2 200" if alpn == "h2" else "1.1 200"), done.stderr
    return Seen(version[1], alpn, pem_key_type(certificates), body)


# gnutls-cli


def gnutls_cli(wanted: Wanted, *options: str, priority: str = "") -> Seen:
    """GnuTLS's client. It knows no HTTP of either version: the request's bytes are piped through it."""
    with tempfile.TemporaryDirectory() as directory:
        log, saved = Path(directory, "log"), Path(directory, "certificates.pem")
        version = wanted.tls.removeprefix("TLSv")
        process = subprocess.Popen(
            ["gnutls-cli", f"--x509cafile={wanted.root}", f"--sni-hostname={wanted.name}",
             f"--verify-hostname={wanted.name}", f"--port={wanted.port}", f"--alpn={wanted.http}",
             f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}{priority}", f"--save-cert={saved}", f"--logfile={log}",
             *options, "127.0.0.1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        assert process.stderr
        write, read = process.stdin.fileno(), process.stdout.fileno()
        with process:
            try:
                body = fetch(wanted, lambda data: os.write(write, data), lambda: os.read(read, 65536))
            except (BrokenPipeError, EndedError):
                body = ""
            process.stdin.close()
            assert process.wait(20) is not None
            errors = process.stderr.read().decode()
        said = log.read_text(errors="replace") + errors
        if process.returncode:
            raise RefusedError(said)
        assert "- Status: The certificate is trusted." in said
        found = re.search(r"- Description: \(TLS(1\.[23])", said)
        protocol = re.search(r"- Application protocol: (\S+)", said)
        assert found
        return Seen(f"TLSv{found[1]}", protocol[1] if protocol else "", pem_key_type(saved.read_text()), body)


# Python's ssl, with h11 and h2


def context(wanted: Wanted, *alpn: str) -> ssl.SSLContext:
    """That trusts the root alone and speaks that version alone."""
    made = ssl.create_default_context(cafile=str(wanted.root))
    made.minimum_version = made.maximum_version = ssl.TLSVersion[wanted.tls.replace(".", "_")]
    made.set_alpn_protocols(list(alpn) or [wanted.http])
    return made


@contextmanager
def connected(wanted: Wanted, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[ssl.SSLSocket]:
    """A connection to the site, verified. Cut at its end raises (`suppress_ragged_eofs`)."""
    with (
        socket.create_connection(("127.0.0.1", wanted.port), timeout=20) as plain,
        (tls or context(wanted)).wrap_socket(
            plain, server_hostname=wanted.name, suppress_ragged_eofs=False, **options
        ) as made,
    ):
        yield made


def python(wanted: Wanted) -> Seen:
    """Python's ssl module, that is OpenSSL."""
    try:
        with connected(wanted) as tls:
            body = fetch(wanted, tls.sendall, lambda: tls.recv(65536))
            return Seen(tls.version() or "", tls.selected_alpn_protocol() or "", presented(tls), body)
    except ssl.SSLError as error:
        raise RefusedError(str(error)) from error


def presented(tls: ssl.SSLSocket) -> str:
    """The key type of the server's certificate."""
    der = tls.getpeercert(binary_form=True)
    assert der
    return key_type(x509.load_der_x509_certificate(der))


class EndedError(Exception):
    """The connection ended before the answer did."""


def fetch(wanted: Wanted, send: Callable[[bytes], Any], receive: Callable[[], bytes]) -> str:
    """The page over an established connection, by the protocol that is wanted."""
    return (_fetch_http2 if wanted.http == "h2" else _fetch_http1)(wanted, send, receive)


def _fetch_http1(wanted: Wanted, send: Callable[[bytes], Any], receive: Callable[[], bytes]) -> str:
    http = h11.Connection(h11.CLIENT)
    headers = [("host", wanted.authority), ("connection", "close")]
    send(
        (http.send(h11.Request(method="GET", target=wanted.path, headers=headers)) or b"")
        + (http.send(h11.EndOfMessage()) or b"")
    )
    body = b""
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            if not (data := receive()):
                raise EndedError
            http.receive_data(data)
        elif isinstance(event, h11.Response):
            assert event.status_code == 200
        elif isinstance(event, h11.Data):
            body += event.data
    return body.decode()


def _fetch_http2(wanted: Wanted, send: Callable[[bytes], Any], receive: Callable[[], bytes]) -> str:
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    http.initiate_connection()
    headers = {":method": "GET", ":scheme": "https", ":authority": wanted.authority, ":path": wanted.path}
    http.send_headers(1, list(headers.items()), end_stream=True)
    body, ended = b"", False
    while not ended:
        send(http.data_to_send())
        if not (data := receive()):
            raise EndedError
        for event in http.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    assert (":status", "200") in event.headers  # type: ignore[comparison-overlap]
                case h2.events.DataReceived():
                    body += event.data
                    http.acknowledge_received_data(event.flow_controlled_length, 1)
                case h2.events.StreamEnded():
                    ended = True
    http.close_connection()
    send(http.data_to_send())
    return body.decode()


# openssl s_client


def s_client(wanted: Wanted, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """OpenSSL's test client, which can be told exactly what to offer; it fetches the page over HTTP/1.1."""
    version = wanted.tls.removeprefix("TLSv").replace(".", "_")
    named = [] if "-noservername" in options else ["-servername", wanted.name]
    return run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{wanted.port}", f"-tls{version}", "-CAfile", wanted.root,
        "-verify_hostname", wanted.name, "-verify_return_error", "-ign_eof", *named, *options,
        text_in=f"GET {wanted.path} HTTP/1.1\r\nHost: {wanted.authority}\r\nConnection: close\r\n\r\n",
    )  # fmt: skip


# Node

_NODE = """
const wanted = JSON.parse(process.argv[1]);
const tls = {
  ca: require("fs").readFileSync(wanted.root), servername: wanted.name, ALPNProtocols: [wanted.http],
  minVersion: wanted.tls, maxVersion: wanted.tls,
  lookup: (_name, options, found) =>
    options.all ? found(null, [{ address: "127.0.0.1", family: 4 }]) : found(null, "127.0.0.1", 4),
};
const url = `https://${wanted.name}:${wanted.port}`;
const refused = (error) => { process.stderr.write(`${error.code} ${error.message}\\n`); process.exit(1); };
const report = (socket, status, body) => process.stdout.write(JSON.stringify({
  status, body, tls: socket.getProtocol(), alpn: socket.alpnProtocol || "", authorized: socket.authorized,
  certificate: socket.getPeerX509Certificate().raw.toString("base64"),
}));
if (wanted.http === "h2") {
  const session = require("http2").connect(url, tls);
  session.on("error", refused);
  const stream = session.request({ ":path": wanted.path });
  let body = "", status;
  stream.on("response", (headers) => { status = headers[":status"]; });
  stream.on("data", (data) => { body += data; });
  stream.on("error", refused);
  stream.on("end", () => { report(session.socket, status, body); session.close(); });
} else {
  require("https").get(url + wanted.path, { ...tls, agent: false }, (answer) => {
    const socket = answer.socket;
    let body = "";
    answer.on("data", (data) => { body += data; });
    answer.on("end", () => report(socket, answer.statusCode, body));
  }).on("error", refused);
}
"""


def node(wanted: Wanted) -> Seen:
    """Node's https and http2 modules."""
    job = {
        "name": wanted.name, "port": wanted.port, "root": str(wanted.root), "tls": wanted.tls, "http": wanted.http,
        "path": wanted.path,
    }  # fmt: skip
    done = run("node", "-e", _NODE, json.dumps(job))
    if done.returncode:
        raise RefusedError(done.stderr)
    found = json.loads(done.stdout)
    assert found["authorized"]
    assert found["status"] == 200
    certificate = x509.load_der_x509_certificate(base64.b64decode(found["certificate"]))
    return Seen(found["tls"], found["alpn"], key_type(certificate), found["body"])


CLIENTS: dict[str, Client] = {"curl": curl, "gnutls-cli": gnutls_cli, "python": python, "node": node}
"""The quick ones. `Chromium` needs a home directory."""


# Chromium


class Chromium:
    """Headless Chromium with NSS databases of its own, where it looks for roots."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._databases = [home / place for place in (".pki/nssdb", ".local/share/pki/nssdb")]
        self._visits = 0
        for database in self._databases:
            database.mkdir(parents=True)
            certutil(database, "-N", "--empty-password")

    def trust(self, root: Path) -> None:
        """From now on."""
        for database in self._databases:
            certutil(database, "-A", "-t", "C,,", "-n", "site root", "-i", str(root))

    def __call__(self, wanted: Wanted) -> Seen:
        """Load a page. `wanted.root` has no say: `trust` has. Certificate errors are not ignored."""
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert chromium, "no Chromium: ./dev test installs it on Debian; elsewhere install one that is no snap"
        self._visits += 1
        log = self._home / f"net-log-{self._visits}.json"
        version = wanted.tls.removeprefix("TLSv")
        limits = ["--ssl-version-max=tls1.2"] * (version == "1.2") + ["--disable-http2"] * (wanted.http != "h2")
        done = subprocess.run(
            [chromium, *_FLAGS, *limits, f"--user-data-dir={self._home / 'profile'}", "--no-proxy-server",
             f"--host-resolver-rules=MAP {wanted.name} 127.0.0.1", f"--log-net-log={log}",
             "--virtual-time-budget=10000", "--dump-dom", f"https://{wanted.authority}{wanted.path}"],
            capture_output=True, text=True, timeout=90, check=False, env=os.environ | {"HOME": str(self._home)},
        )  # fmt: skip
        page = re.search(r"<pre[^>]*>(.* says hello .*?)</pre>", done.stdout, re.DOTALL)
        if not page:
            refusal = re.search(r"ERR_CERT_\w+|NET::\w+", done.stdout)
            raise RefusedError(refusal[0] if refusal else done.stdout + done.stderr)
        return _from_net_log(log.read_text(), page[1])


def _from_net_log(log: str, body: str) -> Seen:
    """Chromium's own record of the handshake."""
    handshake = re.search(r'"next_proto":"([^"]*)"[^{}]*"version":"TLS (1\.\d)"', log)
    certificate = re.search(r'"certificates":\["(.*?)"', log)
    assert handshake, log
    assert certificate, log
    alpn = "" if handshake[1] == "unknown" else handshake[1]
    return Seen(f"TLSv{handshake[2]}", alpn, pem_key_type(certificate[1].replace("\\n", "\n")), body)
