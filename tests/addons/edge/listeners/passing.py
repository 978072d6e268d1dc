"""A proxy on real sockets in one thread, whose policy passes everything by, or is a test's: a worker's handler, layers
and event loop, without the signer and without processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Self

from mitmproxy.addons import core, proxyserver
from mitmproxy.proxy import context, layer, mode_specs
from mitmproxy.proxy.layers import modes
from prometheus_client import CollectorRegistry

from addons import seam
from addons.edge.connecting.connecting import Connecting
from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.resolver import Found, Resolver
from addons.edge.connecting.socks import Socks5
from addons.edge.listeners.handler import EdgeHandler
from addons.edge.listeners.listeners import Listeners
from addons.edge.listeners.next_layer import NextLayer
from addons.edge.proving.probe import Probe
from addons.edge.proving.proof import Proof
from addons.edge.proving.trial import shake
from addons.edge.refusal import Refusals
from addons.edge.settings import Bounds, NotTls
from addons.engine.loop import WorkerLoop
from addons.engine.master import LeanMaster
from addons.engine.stock_addons import LeanOptions
from addons.policy.addon import PolicyAddon
from addons.policy.asked import Deciding
from addons.policy.rules import Compiled
from addons.records.connections import Connections, facts_of
from addons.records.facts import Decision, Facts
from addons.upstream.tls import UpstreamTls
from tests.waiting import pause, until

Choose = Callable[[Facts], Decision]


def bypass(_: Facts) -> Decision:
    """Whatever it is, it is not opened."""
    return Decision("everything", "bypass")


_TOP: dict[str, Callable[[context.Context], layer.Layer]] = {
    "regular": modes.HttpProxy,
    "upstream": modes.HttpUpstreamProxy,
    "socks5": Socks5,
    "transparent": modes.TransparentProxy,
}


class Chosen:
    """A policy that decides by a function of a test's."""

    name = "policy"

    def __init__(self, choose: Choose = bypass) -> None:
        self._choose = choose

    def policy_decide(self, data: Deciding) -> None:
        """The decision is needed."""
        facts = facts_of(data.client)
        if facts.hello:
            facts.decision = self._choose(facts)


class Passing:
    """The proxy; a context manager. `facts` are those of the connections that are over."""

    def __init__(
        self, choose: Choose | Compiled = bypass, *, mode: str = "regular", bounds: Bounds | None = None,
        lookup: Callable[[str], tuple[Found, ...]] | None = None, to: tuple[str, int] | None = None,
        addons: Sequence[object] = (), lazy: bool = False, **options: object,
    ) -> None:  # fmt: skip
        self.facts: list[Facts] = []
        self.handlers: list[EdgeHandler] = []
        self.port = 0
        self.asked: list[str] = []
        self._mode = mode_specs.ProxyMode.parse(mode)
        self._bounds = bounds or Bounds(connections_per_client=5000)
        self._choose = choose
        self._lookup = lookup
        self._to = to
        self._addons = addons
        self._options = options | {"connection_strategy": "lazy" if lazy else "eager"}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop: Callable[[], None] = lambda: None

    def soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Have the proxy's thread call this."""
        self._loop.call_soon_threadsafe(call, *arguments)

    def ask[T](self, call: Callable[[], Coroutine[None, None, T]]) -> T:
        """What becomes of this in the proxy's thread."""
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(20)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the proxy does not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        self.soon(self._stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: WorkerLoop(5)) as runner:
            runner.run(self._serve())

    def _names(self, name: str) -> tuple[Found, ...]:
        self.asked.append(name)
        return self._lookup(name) if self._lookup else ((2, ("127.0.0.1", 0)),)

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop = loop
        loop.set_task_factory(asyncio.eager_task_factory)
        self._stop = stop.set
        master = LeanMaster(LeanOptions(), loop)
        seam.put_in(self._bounds)
        registry = CollectorRegistry()
        refusals = Refusals(registry)
        listeners = self.listeners = Listeners(self._bounds, registry)
        self.probe = Probe(shake, listeners.cut, 2, registry)
        resolver = Resolver(per_client=64, lookup_s=5, lookup=self._names)
        choose = self._choose
        policy = PolicyAddon(choose) if isinstance(choose, Compiled) else Chosen(choose)
        if isinstance(policy, PolicyAddon):
            policy.prove = Proof(resolver.addresses, self.probe).prove
        master.addons.add(
            core.Core(), proxyserver.Proxyserver(), NextLayer(self._bounds, NotTls(), registry),
            Connections(self.facts.append), refusals, self.listeners,
            Connecting(resolver, Destinations(()), refusals), policy,
            UpstreamTls(), self.probe, *self._addons,
        )  # fmt: skip
        master.options.update(**self._options)
        self.listeners.running()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handler = EdgeHandler(master, reader, writer, master.options, self._mode)
            self.handlers.append(handler)
            made = handler.layer.context
            made.server.address = self._to  # what a redirected connection's socket says
            handler.layer = _TOP[self._mode.type_name](made)
            await handler.handle_client()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await stop.wait()
        server.close()
        for handler in self.handlers:
            handler.cut("over")
        limits = listeners.limits
        await until(lambda: not limits.clients and not limits.servers, "all are gone")
        await pause(0.01)  # what is closed is closed in another turn of the loop
        self.listeners.done()
        master._legacy_log_events.uninstall()
