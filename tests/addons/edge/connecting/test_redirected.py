"""Redirected traffic to where no connection leads, in memory: it is asked for once, and the client is told."""

from __future__ import annotations

from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, mode_specs
from mitmproxy.test import taddons
from prometheus_client import CollectorRegistry

from addons import seam
from addons.edge.connecting.proxyserver import Proxyserver
from addons.edge.connecting.redirected import Redirected
from addons.edge.listeners.next_layer import NextLayer
from addons.edge.settings import Bounds, NotTls
from tests.addons.edge.driver import Driver

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


class _Refused(Driver):
    """Nothing can be connected to."""

    def __init__(self) -> None:
        seam.put_in(Bounds())
        next_layer = NextLayer(Bounds(), NotTls.parse(passed=True, listed=[]), CollectorRegistry())
        tctx = taddons.context(Proxyserver(), next_layer)
        client = connection.Client(
            peername=("192.0.2.1", 1234), sockname=("192.0.2.2", 8080), timestamp_start=1.0,
            state=connection.ConnectionState.OPEN, proxy_mode=mode_specs.ProxyMode.parse("transparent"),
        )  # fmt: skip
        self.context = context.Context(client, tctx.options)
        self.context.server.address = ("192.0.2.7", 80)
        super().__init__(Redirected(self.context), tctx)
        (asked,) = self.of(commands.OpenConnection)
        asked.connection.error = "it refuses"
        self.tell(events.OpenConnectionCompleted(asked, "it refuses"))

    def says(self, data: bytes) -> None:
        """The client sends."""
        self.tell(events.DataReceived(self.context.client, data))

    @property
    def closed(self) -> bool:
        """Whether the client is."""
        return self.context.client in {one.connection for one in self.of(commands.CloseConnection)}


async def test_the_client_reads_why() -> None:
    """In its page; nobody tries to connect once more."""
    asked = _Refused()
    asked.says(GET)
    assert asked.sent(asked.context.client).startswith(b"HTTP/1.1 502 ")
    assert len(asked.of(commands.OpenConnection)) == 1


async def test_what_is_not_understood_is_closed() -> None:
    """A protocol that would pass has nowhere to go."""
    asked = _Refused()
    asked.says(b"\0\1\2\3 no protocol of ours")
    assert asked.closed


async def test_who_says_nothing_is_left_soon() -> None:
    """It may be waiting for its server's greeting; who has begun has the time that others have."""
    silent, heard = _Refused(), _Refused()
    heard.says(GET[:10])
    for one in (silent, heard):
        (timer,) = one.of(commands.RequestWakeup)[:1]
        one.tell(events.Wakeup(timer))
    assert silent.closed
    assert not heard.closed
