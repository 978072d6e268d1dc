"""Redirected traffic: what is blocked by its destination, for all that is known yet, is not connected to, and who
wanted to go where no connection leads is told so.

Nothing was said yet, so there is nothing to answer: the client is heard, and then gets its alert, or its page.
"""

from __future__ import annotations

from collections import deque

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import modes

from addons.policy import asked

_HEARD_S = 1.0
"""How long a client without a server is heard that says nothing: it may be waiting for the server's word."""


class Redirected(modes.TransparentProxy):
    """Stands in for TransparentProxy."""

    _unheard: commands.RequestWakeup | None = None
    _why = ""

    def finish_start(self) -> layer.CommandGenerator[str | None]:
        """As TransparentProxy, for who may go there, and is connected there."""
        decision = yield from asked.at_destination(self.context)
        if decision is None or decision.acts != "block":
            error = yield from super().finish_start()
            if error is None:
                return None
            self._why = error
            self._handle_event = self._unconnected
            self._unheard = commands.RequestWakeup(_HEARD_S)
            yield self._unheard
            yield from self._unconnected(events.Start())
            return None
        self._handle_event = self.child_layer.handle_event
        yield from self.child_layer.handle_event(events.Start())
        return None

    def _unconnected(self, event: events.Event) -> layer.CommandGenerator[None]:
        """What the child does without a server: whoever asks for it hears at once what was heard before."""
        if isinstance(event, events.Wakeup) and event.command is self._unheard:
            yield commands.CloseConnection(self.context.client)
            return
        if isinstance(event, events.DataReceived):
            self._unheard = None
        waiting: deque[events.Event] = deque((event,))
        while waiting:
            for command in self.child_layer.handle_event(waiting.popleft()):
                if isinstance(command, commands.OpenConnection):
                    command.connection.error = self.context.server.error
                    waiting.append(events.OpenConnectionCompleted(command, self._why))
                else:
                    yield command
