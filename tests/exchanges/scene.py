"""All that an exchange needs: where it happens, its servers, and by each way one running hsmitm, made when it is first
asked for."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.exchanges.ends1 import HOST
from tests.exchanges.place import APART, Place
from tests.exchanges.ways import Direct, Explicit, Redirected, Servers, Site, Socks, Way
from tests.integration.harness import System
from tests.integration.inbound_system import InboundSystem
from tests.integration.two_cas import with_rsa_ca

FORWARD = ["explicit", "socks5", "transparent"]
WAYS = [*FORWARD, "inbound"]
_MODES = {"explicit": "regular", "across": "regular", "scripted": "regular"}
_SPARES = 6
BOTH = "both.test"
"""A name with two addresses of this machine: ::1 comes first."""
Serve = Callable[[socket.socket], object]
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


class Scene:
    """Of all tests here."""

    def __init__(self, directory: Path, place: Place, servers: Servers, ca: OriginCA, stack: ExitStack) -> None:
        self.place, self.servers, self.ca = place, servers, ca
        self.systems: dict[str, System] = {}
        """What runs, by its way."""
        self._directory, self._stack = directory, stack
        self._spares = [free_port() for _ in range(_SPARES)]
        self.lasting, self.both, *others = self._spares
        """Ports to which every way leads: for a server of more than one test, and one that our site knows as BOTH."""
        self._next_spare = itertools.cycle(others)
        self._made: dict[str, tuple[Way, Path]] = {}

    def through(self, way: str) -> tuple[Way, Path]:
        """The way of this name, and whom its clients trust."""
        if way == "transparent" and not APART:
            pytest.skip("a network namespace needs root")
        if way not in self._made:
            self._made[way] = self._direct() if way == "direct" else self._started(way)
        return self._made[way]

    def _direct(self) -> tuple[Way, Path]:
        trust = self._directory / "origin-ca.pem"
        trust.write_text(self.ca.pem)
        return Direct(), trust

    def _started(self, way: str) -> tuple[Way, Path]:
        if way == "inbound":
            site = self._inbound()
            self._start(way, site)
            return Site(dict(zip([*self.servers.ports.values(), *self._spares], site.ports, strict=True))), site.root
        more = {"across": {"scripts": '["across.py"]', "stream": '["*"]'}, "scripted": {"scripts": '["idle.py"]'}}
        system = System.make(
            self._directory / way, upstream_ca=self.ca.pem, workers="1", mode=f'"{_MODES.get(way, way)}"',
            connect_timeout_s="2.0", client_handshake_timeout_s="4.0",
            not_tls_ports=f"[{self.servers.ports['raw']}]", **more.get(way, {}),
        )  # fmt: skip
        (system.directory / "across.py").write_text(_ACROSS)
        (system.directory / "idle.py").write_text(_IDLE)
        trust = with_rsa_ca(system) if way in FORWARD else system.ca
        self._start(way, system)
        port = int(system.proxy.rpartition(":")[2])
        if way == "transparent":
            self.place.redirect(port)
            return Redirected(), trust
        return (Socks if way == "socks5" else Explicit)(port), trust

    def _inbound(self) -> InboundSystem:
        site = InboundSystem.make_inbound(
            self._directory / "inbound", upstream_ca=self.ca.pem, workers="1", connect_timeout_s="2.0"
        )
        site.generate(site="p256")
        for port in [*self.servers.ports.values(), *self._spares]:
            host = BOTH if port == self.both else HOST
            site.listener()
            site.site(HOST, keys=["site"], upstream=f"https://{host}:{port}", upstream_name=HOST)
        return site

    def _start(self, way: str, system: System) -> None:
        self.place.call(lambda: system.start(wait=False))
        self._stack.callback(system.stop)
        system.wait_ready()
        self.systems[way] = system

    # For tests with servers of their own.

    @contextmanager
    def serving(self, serve: Serve, port: int = 0) -> Iterator[int]:
        """A server at a port to which every way leads; `serve` has each connection, in a thread of its own."""
        port = port or next(self._next_spare)
        listener = self.place.call(lambda: socket.create_server(("127.0.0.1", port)))

        def one(connection: socket.socket) -> None:
            connection.settimeout(15)
            with suppress(OSError), connection:
                serve(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            accepting.join(10)

    def spare(self) -> int:
        """A port to which every way leads, and at which nobody listens now."""
        return next(self._next_spare)

    def open(self, way: str, port: int) -> socket.socket:
        """A client's connection by this way to what is at `port`, on which it has said nothing of its own."""
        made = self.place.run(self.through(way)[0].connect(port))
        made.settimeout(10)
        return made

    def tls(self, way: str, port: int, *alpn: str, verify: bool = True) -> ssl.SSLSocket:
        """As `open`, with TLS that trusts whom clients trust on this way."""
        context = ssl.create_default_context(cafile=str(self.through(way)[1]))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(self.open(way, port), server_hostname=HOST)

    @contextmanager
    def relayed(self, way: str, port: int, name: str = HOST) -> Iterator[int]:
        """A port of this machine for programs that know nothing of ways: what they say goes to `port` by this one, of
        a server that a proxy is asked for by `name`."""
        through = self.through(way)[0]
        if isinstance(through, Explicit | Socks):
            through = replace(through, name=name)

        relaying: set[asyncio.Task[None] | None] = set()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            relaying.add(asyncio.current_task())  # the loop itself keeps none of them
            with closing(writer), suppress(ConnectionError):
                behind = await asyncio.open_connection(sock=await through.connect(port))
                with closing(behind[1]):
                    await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer))

        listener = socket.create_server(("127.0.0.1", 0))
        server = self.place.run(asyncio.start_server(relay, sock=listener))
        yield listener.getsockname()[1]
        self.place.run(_ended(server, relaying))

    def curl(self, way: str, port: int, *options: str, path: str = "/", name: str = HOST) -> Answer:
        """A request by the real client to the server at `port`, which it knows by `name`; our site has one."""
        host = HOST if way == "inbound" else name
        with self.relayed(way, port, name) as relay:
            done = subprocess.run(
                ["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*", "--cacert",
                 str(self.through(way)[1]), "--connect-to", f"::127.0.0.1:{relay}", "--write-out",
                 "\n%{http_code} %{time_total}", *options, f"https://{host}:{port}{path}"],
                capture_output=True, text=True, errors="replace", timeout=30, check=False,
            )  # fmt: skip
        body, _, numbers = done.stdout.rpartition("\n")
        status, _, took = numbers.partition(" ")
        return Answer(int(status), body, float(took), done.stderr)


def over_tls(context: ssl.SSLContext, serve: Callable[[ssl.SSLSocket], object] | None = None) -> Serve:
    """`serve` within TLS; or who only listens, and closes without a word."""

    def served(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            if serve is None:
                tls.recv(1)
            else:
                serve(tls)

    return served


@dataclass
class Answer:
    """What curl says of it."""

    status: int
    body: str
    took_s: float
    errors: str


async def _ended(server: asyncio.Server, tasks: set[asyncio.Task[None] | None]) -> None:
    server.close()
    for one in tasks:
        if one is not None:
            one.cancel()
    await asyncio.gather(*filter(None, tasks), return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
