"""Layers driven by hand: an event in, what goes out; hooks are handled at once, as a worker does it."""

from __future__ import annotations

import time

from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.test import taddons


def arrived(tctx: taddons.context, *, port: int = 25, host: str = "mail.example") -> context.Context:
    """The context of a client whose server is connected to."""
    client = connection.Client(
        peername=("192.0.2.9", 1234), sockname=("192.0.2.1", 8080), timestamp_start=time.time(),
        state=connection.ConnectionState.OPEN,
    )  # fmt: skip
    made = context.Context(client, tctx.options)
    made.server.address = (host, port)
    made.server.timestamp_start = time.time()
    made.server.state = connection.ConnectionState.OPEN
    return made


class Driver:
    """One outermost layer."""

    def __init__(self, outermost: layer.Layer, tctx: taddons.context) -> None:
        self._outermost = outermost
        self._tctx = tctx
        self.commands: list[commands.Command] = []
        self.tell(events.Start())

    def tell(self, event: events.Event) -> None:
        """An event, and all that follows from it."""
        waiting = [event]
        while waiting:
            for command in self._outermost.handle_event(waiting.pop(0)):
                if isinstance(command, commands.StartHook):
                    self._tctx.master.addons.trigger(command)
                    if command.blocking:
                        waiting.append(events.HookCompleted(command))
                if type(command) is commands.CloseConnection:
                    command.connection.state = connection.ConnectionState.CLOSED
                self.commands.append(command)

    def sent(self, to: connection.Connection) -> bytes:
        """All that this side has got."""
        found = (one for one in self.commands if isinstance(one, commands.SendData) and one.connection is to)
        return b"".join(one.data for one in found)

    def of[T: commands.Command](self, kind: type[T]) -> list[T]:
        """The commands of a kind."""
        return [one for one in self.commands if isinstance(one, kind)]
