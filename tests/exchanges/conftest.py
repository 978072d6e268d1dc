"""The place, the servers, and one running hsmitm for each way in; made once, when they are first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy.demo.origin import OriginCA
from tests.exchanges.place import Place
from tests.exchanges.scene import Scene
from tests.exchanges.ways import Servers


@pytest.fixture(scope="package")
def scene(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests."""
    ca, servers = OriginCA(), Servers()
    with Place() as place:
        place.run(servers.start(ca))
        with ExitStack() as stack:
            yield Scene(tmp_path_factory.mktemp("exchanges"), place, servers, ca, stack)
        place.run(servers.stop())
