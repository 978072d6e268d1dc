"""A server of HTTP/2 that closes its connections after a few requests, as nginx does: nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.rig.h2load import H2Job, H2Load
from bench.rig.port import free_port
from bench.rig.tunnel import Route
from bench.rig.tunnel_load import Done
from proxy.demo.origin import OriginCA
from tests.integration.harness import System
from tests.integration.nginx_server import serving

REQUESTS, HOST = 400, "leaving.test"


@pytest.fixture(scope="module")
def port(origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """nginx that takes 20 requests on a connection; its default is 1,000."""
    directory, number = tmp_path_factory.mktemp("nginx"), free_port()
    (directory / "file").write_bytes(bytes(100_000))
    server = f"""listen 127.0.0.1:{number} ssl http2;
        keepalive_requests 20;
        root {directory};
        location /echo {{ return 200 "$request_method $connection\\n"; }}"""
    with serving(directory, origin_ca, HOST, server):
        yield number


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
