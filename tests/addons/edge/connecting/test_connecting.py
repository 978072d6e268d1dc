"""Connections on behalf of clients: mitmproxy's own handler on the worker's loop, with real listeners behind it."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from mitmproxy import connection
from mitmproxy.addons import next_layer
from mitmproxy.proxy import commands, events, layer, mode_specs, server_hooks
from mitmproxy.proxy.context import Context
from prometheus_client import CollectorRegistry

from addons.edge.connecting.connecting import Connecting, NoConnectionError, RefusedError
from addons.edge.connecting.destinations import DENIED, Destinations
from addons.edge.connecting.resolver import Found, Resolver
from addons.edge.refusal import Refusals
from addons.engine.loop import CONNECT, WorkerLoop
from addons.engine.master import LeanConnectionHandler, LeanMaster
from addons.engine.stock_addons import LeanOptions
from addons.modes import InboundMode


def _found(*addresses: str) -> tuple[Found, ...]:
    return tuple(
        (int(socket.AF_INET6), (one, 0, 0, 0)) if ":" in one else (int(socket.AF_INET), (one, 0)) for one in addresses
    )


class _Names:
    """A name server whose answers change: each look-up of a name has the next one, and its last one for ever."""

    def __init__(self, **answers: Sequence[tuple[Found, ...]]) -> None:
        self._answers = {name.replace("_", "."): list(found) for name, found in answers.items()}

    def __call__(self, name: str) -> tuple[Found, ...]:
        found = self._answers[name]
        return found.pop(0) if len(found) > 1 else found[0]


def _connecting(names: _Names, denied: Sequence[str] = DENIED, allowed: Sequence[str] = ()) -> Connecting:
    resolver = Resolver(per_client=4, lookup_s=2, lookup=names)
    return Connecting(resolver, Destinations(denied, allowed), Refusals(CollectorRegistry()))


def _client(mode: str = "regular") -> connection.Client:
    return connection.Client(
        peername=("192.0.2.1", 1), sockname=("192.0.2.2", 8080), proxy_mode=mode_specs.ProxyMode.parse(mode),
        state=connection.ConnectionState.OPEN,
    )  # fmt: skip


async def _connected(
    made: Connecting, client: connection.Client, stated: connection.Address | None, host: str, port: int
) -> str:
    """The address that a connection for `client` ends at."""
    CONNECT.set(functools.partial(made.connect, client, stated, b""))
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    address: str = transport.get_extra_info("peername")[0]
    transport.abort()
    return address


def _run[T](main: Callable[[], Awaitable[T]]) -> T:
    async def body() -> T:
        return await main()

    with asyncio.Runner(loop_factory=lambda: WorkerLoop(5)) as runner:
        return runner.run(body())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A service of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(0)
        yield made


def _untouched(listener: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_name_that_leads_here_is_refused(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    """A name of a stranger's zone that resolves to this machine connects to nothing, and is told in one line."""
    port = listener.getsockname()[1]
    made = _connecting(_Names(evil_example=[_found("127.0.0.1")]))
    with caplog.at_level(logging.WARNING), pytest.raises(RefusedError) as caught:
        _run(lambda: _connected(made, _client(), None, "evil.example", port))
    assert caught.value.sentence.status == 403
    assert str(caught.value).startswith(f"evil.example:{port} is not reached through this proxy: ")
    assert [one.getMessage() for one in caplog.records] == [
        f"client 192.0.2.1:1 refused (blocked-destination): evil.example:{port} (127.0.0.1) is denied by 'loopback'"
    ]
    _untouched(listener)


def test_each_address_of_an_answer_is_judged(listener: socket.socket) -> None:
    """A name with a good address and a denied one, that one first, is reached at the good one or not at all."""
    names = _Names(mixed_example=[_found("127.0.0.1", "127.0.0.9", "::1")])
    made = _connecting(names, denied=["127.0.0.9", "::1"])

    port = listener.getsockname()[1]
    assert _run(lambda: _connected(made, _client(), None, "mixed.example", port)) == "127.0.0.1"
    closed = _connecting(names, denied=["127.0.0.0/8", "::1"])
    with pytest.raises(RefusedError):
        _run(lambda: _connected(closed, _client(), None, "mixed.example", port))


def test_the_address_that_was_judged_is_the_one(listener: socket.socket) -> None:
    """A name server that gives a good address first and this machine's a moment later (rebinding) gains nothing: there
    is one look-up between question and connection."""
    port = listener.getsockname()[1]
    names = _Names(rebound_example=[_found("127.0.0.9"), _found("127.0.0.1")])
    made = _connecting(names, denied=["127.0.0.1"])
    with pytest.raises(NoConnectionError, match="refused"):
        _run(lambda: _connected(made, _client(), None, "rebound.example", port))
    with pytest.raises(RefusedError):
        _run(lambda: _connected(made, _client(), None, "rebound.example", port))
    _untouched(listener)


