"""A client that makes names up, on real processes: it is refused, and what it was served before goes on."""

from __future__ import annotations

from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.waiting import wait_until


def test_made_up_names_end_with_the_budget(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path
) -> None:
    """With six new names for a client, six hosts are served to it; the seventh is 429 before anything is signed, and
    one that was served before still is. Counted each, told of in one line, and no other client feels it."""
    made = System.make(
        tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", new_names_burst="6", new_names_per_s="0.001"
    )
    with made as system:
        for number in range(6):
            reply = system.curl(f"https://new{number}.test:{origin.port}/")
            assert reply.ok, reply.errors
        for _ in range(3):
            refused = system.curl(f"https://more.test:{origin.port}/")
            assert refused.exit == 56, refused
            assert "CONNECT tunnel failed, response 429" in refused.errors
        assert system.curl(f"https://new0.test:{origin.port}/").ok
        other = system.curl(f"https://more.test:{origin.port}/", "--interface", "127.0.0.2")
        assert other.ok, other.errors
        wait_until(lambda: system.status().counters["minted"] == 7, "seven leaves are reported", 10)
        system.until_logged("refused (too-many-names)")
        assert system.log.count("refused (too-many-names)") == 1
