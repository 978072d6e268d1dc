"""The proxies that hsmitm's forward inspection is measured against, each with its CA's key in software.

mitmdump  the one of this Python environment, with its own defaults
squid     with ssl-bump, on two helpers that make certificates
sslsplit  to one fixed server: it has no CONNECT
before    another version of hsmitm, where its command is given

Each verifies the origin against the same CA as hsmitm does. Where a program is not installed, the reason is a sentence.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from msgspec import Struct

from bench.rig.any_version import settled
from bench.rig.peer import Program
from bench.rig.port import free_port
from hsm.errors import MisconfiguredError

_HELPERS = ("/usr/lib/squid/security_file_certgen", "/usr/lib64/squid/security_file_certgen")

_NOBODY = "nobody"

_SQUID = """http_port {address} ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=64MB \
tls-cert={directory}/ca-both.pem
sslcrtd_program {helper} -s {directory}/certificates -M 64MB
sslcrtd_children 2 startup=2
ssl_bump server-first all
tls_outgoing_options default-ca=off cafile={roots}
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


class Setting(Struct, frozen=True):
    """What a peer is set up with: the origin's port and host names, the file with the CA that it is verified with, and
    what a process needs to find those hosts (LD_PRELOAD). `before` is the hsmitm command of another version."""

    directory: Path
    origin_port: int
    hosts: list[str]
    roots: Path
    environment: dict[str, str]
    before: Path | None = None


def found(setting: Setting, needed: Callable[[str], bool]) -> tuple[list[Program], dict[str, str]]:
    """Of the peers that are needed those that can be measured here, and why the others cannot, by name."""
    programs, missing = [], {}
    for name, prepare in (PEERS | ({BEFORE: before} if setting.before else {})).items():
        if not needed(name):
            continue
        directory = setting.directory / name
        directory.mkdir(mode=0o700)
        try:
            programs.append(prepare(setting, directory))
        except MisconfiguredError as error:
            missing[name] = str(error)
    return programs, missing


def mitmdump(setting: Setting, directory: Path) -> Program:
    """Stock mitmdump. Raises MisconfiguredError where it is missing, as those below."""
    program = Path(sys.executable).parent / "mitmdump"
    if not program.exists():
        raise MisconfiguredError(f"there is no {program}: pip install mitmproxy")
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    options = [f"confdir={directory}", f"ssl_verify_upstream_trusted_ca={setting.roots}"]
    return Program(
        name="mitmdump",
        version=_told([str(program), "--version"]),
        directory=directory,
        argv=[str(program), "-q", "--listen-host", host, "-p", port, *(x for one in options for x in ("--set", one))],
        address=address,
        ca=directory / "mitmproxy-ca-cert.pem",
        environment=setting.environment,
    )


def squid(setting: Setting, directory: Path) -> Program:
    """squid with ssl-bump. With peek or stare it asks a helper for every connection; server-first, though deprecated by
    squid's manual, keeps the certificates that it has and takes less than half of the CPU."""
    program = _installed("squid", "apt-get install squid-openssl")
    helper = next((one for one in _HELPERS if Path(one).exists()), None)
    if helper is None:
        raise MisconfiguredError("this squid has no ssl-bump: apt-get install squid-openssl")
    ca = _make_ca(directory)
    address = f"127.0.0.1:{free_port()}"
    (directory / "hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in setting.hosts))
    user = f"cache_effective_user {_NOBODY}" if os.geteuid() == 0 else ""
    configuration = directory / "squid.conf"
    configuration.write_text(
        _SQUID.format(address=address, directory=directory, helper=helper, roots=setting.roots, user=user)
    )
    made = subprocess.run(
        [helper, "-c", "-s", str(directory / "certificates"), "-M", "64MB"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise MisconfiguredError(f"squid's {helper} cannot make its store: {made.stderr.strip()}")
    if os.geteuid() == 0:
        # Squid refuses to stay root, and must still reach its directory.
        setting.directory.chmod(0o711)
        for path in (directory, *directory.rglob("*")):
            shutil.chown(path, _NOBODY)
    return Program(
        name="squid",
        version=_told([program, "-v"]),
        directory=directory,
        # Its name is that of its shared memory, which must not be another squid's.
        argv=[program, "-N", "-n", f"bench{os.getpid()}", "-f", str(configuration)],
        address=address,
        ca=ca,
    )


def sslsplit(setting: Setting, directory: Path) -> Program:
    """sslsplit in front of the origin."""
    program = _installed("sslsplit", "apt-get install sslsplit")
    ca = _make_ca(directory)
    address = f"127.0.0.1:{free_port()}"
    user = ["-u", "root"] if os.geteuid() == 0 else []
    files = ["-c", str(ca), "-k", str(directory / "ca.key"), "-o", "VerifyPeer=yes"]
    target = [*address.split(":"), "127.0.0.1", str(setting.origin_port)]
    return Program(
        name="sslsplit",
        version=_told([program, "-V"]),
        directory=directory,
        argv=[program, *user, *files, "ssl", *target],
        address=address,
        ca=ca,
        connect=False,
        environment={"SSL_CERT_FILE": str(setting.roots)},
        doubts="sslsplit has no CONNECT and does not read HTTP (its 'ssl' mode, to one fixed server): its clients save "
        "a round trip, and it copies bytes; its threads use all cores",
    )


def before(setting: Setting, directory: Path) -> Program:
    """Another version of hsmitm with one worker and a SoftHSM partition, set up by its own `init`: nothing of this
    checkout is in it."""
    program = str(setting.before)
    address = f"127.0.0.1:{free_port()}"
    wanted = ["--dir", str(directory), "--key-type", "rsa-2048", "--listen", address, "--status-listen", "", "--yes"]
    made = subprocess.run([program, "init", *wanted], capture_output=True, text=True, check=False, timeout=60)
    if made.returncode:
        raise MisconfiguredError(f"{program} init failed: {(made.stdout + made.stderr).strip()[-1000:]}")
    configuration = directory / "hsmitm.toml"
    configuration.write_text(settled(configuration.read_text(), setting.roots, office=True))
    if os.geteuid() == 0:  # its workers may be nobody
        setting.directory.chmod(0o711)
        directory.chmod(0o755)
    return Program(
        name=BEFORE,
        version=program,
        directory=directory,
        argv=[program, "run", "--config", str(configuration)],
        address=address,
        ca=directory / "forward-trust.pem",
        environment=setting.environment,
    )


BEFORE = "hsmitm-before"
PEERS: dict[str, Callable[[Setting, Path], Program]] = {"mitmdump": mitmdump, "squid": squid, "sslsplit": sslsplit}


def _installed(name: str, remedy: str) -> str:
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise MisconfiguredError(f"{name} is not installed: {remedy}, or ./dev bench peers")
    return program


def _told(argv: list[str]) -> str:
    """The first line that a program says of itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "unknown")


def _make_ca(directory: Path) -> Path:
    """An RSA-2048 CA with its key in a file, as mitmdump makes its own: the certificate's path."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"throw-away CA of {directory.name}")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, content in (("ca.key", private), ("ca-both.pem", pem + private)):
        (directory / file).touch(mode=0o600)
        (directory / file).write_bytes(content)
    (directory / "ca.pem").write_bytes(pem)
    return directory / "ca.pem"
