"""Connections at a steady rate."""

from __future__ import annotations

from bench.inbound import open_loop
from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.bench.front import Rig


async def test_open_loop(rig: Rig) -> None:
    """Connections come at the rate that was asked for, and each verifies the certificate."""
    async with rig.nginx_file() as server:
        paced = await (await open_loop.start(rig.pace(server.address, rig.ca_file)))
        assert paced.errors == []
        assert len(paced.latencies_ms) == len(paced.late_ms) == 50
        assert paced.cpu_s > 0
        other = rig.directory / "other.pem"
        other.write_text(OriginCA().pem)
        paced = await (await open_loop.start(rig.pace(server.address, other)))
        assert len(paced.errors) == 50
        assert "CERTIFICATE_VERIFY_FAILED" in paced.errors[0]


async def test_wrong_answers(rig: Rig) -> None:
    """An answer that is not the origin's is an error, and so is a server that is not there."""
    async with rig.nginx_file(f"http://127.0.0.1:{free_port()}") as server:
        paced = await (await open_loop.start(rig.pace(server.address, rig.ca_file)))
        assert len(paced.errors) == 50
        assert "502" in paced.errors[0]
    paced = await (await open_loop.start(rig.pace(server.address, rig.ca_file)))
    assert len(paced.errors) == 50
    assert "ConnectionRefusedError" in paced.errors[0]
