"""One system for all tests that leave it as they found it, and an origin behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System


@pytest.fixture(scope="session")
def origin_ca() -> OriginCA:
    """The CA of the internet in tests."""
    return OriginCA()


@pytest.fixture(scope="session")
def origin(origin_ca: OriginCA) -> Iterator[OriginThread]:
    """The internet in tests."""
    with OriginThread(origin_ca) as running:
        yield running


@pytest.fixture(scope="session")
def system(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system with one worker. Tests that break things make one of their own."""
    made = System.make(
        tmp_path_factory.mktemp("system"),
        upstream_ca=origin_ca.pem,
        workers="1",
        connect_timeout_s="2.0",
        client_handshake_timeout_s="5.0",
    )
    with made:
        yield made