@pytest.mark.parametrize(
    ("mode", "stated", "reached"),
    [
        ("regular", False, False),
        ("inbound:0", True, True),
        ("inbound:0", False, False),
        ("inboundtransparent:0", False, False),
        ("transparent", False, False),
        ("upstream:http://127.0.0.1:{port}", False, True),
        ("upstream:http://127.0.0.1:1", False, False),
    ],
)
def test_what_the_operator_has_configured_is_exempt(
    listener: socket.socket, mode: str, stated: bool, reached: bool
) -> None:
    """A site's server and the next proxy are often on this machine: the operator has said so, and no client. Where
    redirected traffic was going to is the client's word, also on the way in."""
    port = listener.getsockname()[1]
    assert InboundMode.type_name == "inbound", "it registers itself"
    client = _client(mode.format(port=port))
    made = _connecting(_Names())

    def main() -> Awaitable[str]:
        return _connected(made, client, ("127.0.0.1", port) if stated else None, "127.0.0.1", port)

    if reached:
        _run(main)
    else:
        with pytest.raises(RefusedError):
            _run(main)
        _untouched(listener)


class _Opening(layer.Layer):
    """Opens a connection to where it is told, and remembers what came of it."""

    error: str | None = "not tried"

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            self.error = yield commands.OpenConnection(self.context.server)


class _Script:
    """A user's script: it sends connections elsewhere, and calls a service of its own from its hook."""

    def __init__(self, own: int, to: tuple[str, int] | None) -> None:
        self._own, self._to = own, to

    async def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Called before mitmproxy connects."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._own)
        writer.close()
        if self._to is not None:
            data.server.address = self._to


async def _opened(made: Connecting, address: tuple[str, int], *scripts: object) -> str | None:
    """What a client's connection to `address` ends with, through mitmproxy's handler."""
    loop = asyncio.get_running_loop()
    master = LeanMaster(LeanOptions(), loop)
    master.addons.add(next_layer.NextLayer(), made, *scripts)
    reader, writer = asyncio.StreamReader(), _Writer()
    handler: Any = LeanConnectionHandler(master, reader, writer, master.options, mode_specs.ProxyMode.parse("regular"))
    context: Context = handler.layer.context
    context.server.address = address
    opening = handler.layer = _Opening(context)
    serving = asyncio.create_task(handler.handle_client())
    async with asyncio.timeout(5):
        while opening.error == "not tried":
            await asyncio.sleep(0.001)
    reader.feed_eof()
    handler.transports[handler.client].handler.cancel()
    await serving
    return opening.error


class _Writer:
    """A client's end that nobody writes to."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 8080)}.get(name, default)

    async def drain(self) -> None:
        """It is drained."""

    def close(self) -> None:
        """It is closed."""


def test_the_handler_connects_this_way(listener: socket.socket) -> None:
    """mitmproxy's own code, asked for a connection to a denied address, gets the refusal as its error."""
    error = _run(lambda: _opened(_connecting(_Names()), ("127.0.0.1", listener.getsockname()[1])))
    assert error is not None
    assert "is not reached through this proxy" in error
    _untouched(listener)


def test_a_scripts_redirection_is_judged_and_its_own_connections_are_not(listener: socket.socket) -> None:
    """A script that sends a client to this machine is no way round, even if it has connections of its own in the same
    hook, which are the operator's."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        own.settimeout(5)
        script = _Script(own.getsockname()[1], ("127.0.0.1", listener.getsockname()[1]))
        error = _run(lambda: _opened(_connecting(_Names()), ("192.0.2.9", 1), script))
        own.accept()[0].close()
    assert error is not None
    assert "is not reached through this proxy" in error
    _untouched(listener)


def test_who_connects_for_itself_goes_its_own_way(listener: socket.socket) -> None:
    """What is set for one connection of a client holds for that one alone."""

    async def main() -> None:
        made = _connecting(_Names())
        CONNECT.set(functools.partial(made.connect, _client(), None, b""))
        with pytest.raises(RefusedError):
            await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        _, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        writer.close()

    _run(main)


def test_too_many_lookups_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A client that has too many look-ups in progress hears that, and so does the operator."""

    def never(_: str) -> tuple[Found, ...]:
        raise AssertionError("nobody is asked")

    async def main() -> None:
        resolver = Resolver(per_client=4, lookup_s=0.05, places=0, lookup=never)
        made = Connecting(resolver, Destinations(()), Refusals(CollectorRegistry()))
        with pytest.raises(RefusedError, match=r"a\.example was not looked up: ") as caught:
            await _connected(made, _client(), None, "a.example", 443)
        assert caught.value.sentence.status == 502

    with caplog.at_level(logging.WARNING):
        _run(main)
    assert [one.getMessage() for one in caplog.records] == ["client 192.0.2.1:1 refused (too-many-lookups): a.example"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "::ffff:127.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "127。0。0。1",
    ],
)
def test_spellings_are_read_for_another_proxy(host: str) -> None:
    """What another proxy would connect to is looked at in every spelling of an address."""
    assert _connecting(_Names()).refused_literal(_client(), host, 80) is not None


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1.example", "1.2.3.4.5", "8.8.8.8", "134744072", "1e100.net", "7-zip.org"]
)
def test_names_are_for_another_proxy_to_look_up(host: str) -> None:
    """Names, and addresses of the rest of the world, are passed on."""
    assert _connecting(_Names()).refused_literal(_client(), host, 80) is None
    assert ipaddress.ip_address("8.8.8.8") == ipaddress.ip_address(134744072)
