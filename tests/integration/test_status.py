"""What operators and monitors see."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System, hsmitm, status_json
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def watched(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system of two workers with a status page."""
    address = f"127.0.0.1:{free_port()}"
    made = System.make(tmp_path_factory.mktemp("watched") / "s", upstream_ca=origin_ca.pem, workers="2")
    text = made.toml.read_text().replace('listen = ""', f'listen = "{address}"')
    made.toml.write_text(f'{text}\n[profiles.default]\nuntrusted = "block"\n')
    with made:
        yield made


def page(system: System, path: str) -> tuple[int, str]:
    """Status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://{system.config.status_listen}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(system: System) -> dict[str, float]:
    """Every sample of /metrics, its labels in the name."""
    status, text = page(system, "/metrics")
    assert status == 200
    return {
        f"{one.name}{{{','.join(f'{k}={v}' for k, v in sorted(one.labels.items()))}}}": one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_status_json(watched: System, origin: OriginThread) -> None:
    """`status --json` has the six objects, with what a program needs of each."""
    assert watched.curl(f"https://status.test:{origin.port}/").ok
    wait_until(lambda: watched.status().counters["connections"] >= 1, "the worker has reported")
    found = status_json(watched)
    assert set(found) == {"members", "workers", "listeners", "certificates", "counters", "group"}
    assert (found["group"]["state"], found["group"]["high_availability"]) == ("healthy", False)
    (member,) = found["members"]
    assert (member["name"], member["state"], member["sessions_total"]) == ("softhsm1", "up", 8)
    assert member["partition"]["label"] == "hsmitm"
    assert member["partition"]["serial"]
    assert "libsofthsm2.so" in member["module"]
    assert member["module_version"]
    assert [worker["index"] for worker in found["workers"]] == [1, 2]
    assert [listener["workers"] for listener in found["listeners"]] == [2]
    assert [
        (one["authority"], one["kind"], one["name"], one["proved"], one["guarded"]) for one in found["certificates"]
    ] == [
        ("trust", "forward", "trust", ["softhsm1"], True),
        ("untrust", "forward", "untrust", ["softhsm1"], True),
    ]
    assert found["counters"]["minted"] >= 1
    assert found["counters"]["signatures"] >= 3


def test_status_table(watched: System) -> None:
    """`status` shows the members, a lock beside each proved key, workers and counters."""
    done = hsmitm("status", "--config", str(watched.toml))
    assert done.returncode == 0, done.stderr
    for fragment in ("softhsm1", "hsmitm", "🔒", "forward-trust", "serial number", "127.0.0.1:", "minted"):
        assert fragment in done.stdout


def test_metrics_are_summed_over_workers(watched: System, origin: OriginThread) -> None:
    """Connections and cache look-ups of both workers add up on one page, signatures by member and purpose."""
    before = samples(watched).get("hsmitm_connections_total{}", 0.0)
    for number in range(12):
        assert watched.curl(f"https://sum-{number % 3}.test:{origin.port}/").ok
    wait_until(lambda: samples(watched)["hsmitm_connections_total{}"] == before + 12, "all are counted")
    found = samples(watched)
    assert found["hsmitm_workers{}"] == 2
    assert [found[f"hsmitm_worker_up{{worker={index}}}"] for index in (1, 2)] == [1, 1]
    assert found["hsmitm_member_state{member=softhsm1,state=up}"] == 1
    assert found["hsmitm_signatures_total{member=softhsm1,purpose=mint}"] >= 3
    assert found["hsmitm_signatures_total{member=softhsm1,purpose=proof}"] == 2
    for name in ("hsmitm_signature_seconds", "hsmitm_signature_queue_seconds"):
        count = found[f"{name}_count{{member=softhsm1,purpose=mint}}"]
        assert count == found["hsmitm_signatures_total{member=softhsm1,purpose=mint}"]
        assert found[f"{name}_bucket{{le=+Inf,member=softhsm1,purpose=mint}}"] == count
    hits, misses = (found[f"hsmitm_leaf_cache_lookups_total{{result={r}}}"] for r in ("hit", "miss"))
    assert hits + misses >= 12
    assert found["hsmitm_mints_total{authority=trust,result=minted}"] == misses


def test_handshake_failures_by_class(watched: System, origin: OriginThread) -> None:
    """A client that does not trust our CA, and a server that is blocked for its certificate, are counted apart."""
    assert watched.curl(
        f"https://distrust.test:{origin.port}/", "--capath", "/nonexistent", trust=Path("/dev/null")
    ).exit
    with OriginThread(OriginCA()) as strange:
        assert watched.curl(f"https://strange.test:{strange.port}/").exit == 60
    wait_until(
        lambda: samples(watched).get("hsmitm_handshake_failures_total{class=certificate,side=server}"), "server side"
    )
    assert samples(watched)["hsmitm_handshake_failures_total{class=distrusted,side=client}"] >= 1


def test_health_and_readiness(watched: System) -> None:
    """/healthz and /readyz say ok; anything else is a 404 without a traceback."""
    assert page(watched, "/healthz") == (200, "ok\n")
    assert page(watched, "/readyz") == (200, "ready\n")
    status, body = page(watched, "/nothing")
    assert status == 404
    assert "Traceback" not in body
