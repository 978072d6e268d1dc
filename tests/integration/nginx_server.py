"""nginx as an origin of a test: one `server` of its own, with a certificate of the origins' CA."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.rig import nginx
from proxy.demo.origin import OriginCA
from tests.waiting import wait_until

_MAIN = """daemon off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.pem;
        {server}
    }}
}}
"""


@contextmanager
def serving(directory: Path, ca: OriginCA, name: str, server: str) -> Iterator[None]:
    """nginx in `directory`, which it makes, with these directives of its server; `name` stands in its certificate."""
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    private = ec.generate_private_key(ec.SECP256R1())
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = ca.certify(private.public_key(), [name])
    (directory / "server.pem").write_bytes(key + certificate.public_bytes(Encoding.PEM))
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(_MAIN.format(directory=directory, user=user, server=server))
    command = nginx.executable()
    assert command is not None, "nginx is among the packages of ./dev test"
    process = subprocess.Popen([command, "-p", str(directory), "-c", str(directory / "nginx.conf")])
    try:
        wait_until(lambda: process.poll() is None and (directory / "nginx.pid").exists(), "nginx has started")
        yield
    finally:
        process.terminate()
        process.wait(20)
