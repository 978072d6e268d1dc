"""A server of HTTP/2 that closes its connections after a few requests, as nginx does: nobody notices."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.rig import nginx
from bench.rig.h2load import H2Job, H2Load
from bench.rig.port import free_port
from bench.rig.tunnel import Route
from bench.rig.tunnel_load import Done
from proxy.demo.origin import OriginCA
from tests.integration.harness import System
from tests.waiting import wait_until

REQUESTS, HOST = 400, "leaving.test"
_NGINX = """daemon off;
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
    keepalive_requests 20;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.pem;
        root {directory};
        location /echo {{ return 200 "$request_method $connection\\n"; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def port(origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """nginx that takes 20 requests on a connection; its default is 1,000."""
    directory = tmp_path_factory.mktemp("nginx")
    directory.chmod(0o755)
    private = ec.generate_private_key(ec.SECP256R1())
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = origin_ca.certify(private.public_key(), [HOST])
    (directory / "server.pem").write_bytes(key + certificate.public_bytes(Encoding.PEM))
    (directory / "file").write_bytes(bytes(100_000))
    number = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(_NGINX.format(directory=directory, port=number, user=user))
    command = nginx.executable()
    assert command is not None, "nginx is among the packages of ./dev test"
    process = subprocess.Popen([command, "-p", str(directory), "-c", str(directory / "nginx.conf")])
    try:
        wait_until(lambda: process.poll() is None and (directory / "nginx.pid").exists(), "nginx has started")
        yield number
    finally:
        process.terminate()
        process.wait(20)


async def _run(job: H2Job) -> Done:
    async with H2Load(job) as load:
        return await load.run()


@pytest.mark.parametrize("in_flight", [1, 40])
@pytest.mark.parametrize(
    ("path", "upload", "size"),
    [("file", 0, 100_000), ("echo", 0, 0), ("echo", 1000, 0)],
    ids=["bodies", "answers", "uploads"],
)
def test_a_server_that_goes_away(
    system: System, port: int, tmp_path: Path, in_flight: int, path: str, upload: int, size: int
) -> None:
    """Every request on a client's connection is answered in full, over some twenty connections to the server."""
    body = tmp_path / "body"
    body.write_bytes(bytes(upload))
    job = H2Job(
        route=Route(system.proxy.removeprefix("http://"), port, str(system.ca)), host=HOST, requests=REQUESTS,
        in_flight=in_flight, path=path, upload=body if upload else None, body_bytes=size,
    )  # fmt: skip
    done = asyncio.run(_run(job))
    assert (done.failed, done.errors) == (0, [])
    assert len(done.latencies_ms) == REQUESTS
