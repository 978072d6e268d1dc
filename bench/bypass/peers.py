"""The proxies beside which bypassed connections are measured, each set up to open none: squid and mitmdump."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench.rig.peer import Program
from bench.rig.port import free_port
from hsm.errors import MisconfiguredError

_NOBODY = "nobody"
_SQUID = """http_port {address} ssl-bump generate-host-certificates=off tls-cert={directory}/ca-both.pem
acl begins at_step SslBump1
ssl_bump peek begins
ssl_bump splice all
http_access allow all
cache deny all
access_log none
cache_log {directory}/cache.log
pid_filename {directory}/squid.pid
netdb_filename none
pinger_enable off
hosts_file {directory}/hosts
coredump_dir {directory}
shutdown_lifetime 1 seconds
{user}
"""


def found(directory: Path, hosts: Sequence[str], environment: dict[str, str]) -> tuple[list[Program], dict[str, str]]:
    """Those that can be measured here, and why the others cannot, by name. `hosts` are the origin's, `environment` what
    a process needs to find them (LD_PRELOAD)."""
    programs, missing = [], {}
    for name, prepare in PEERS.items():
        here = directory / name
        here.mkdir(mode=0o700)
        try:
            programs.append(prepare(here, hosts, environment))
        except MisconfiguredError as error:
            missing[name] = str(error)
    return programs, missing


def mitmdump(directory: Path, _hosts: Sequence[str], environment: dict[str, str]) -> Program:
    """Stock mitmdump that ignores every host. Raises MisconfiguredError where it is missing, as squid below."""
    program = Path(sys.executable).parent / "mitmdump"
    if not program.exists():
        raise MisconfiguredError(f"there is no {program}: pip install mitmproxy")
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    ignore = ["--set", f"confdir={directory}", "--set", "ignore_hosts=."]
    return Program(
        name="mitmdump",
        version=_told([str(program), "--version"]),
        directory=directory,
        argv=[str(program), "-q", "--listen-host", host, "-p", port, *ignore],
        address=address,
        ca=directory / "mitmproxy-ca-cert.pem",
        environment=environment,
    )


def squid(directory: Path, hosts: Sequence[str], _environment: dict[str, str]) -> Program:
    """squid that reads each ClientHello ("peek") and splices."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    program = shutil.which("squid", path=path)
    if program is None:
        raise MisconfiguredError("squid is not installed: apt-get install squid-openssl, or ./dev bench peers")
    _make_ca(directory)
    address = f"127.0.0.1:{free_port()}"
    (directory / "hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in hosts))
    user = f"cache_effective_user {_NOBODY}" if os.geteuid() == 0 else ""
    configuration = directory / "squid.conf"
    configuration.write_text(_SQUID.format(address=address, directory=directory, user=user))
    if os.geteuid() == 0:
        # Squid refuses to stay root, and must still reach its directory.
        directory.parent.chmod(0o711)
        for one in (directory, *directory.rglob("*")):
            shutil.chown(one, _NOBODY)
    return Program(
        name="squid",
        version=_told([program, "-v"]),
        directory=directory,
        # Its name is that of its shared memory, which must not be another squid's.
        argv=[program, "-N", "-n", f"pass{os.getpid()}", "-f", str(configuration)],
        address=address,
        ca=directory / "ca-both.pem",
    )


PEERS: dict[str, Callable[[Path, Sequence[str], dict[str, str]], Program]] = {"mitmdump": mitmdump, "squid": squid}


def _told(argv: list[str]) -> str:
    """The first line that a program says of itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "unknown")


def _make_ca(directory: Path) -> None:
    """A certificate without which squid opens no ssl-bump port; nobody is shown it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody's CA")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "ca-both.pem").write_bytes(certificate.public_bytes(Encoding.PEM) + private)
