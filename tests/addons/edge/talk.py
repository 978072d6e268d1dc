"""mitmproxy's HTTP layer with our connections in it, in memory: bytes of a client and a server in, to both out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy import connection, options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import commands, events, mode_specs
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

import addons.modes  # noqa: F401  # the modes of our own sites can be asked for by name
from addons import seam
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.engine import backpressure
from addons.engine.leaving import WhenLeaving


class Talk:
    """One client's connection, behind which every server answers."""

    def __init__(
        self,
        http_mode: HTTPMode = HTTPMode.transparent,
        *,
        mode: str = "regular",
        alpn: bytes = b"",
        patient: bool = False,
        bounds: Bounds | None = None,
        on_hook: Callable[[commands.StartHook], None] = lambda _: None,
        **changed: Any,
    ) -> None:
        """`on_hook` stands where user scripts do; `patient` is a site whose clients may end their direction. In regular
        mode servers are opened as requests ask for them."""
        seam.put_in(bounds or Bounds())
        settings = options.Options()
        Proxyserver().load(settings)
        settings.update(**changed)
        self._client = connection.Client(
            peername=("192.0.2.1", 1234), sockname=("127.0.0.1", 8080), timestamp_start=0.0,
            state=connection.ConnectionState.OPEN, proxy_mode=mode_specs.ProxyMode.parse(mode),
        )  # fmt: skip
        self._client.alpn = alpn
        self.context = Context(self._client, settings)
        if http_mode is HTTPMode.transparent:
            self.context.server.address = self.context.server.peername = ("192.0.2.9", 80)
            self.context.server.state = connection.ConnectionState.OPEN
            self.context.server.timestamp_start = 1.0
        self._server: connection.Connection = self.context.server
        self._on_hook = on_hook
        self._stopped: dict[connection.Connection, Callable[[], bool]] = {}
        self._unread: deque[bytes] = deque()
        self.to_client = self.to_server = b""
        self.closed: list[str] = []
        self.refused: list[EdgeRefusal] = []
        self.hooks: list[str] = []
        self.logs: list[str] = []
        self.wakeups: list[commands.RequestWakeup] = []
        if patient:
            self.context.layers.append(cast(Layer, SimpleNamespace(patient=True)))
        self.layer = HttpLayer(self.context, http_mode)
        self.run(events.Start())

    def client(self, *pieces: bytes) -> Talk:
        """The client sends."""
        for piece in pieces:
            self._unread.append(piece)
        while self._unread and self.reads_client and self._client.state & connection.ConnectionState.CAN_READ:
            self.run(events.DataReceived(self._client, self._unread.popleft()))
        return self

    @property
    def reads_client(self) -> bool:
        """Whether the client is read from, or held back."""
        until = self._stopped.get(self._client)
        if until is not None and until():
            del self._stopped[self._client]
        return self._client not in self._stopped

    def server(self, *pieces: bytes) -> Talk:
        """The server sends."""
        for piece in pieces:
            if self._server.state & connection.ConnectionState.CAN_READ:
                self.run(events.DataReceived(self._server, piece))
        return self

    def client_ends(self, *, half: bool = False) -> None:
        """The client ends its direction, or goes."""
        self._end(self._client, half)

    def server_ends(self) -> None:
        """The server ends its direction."""
        self._end(self._server, half=True)

    def _end(self, conn: connection.Connection, half: bool) -> None:
        conn.state = connection.ConnectionState.CAN_WRITE if half else connection.ConnectionState.CLOSED
        self.run(events.ConnectionClosed(conn))

    def later(self) -> None:
        """The times that were asked for have passed."""
        waiting, self.wakeups = self.wakeups, []
        for one in waiting:
            self.run(events.Wakeup(one))

    def run(self, event: events.Event) -> None:
        """Handle `event` and all that follows from it at once."""
        waiting = deque([event])
        while waiting:
            for command in self.layer.handle_event(waiting.popleft()):
                if (following := self._done(command)) is not None:
                    waiting.append(following)

    def _done(self, command: commands.Command) -> events.Event | None:
        if isinstance(command, commands.SendData):
            if command.connection is self._client:
                self.to_client += command.data
            else:
                self.to_server += command.data
        elif isinstance(command, commands.CloseConnection):
            half = isinstance(command, commands.CloseTcpConnection) and command.half_close
            whose = "client" if command.connection is self._client else "server"
            self.closed.append(f"half of {whose}" if half else whose)
            still = connection.ConnectionState.CAN_READ if half else connection.ConnectionState.CLOSED
            command.connection.state &= still
        elif isinstance(command, EdgeRefusedHook):
            self.refused.append(command.data)
        elif isinstance(command, commands.StartHook):
            self.hooks.append(command.name)
            self._on_hook(command)
            return events.HookCompleted(command) if command.blocking else None
        elif isinstance(command, commands.OpenConnection):
            self._server = command.connection
            self._server.state = connection.ConnectionState.OPEN
            self._server.timestamp_start = 1.0
            return events.OpenConnectionCompleted(command, None)
        elif isinstance(command, WhenLeaving):
            pass
        elif isinstance(command, commands.RequestWakeup):
            if not isinstance(command, WhenLeaving):  # no worker stops here
                self.wakeups.append(command)
        elif isinstance(command, backpressure.Stop):
            self._stopped[command.connection] = command.until
        elif isinstance(command, commands.Log):
            self.logs.append(command.message)
        else:
            pytest.fail(f"{command} is of no kind that is known here")
        return None

    @property
    def kinds(self) -> list[str]:
        """The classes of what was refused."""
        return [one.kind for one in self.refused]

    @property
    def status(self) -> str:
        """The status of the last answer that the client got."""
        return re.findall(rb"HTTP/1\.1 (\d{3}) ", self.to_client)[-1].decode()


def script(**handlers: Callable[[Any], None]) -> Callable[[commands.StartHook], None]:
    """What a user's script does in its hooks: `requestheaders=`, `response=` and so on, each gets the flow."""

    def handle(hook: commands.StartHook) -> None:
        if hook.name in handlers:
            (argument,) = vars(hook).values() if len(vars(hook)) == 1 else (getattr(hook, "flow", None),)
            handlers[hook.name](argument)

    return handle
