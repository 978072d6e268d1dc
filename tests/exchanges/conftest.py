"""The place, the servers, and one running hsmitm for each way in; made once, when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.demo.origin import OriginCA
from tests.exchanges.ends1 import HOST
from tests.exchanges.place import Place
from tests.exchanges.ways import Direct, Explicit, Redirected, Servers, Site, Socks, Way
from tests.integration.harness import System
from tests.integration.inbound_system import InboundSystem

_ACROSS = """
def tls_clienthello(data):
    offered = data.client_hello.alpn_protocols[0]
    data.context.client.alpn = offered
    data.context.server.alpn_offers = [b"http/1.1" if offered == b"h2" else b"h2"]
"""
"""A script that has the proxy speak the one version of HTTP with clients and the other with servers."""


_IDLE = """
def request(flow):
    pass
def response(flow):
    pass
"""
"""A script that looks at messages, where the configuration says nothing of streams."""


@dataclass
class Scene:
    """All that an exchange needs."""

    place: Place
    servers: Servers
    ca: Path
    """The servers' own."""
    through: Callable[[str], tuple[Way, Path]]
    """The way of this name, and whom its clients trust."""


@pytest.fixture(scope="package")
def scene(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests."""
    directory = tmp_path_factory.mktemp("exchanges")
    ca = OriginCA()
    trust = directory / "origin-ca.pem"
    trust.write_text(ca.pem)
    servers = Servers()
    with ExitStack() as stack:
        place = stack.enter_context(Place())
        place.run(servers.start(ca))
        made: dict[str, tuple[Way, Path]] = {"direct": (Direct(), trust)}

        def start(system: System) -> None:
            place.call(lambda: system.start(wait=False))
            stack.callback(system.stop)
            system.wait_ready()

        def started(mode: str, name: str = "", **edits: str) -> tuple[int, Path]:
            made_in = directory / (name or mode)
            system = System.make(made_in, upstream_ca=ca.pem, workers="1", mode=f'"{mode}"', **edits)
            (made_in / "across.py").write_text(_ACROSS)
            (made_in / "idle.py").write_text(_IDLE)
            start(system)
            return int(system.proxy.rpartition(":")[2]), system.ca

        def through(way: str) -> tuple[Way, Path]:
            if way not in made:
                made[way] = _way(way)
            return made[way]

        def _way(way: str) -> tuple[Way, Path]:
            match way:
                case "explicit":
                    port, forward_trust = started("regular")
                    return Explicit(port), forward_trust
                case "across":
                    port, forward_trust = started("regular", "across", scripts='["across.py"]', stream='["*"]')
                    return Explicit(port), forward_trust
                case "scripted":
                    port, forward_trust = started("regular", "scripted", scripts='["idle.py"]')
                    return Explicit(port), forward_trust
                case "socks5":
                    port, forward_trust = started("socks5")
                    return Socks(port), forward_trust
                case "transparent":
                    port, forward_trust = started("transparent")
                    place.redirect(list(servers.ports.values()), port)
                    return Redirected(), forward_trust
            system = _inbound(directory / "inbound", ca, servers)
            start(system)
            return Site(dict(zip(servers.ports.values(), system.ports, strict=True))), system.root

        yield Scene(place, servers, trust, through)
        place.run(servers.stop())


def _inbound(directory: Path, ca: OriginCA, servers: Servers) -> InboundSystem:
    system = InboundSystem.make_inbound(directory, upstream_ca=ca.pem, workers="1")
    system.generate(site="p256")
    for port in servers.ports.values():
        system.listener()
        system.site(HOST, keys=["site"], upstream=f"https://{HOST}:{port}")
    return system
