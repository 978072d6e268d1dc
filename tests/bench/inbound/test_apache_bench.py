"""What ab's output becomes: nothing that failed counts as done."""

from __future__ import annotations

from bench.inbound import apache_bench
from bench.report.processes import cpu_s, difference, others_s
from bench.rig.port import free_port
from bench.rig.site import host
from tests.bench.front import Rig


async def test_connections_counted(rig: Rig) -> None:
    """What ab says of a sound server: every connection with a latency, no error, and the CPU that each side used."""
    async with rig.nginx_file() as server:
        before, others_before = cpu_s(server.pids), others_s([])
        load = await apache_bench.run(server.address, host("rsa-2048"), clients=8, requests=400, tls="1.3", limit_s=10)
        used = difference(before, cpu_s(server.pids))
        assert others_s([]) - others_before > 0.5 * sum(used.values()), "nginx is another where it is not named"
    assert (load.requests, load.failed, load.errors) == (400, 0, [])
    assert len(load.latencies_ms) == 400
    assert 0 < load.generator_s < 2 * load.seconds
    assert 0 < sum(used.values()) < 2 * load.seconds


async def test_failures_counted(rig: Rig) -> None:
    """Answers other than 2xx are failures, and the report says which kind; so is a server that is not there."""
    async with rig.nginx_file(f"http://127.0.0.1:{free_port()}") as server:
        load = await apache_bench.run(server.address, host("p256"), clients=4, requests=20, tls="1.3", limit_s=10)
    assert load.failed == 20
    assert any("not 2xx" in error for error in load.errors)
    load = await apache_bench.run(server.address, host("p256"), clients=4, requests=20, tls="1.3", limit_s=10)
    assert (load.requests, load.failed) == (0, 20), "ab itself calls these complete"
    assert load.errors
