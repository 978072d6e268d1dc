"""What mitmproxy does hundreds of times for each connection, without what nobody needs of it."""

from __future__ import annotations

from collections.abc import Callable

from mitmproxy.connection import Connection
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.context import Context

_with_debug: Callable[[layer.Layer, events.Event], layer.CommandGenerator[None]] = layer.Layer.handle_event


def same(one: Connection, other: object) -> bool:
    """As Connection.__eq__: the same connection, also where a copy of it was recorded. mitmproxy asks first whether the
    other is a connection at all, which takes ten times as long as to see that both are one object."""
    return one is other or (isinstance(other, Connection) and one.id == other.id)


def fork(context: Context) -> Context:
    """As Context.fork, which makes a server of its own first, with a random id, and then drops it."""
    made = Context.__new__(Context)
    made.client, made.options, made.server = context.client, context.options, context.server
    made.layers = context.layers.copy()
    return made


def handle_event(handler: layer.Layer, event: events.Event) -> layer.CommandGenerator[None]:
    """As Layer.handle_event, for a layer that waits for nothing and whose steps nobody wants to see; a connection has
    hundreds of these calls."""
    if handler._paused is not None or handler.debug is not None:  # noqa: SLF001
        yield from _with_debug(handler, event)
        return
    going_on = handler._handle_event(event)  # noqa: SLF001
    for command in going_on:
        if command.blocking is True:
            # Layers around this one see by it that the command is waited for already.
            command.blocking = handler
            handler._paused = layer.Paused(command, going_on)  # noqa: SLF001
            yield command
            return
        yield command
