"""What stands in for mitmproxy's most frequent steps does as those do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mitmproxy import options
from mitmproxy.connection import Client, Connection, Server
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context

from addons.engine import shortcuts

_mitmproxys = shortcuts._with_debug  # Layer.handle_event, before it is stood in for
Handle = Callable[[layer.Layer, events.Event], layer.CommandGenerator[None]]


def _client() -> Client:
    return Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 8080))


def _context() -> Context:
    return Context(_client(), options.Options())


class _Asks(layer.Layer):
    """A layer that waits for a connection at its start, and passes on what comes."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            error = yield commands.OpenConnection(self.context.server)
            yield commands.SendData(self.context.client, f"opened: {error}".encode())
        elif isinstance(event, events.DataReceived):
            yield commands.SendData(self.context.server, event.data)
            yield commands.SendData(self.context.client, b"passed on " + event.data)


def _played(handle: Handle, debug: str | None) -> list[str]:
    """What a layer says to a connection's events, some of which come while it waits."""
    asks, said = _Asks(_context()), list[str]()
    asks.debug = debug
    begun = list(handle(asks, events.Start()))
    (opening,) = [one for one in begun if isinstance(one, commands.OpenConnection)]
    blocked_by = opening.blocking
    assert blocked_by is asks, "layers around it see that it is waited for"
    said += map(_told, begun)
    for event in (
        events.DataReceived(asks.context.client, b"early"),
        events.DataReceived(asks.context.client, b"earlier"),
        events.OpenConnectionCompleted(opening, None),
        events.DataReceived(asks.context.client, b"late"),
    ):
        said += map(_told, handle(asks, event))
        said.append("-")
    return said


def _told(command: commands.Command) -> str:
    data = command.data.decode() if isinstance(command, commands.SendData) else ""
    return f"{type(command).__name__} {data}"


@pytest.mark.parametrize("debug", [None, "  "])
def test_a_layer_is_driven_as_mitmproxy_drives_it(debug: str | None) -> None:
    """Commands, their order, and what waits for an answer are the same, with mitmproxy's debugging and without."""
    assert _played(shortcuts.handle_event, debug) == _played(_mitmproxys, debug)
    assert "SendData passed on early" in _played(shortcuts.handle_event, debug)


def test_what_is_the_same_connection() -> None:
    """A connection is itself and its copy in a recorded flow; nothing else is it."""
    one, other = Server(address=("a.test", 443)), Server(address=("a.test", 443))
    copy = Server.from_state(one.get_state())
    pairs: list[tuple[Connection, object]] = [(one, one), (one, other), (one, copy), (one, _client()), (one, "a.test")]
    for left, right in pairs:
        assert shortcuts.same(left, right) == (isinstance(right, Connection) and left.id == right.id)
    assert shortcuts.same(one, copy)
    assert not shortcuts.same(one, other)


def test_a_fork_has_all_that_mitmproxy_gives_it() -> None:
    """A stream's context has the client, the server and the options of its connection, and layers of its own."""
    context = _context()
    context.layers.append(_Asks(context))
    forked = shortcuts.fork(context)
    assert vars(forked) == vars(Context.fork(context))
    assert type(forked) is Context
    forked.layers.clear()
    assert context.layers, "its own list"
