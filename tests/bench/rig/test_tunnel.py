"""The load generator of the forward measurement: what it believes, what it counts, and what it says of failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.rig.port import free_port
from bench.rig.tls_origin import COLD, WARM, TlsOrigin
from bench.rig.tunnel import Route, Tunnel, TunnelError
from bench.rig.tunnel_load import Generator, Job, Kind
from proxy.demo.origin import OriginCA


@pytest.fixture
async def route(tmp_path: Path) -> AsyncIterator[Route]:
    """To the origin itself."""
    ca = OriginCA()
    (tmp_path / "ca.pem").write_text(ca.pem)
    async with TlsOrigin(tmp_path / "origin", ca, warm=2, cold=3, body_bytes=1_000_000) as origin:
        yield Route(origin.address, origin.port, str(tmp_path / "ca.pem"), connect=False)


def job(route: Route, kind: Kind, *, host: str = WARM, count: int = 2, path: str = "/", once: bool = False) -> Job:
    """A short one."""
    return Job(
        kind=kind, route=route, clients=2, seconds=0.2, host=host, first=0, count=count, path=path, once=once
    )  # fmt: skip


def test_answers_are_checked(route: Route) -> None:
    """Each name has a certificate of its own, a body is read to its end, and another page is an error."""
    tls = route.tls()
    for host in ("w0.bench.test", "w1.bench.test", "c2.bench.test"):
        tunnel = Tunnel(route, tls, host)
        assert tunnel.get("/") == len(f"{host} says hello\n")
        assert tunnel.get("/body") == 1_000_000
        with pytest.raises(TunnelError, match="not the origin's answer"):
            tunnel.get("/nothing")
        tunnel.close()
    with pytest.raises(OSError, match=r"(?i)tls|ssl"):
        Tunnel(route, tls, "c3.bench.test")


async def test_counts(route: Route) -> None:
    """New connections, requests and bytes are counted, and hosts that are to be visited once are visited once."""
    async with Generator(job(route, "new")) as generator:
        done = await generator.run()
    assert done.failed == 0
    assert len(done.latencies_ms) > 2
    assert 0 < done.cpu_s < 5
    async with Generator(job(route, "new", host=COLD, count=3, once=True)) as generator:
        assert len((await generator.run()).latencies_ms) == 3
    async with Generator(job(route, "kept", path="/body")) as generator:
        done = await generator.run()
    assert done.body_bytes == len(done.latencies_ms) * 1_000_000 > 0
    async with Generator(job(route, "idle")) as generator:
        done = await generator.run()
    assert (len(done.latencies_ms), done.failed) == (2, 0)


async def test_refused(route: Route) -> None:
    """What a proxy answers to CONNECT in the place of 200 is in the error, and no connection is counted."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        proxy = "{}:{}".format(*server.sockets[0].getsockname())
        refusing = Route(proxy, route.port, route.ca)
        async with Generator(job(refusing, "new")) as generator:
            done = await generator.run()
        assert done.latencies_ms == []
        assert done.failed > 0
        assert "502 Bad Gateway" in done.errors[0]
        async with Generator(job(refusing, "idle")) as generator:
            done = await generator.run()
        assert done.failed == 1, "the others would have failed as well"


def test_nobody_listens(tmp_path: Path) -> None:
    """A proxy that is not there is an error like any other."""
    ca = OriginCA()
    (tmp_path / "ca.pem").write_text(ca.pem)
    route = Route(f"127.0.0.1:{free_port()}", 1, str(tmp_path / "ca.pem"))
    with pytest.raises(ConnectionRefusedError):
        Tunnel(route, route.tls(), "w0.bench.test")
