"""A proxy in memory: mitmproxy's HTTP layer with our connections, between a client and a server written by the test."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from mitmproxy import hooks
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, Connection, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http
from mitmproxy.test import taddons

from addons import seam
from addons.edge.http2.events import Body, Event
from addons.edge.http2.session import Session
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.engine.backpressure import WhenDrained
from addons.engine.master import HookShortcut


def _options(**given: Any) -> Options:
    options = Options()
    with taddons.context(Proxyserver(), options=options):
        options.update(http2_ping_keepalive=0, **given)
    return options


class Proxy:
    """One client's connection. `script` is called with each hook; whatever it returns True for stays unanswered."""

    def __init__(
        self,
        *,
        client: bytes = b"h2",
        server: bytes = b"h2",
        bounds: Bounds | None = None,
        script: Callable[[hooks.Hook], bool | None] = lambda _hook: None,
        around: type[http.HttpLayer] = http.HttpLayer,
        mode: http.HTTPMode = http.HTTPMode.transparent,
        **options: Any,
    ) -> None:
        self.bounds = bounds or Bounds()
        seam.put_in(self.bounds)
        self._script = script
        self.client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0)
        self.client.state, self.client.alpn = ConnectionState.OPEN, client
        self.context = Context(self.client, _options(**{"stream_large_bodies": "64k"} | options))
        self.server = self.context.server = Server(address=("localhost", 443))
        self.server.state, self.server.alpn = ConnectionState.OPEN, server
        self.sent: defaultdict[Connection, bytearray] = defaultdict(bytearray)
        self.writes: list[tuple[Connection, int]] = []
        self.closed: set[Connection] = set()
        self.refused: list[EdgeRefusal] = []
        self.later: deque[events.Event] = deque()
        """What another turn of the loop brings."""
        self.timers: list[events.Event] = []
        """What time brings."""
        self.undrained: list[WhenDrained] = []
        self.sockets_take = True
        self.held: list[commands.StartHook] = []
        self.layer = around(self.context, mode)
        self.shortcut = HookShortcut(self.layer, self)  # type: ignore[arg-type]
        self.event(events.Start())

    def at_once(self, hook: hooks.Hook) -> bool:
        """As the master's: a hook that nobody keeps is answered."""
        if isinstance(hook, EdgeRefusedHook):
            self.refused.append(hook.data)
        return not self._script(hook)

    def event(self, event: events.Event) -> None:
        """Let the layers deal with it, and do what they command."""
        for command in self.shortcut.handle_event(event):
            if isinstance(command, commands.SendData):
                assert command.connection not in self.closed
                self.sent[command.connection] += command.data
                self.writes.append((command.connection, len(command.data)))
            elif isinstance(command, commands.CloseConnection):
                self.closed.add(command.connection)
                command.connection.state = ConnectionState.CLOSED
                command.connection.timestamp_end = 1.0
            elif isinstance(command, WhenDrained):
                self.undrained.append(command)
            elif isinstance(command, commands.RequestWakeup):
                (self.timers if command.delay else self.later).append(events.Wakeup(command))
            elif isinstance(command, commands.StartHook):
                self.held.append(command)
            elif isinstance(command, commands.OpenConnection):
                self.later.append(events.OpenConnectionCompleted(command, None))

    def turn(self) -> bool:
        """One turn of the loop; whether there was anything to do."""
        if self.sockets_take:
            self.later += [events.Wakeup(one) for one in self.undrained]
            self.undrained.clear()
        if not self.later:
            return False
        event = self.later.popleft()
        if isinstance(event, events.OpenConnectionCompleted):
            self._open(event.command.connection)
        self.event(event)
        return True

    def _open(self, connection: Connection) -> None:
        assert isinstance(connection, Server)
        connection.state, connection.alpn = ConnectionState.OPEN, self.server.alpn
        self.server = connection

    def settle(self) -> None:
        """As many turns as there is something to do."""
        while self.turn():
            pass

    def feed(self, connection: Connection, data: bytes) -> None:
        """Bytes from a peer, in reads of 64 KiB, while the connection is read from."""
        while data and connection not in self.closed:
            while not self.read_from(connection):
                if not self.turn():
                    return
            self.event(events.DataReceived(connection, bytes(data[:65535])))
            data = data[65535:]

    def read_from(self, connection: Connection) -> bool:
        """Whether the connection is read from."""
        return connection not in self.shortcut.turns._stopped

    def out(self, connection: Connection) -> bytes:
        """What was sent to a peer since this was last asked."""
        data = bytes(self.sent[connection])
        self.sent[connection].clear()
        return data

    def resume(self) -> None:
        """Answer the hooks that the script kept."""
        held, self.held = self.held, []
        for hook in held:
            self.event(events.HookCompleted(hook))


class Peer:
    """An HTTP/2 end that talks with a proxy."""

    def __init__(self, proxy: Proxy, *, client: bool, bounds: Bounds | None = None) -> None:
        self._proxy = proxy
        self.client = client
        self.session = Session(bounds or Bounds(), client=client)
        self._came: list[Event] = []
        self.reads = True
        self.gives_back = True

    @property
    def connection(self) -> Connection:
        """The one that the proxy has with us."""
        return self._proxy.client if self.client else self._proxy.server

    def talk(self) -> bool:
        """Read and write what there is; whether there was anything."""
        there = self.session.pull(1 << 30)
        if there:
            self._proxy.feed(self.connection, there)
        back = self._proxy.out(self.connection) if self.reads else b""
        if back:
            self.session.receive(back)
            for event in self.session.events:
                if isinstance(event, Body) and self.gives_back:
                    self.session.give_back(event.stream_id, sum(map(len, event.chunks)))
            self._came += self.session.events
            self.session.events.clear()
        return bool(there or back)

    def taken(self) -> list[Event]:
        """What came, once."""
        taken, self._came = self._came, []
        return taken


def talk(proxy: Proxy, *peers: Peer) -> None:
    """Until nobody has anything to say."""
    while sum([one.talk() for one in peers]) or proxy.turn():
        pass


def body(events_: list[Event], stream_id: int) -> bytes:
    """What came of one stream's body."""
    return b"".join(
        chunk for one in events_ if isinstance(one, Body) and one.stream_id == stream_id for chunk in one.chunks
    )
