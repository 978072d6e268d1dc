"""The load generator for HTTP/2: what it counts, what it says of failures, and that it tries the way before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from bench.rig.h2load import H2Job, H2Load
from bench.rig.nghttpd import BODY, HOST, SMALL, Nghttpd
from bench.rig.tls_origin import WARM, TlsOrigin
from bench.rig.tunnel import Route, TunnelError
from proxy.demo.origin import OriginCA

SIZE = 300_000


@pytest.fixture
def ca(tmp_path: Path) -> OriginCA:
    """Its certificate is in ca.pem."""
    made = OriginCA()
    (tmp_path / "ca.pem").write_text(made.pem)
    return made


@pytest.fixture
async def job(tmp_path: Path, ca: OriginCA) -> AsyncIterator[H2Job]:
    """At the origin itself, through the relay."""
    async with Nghttpd(tmp_path / "http2", ca, SIZE) as origin:
        route = Route(origin.address, origin.port, str(tmp_path / "ca.pem"), connect=False)
        yield H2Job(route=route, host=HOST, requests=200, in_flight=16, path=SMALL, upload=None)


async def test_counts(job: H2Job, tmp_path: Path) -> None:
    """Every request has its latency, bodies are counted both ways, and the seconds are those of the requests."""
    async with H2Load(job) as load:
        done = await load.run()
    assert (done.failed, done.errors) == (0, [])
    assert len(done.latencies_ms) == 200
    assert 0 < done.seconds < 5
    assert 0 < done.cpu_s < 5
    large = structs.replace(job, requests=3, in_flight=1, path=BODY, body_bytes=SIZE)
    for one in (large, structs.replace(large, path=SMALL, upload=tmp_path / "http2" / "served" / BODY)):
        async with H2Load(one) as load:
            done = await load.run()
        assert (done.failed, done.body_bytes) == (0, 3 * SIZE)


async def test_failures(job: H2Job) -> None:
    """Answers that are errors are failures, and so is a body that is shorter than it should be."""
    async with H2Load(structs.replace(job, path="nothing")) as load:
        done = await load.run()
    assert done.failed == 200
    assert "200 of 200 requests failed" in done.errors[0]
    async with H2Load(structs.replace(job, requests=1, path=BODY, body_bytes=SIZE + 1)) as load:
        done = await load.run()
    assert done.failed == 1
    assert "bodies are short" in done.errors[0]


async def test_the_way_is_tried(job: H2Job, ca: OriginCA, tmp_path: Path) -> None:
    """A certificate of another CA, a server without HTTP/2 and one that is away are errors before anything is measured:
    h2load itself verifies nothing."""
    (tmp_path / "other.pem").write_text(OriginCA().pem)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await H2Load(
            structs.replace(job, route=structs.replace(job.route, ca=str(tmp_path / "other.pem")))
        ).__aenter__()
    async with TlsOrigin(tmp_path / "origin", ca, warm=1, cold=0, body_bytes=1) as origin:
        route = structs.replace(job.route, proxy=origin.address)
        with pytest.raises((OSError, TunnelError), match=r"not HTTP/2|alert"):
            await H2Load(structs.replace(job, route=route, host=WARM % 0)).__aenter__()
