"""nginx as a peer: one signature for each connection through the engine, and words for what goes wrong."""

from __future__ import annotations

import pytest

from bench.inbound import apache_bench
from bench.inbound.contenders import Contender
from bench.report.processes import tree
from bench.rig import nginx
from bench.rig.faulty_module import FaultyModule
from bench.rig.nginx import Nginx, Token
from bench.rig.site import SITE_KEYS, file_sites, token_sites
from hsm.errors import MisconfiguredError
from tests.bench.front import Rig
from tests.softhsm import PIN, make_store

CLIENTS = 32


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
async def test_engine_signs_once(rig: Rig, softhsm_module: str, tls: str) -> None:
    """nginx asks the HSM for one signature per connection, one after another, whatever the key and the TLS version."""
    store = await make_store(rig.directory / "store", {}, label="bench")
    sites = await token_sites(
        rig.ca, rig.directory, module=softhsm_module, token="bench", pin=PIN, environment=store.environment
    )
    module = FaultyModule(rig.directory / "faults")
    token = Token(module.path, PIN, store.environment | module.environment(softhsm_module))
    async with Nginx(rig.directory / "engine", sites, rig.origin.url, token) as server:
        assert (rig.directory / "engine" / "openssl.cnf").stat().st_mode & 0o777 == 0o600
        contender = Contender("engine", server.address, lambda: server.pids, module=module)
        contender.delay(20)
        for key in SITE_KEYS:
            turn = await contender.turn(key, 20, clients=CLIENTS, tls=tls, seconds=0)
            assert (turn.failed, turn.errors) == (0, [])
            assert turn.requests == CLIENTS
            assert CLIENTS <= turn.signatures <= 2 * CLIENTS, "ab leaves one connection of each client begun at most"
            assert turn.seconds >= CLIENTS * 0.020, "the delays did not add up: it did not wait for each"
        assert module.fired() >= 2 * CLIENTS


async def test_nginx_fails(rig: Rig) -> None:
    """An nginx that cannot start is a fault with its own words, not a peer that is left out."""
    async with rig.nginx_file() as server:
        second = Nginx(rig.directory / "second", file_sites(rig.ca, rig.directory / "."), rig.origin.url)
        second.address = server.address
        with pytest.raises(MisconfiguredError, match="Address already in use"):
            await second.__aenter__()
        assert len(tree(second.pids[0])) == 1


def test_missing_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named with the package that has it."""
    assert nginx.missing(with_engine=True) == "", "the tests need nginx and the engine: ./dev test installs them"
    monkeypatch.setattr(nginx, "engine", lambda: None)
    assert "libengine-pkcs11-openssl" in nginx.missing(with_engine=True)
    assert nginx.missing(with_engine=False) == ""
    monkeypatch.setattr(nginx, "executable", lambda: None)
    assert "nginx-light" in nginx.missing(with_engine=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MisconfiguredError, match="apache2-utils"):
        apache_bench.require()
