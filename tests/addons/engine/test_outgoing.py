"""What a connection's layers send goes out in few writes, in order, and nobody waits for what was kept back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.proxy.layers.tls import TlsEstablishedClientHook, TlsEstablishedServerHook
from mitmproxy.test import tflow
from mitmproxy.tls import TlsData

from addons.engine.outgoing import Outgoing


class Sent:
    """One client's connection and its server's; what is written stands in `writes`, as `C:...` and `S:...`."""

    def __init__(self) -> None:
        self.client: Client = tflow.tclient_conn()
        self.client.state, self.client.tls, self.client.timestamp_tls_setup = ConnectionState.OPEN, True, None
        self.client.tls_version = "TLSv1.3"
        self.server: Server = tflow.tserver_conn()
        self.context = context.Context(self.client, Options())
        self.outgoing = Outgoing(self.client)
        self.writes: list[str] = []

    def to(self, peer: Client | Server, data: bytes) -> None:
        ready = self.outgoing.send(commands.SendData(peer, data))
        self._write([ready] if ready else [])

    def _write(self, ready: list[commands.SendData]) -> None:
        self.writes += [f"{'C' if one.connection is self.client else 'S'}:{one.data.decode()}" for one in ready]

    def close(self, peer: Client | Server) -> None:
        self._write(list(self.outgoing.before(commands.CloseConnection(peer))))
        self.writes.append("C closed" if peer is self.client else "S closed")

    def other(self) -> None:
        """Something that is no data."""
        self._write(list(self.outgoing.before(commands.Log("a line"))))

    def end(self, of: Client | Server) -> None:
        """What came from this peer is dealt with."""
        self._write(list(self.outgoing.after(events.DataReceived(of, b""))))

    def connected(self) -> None:
        """The server's handshake is complete."""
        self.outgoing.established(TlsEstablishedServerHook(TlsData(self.server, self.context)))
        self.to(self.server, b"finished ")

    def accepted(self) -> None:
        """The client's is."""
        self.client.timestamp_tls_setup = 1.0
        self.outgoing.established(TlsEstablishedClientHook(TlsData(self.client, self.context)))
        self.to(self.client, b"tickets ")


@pytest.fixture
def sent() -> Sent:
    """A new one."""
    return Sent()


def test_a_request_that_comes_with_the_clients_finished(sent: Sent) -> None:
    """Our Finished goes with the request, the client's tickets go with the answer."""
    sent.connected()
    sent.to(sent.client, b"hello")
    sent.end(sent.server)
    assert sent.writes == ["C:hello"]
    sent.accepted()
    sent.to(sent.server, b"request")
    sent.end(sent.client)
    assert sent.writes == ["C:hello", "S:finished request"]
    sent.end(sent.server)  # its own tickets
    sent.to(sent.client, b"answer")
    sent.end(sent.server)
    assert sent.writes == ["C:hello", "S:finished request", "C:tickets answer"]


def test_a_request_that_comes_later(sent: Sent) -> None:
    """A client that says nothing yet has its tickets at once, and its server our Finished: it may speak first."""
    sent.connected()
    sent.end(sent.server)
    assert sent.writes == []
    sent.accepted()
    sent.end(sent.client)
    assert sorted(sent.writes) == ["C:tickets ", "S:finished "]
    sent.to(sent.server, b"request")
    sent.end(sent.client)
    sent.to(sent.client, b"answer")
    sent.end(sent.server)
    assert sent.writes[2:] == ["S:request", "C:answer"]


def test_what_went_to_the_server_before(sent: Sent) -> None:
    """Data that went to a server before the client's handshake was complete are no request."""
    sent.to(sent.server, b"preface")
    sent.accepted()
    sent.to(sent.client, b"settings")
    sent.end(sent.client)
    assert sent.writes == ["S:preface", "C:tickets settings"]
    sent.to(sent.server, b"preface")
    sent.accepted()
    sent.end(sent.client)
    assert sent.writes[2:] == ["S:preface", "C:tickets "]


def test_a_client_that_writes_on(sent: Sent) -> None:
    """While the client sends its body its tickets may wait; they go when it sends what leads to nothing."""
    sent.accepted()
    sent.to(sent.server, b"head")
    sent.end(sent.client)
    sent.to(sent.server, b"body")
    sent.end(sent.client)
    assert sent.writes == ["S:head", "S:body"]
    sent.end(sent.client)
    assert sent.writes == ["S:head", "S:body", "C:tickets "]


def _gone(sent: Sent) -> None:
    sent.client.state = ConnectionState.CLOSED


def _half_closed(sent: Sent) -> None:
    sent.client.state = ConnectionState.CAN_WRITE


@pytest.mark.parametrize("leaves", [_gone, _half_closed])
def test_a_client_that_leaves(sent: Sent, leaves: Callable[[Sent], None]) -> None:
    """Where the client's handshake comes to nothing, the server's is completed all the same."""
    sent.connected()
    sent.end(sent.server)
    leaves(sent)
    sent.end(sent.client)
    assert sent.writes == ["S:finished "]


def test_a_close_behind_what_is_kept(sent: Sent) -> None:
    """Nothing that was kept back for a peer is lost when it is closed, and another's close moves nothing."""
    sent.connected()
    sent.close(sent.server)
    assert sent.writes == ["S:finished ", "S closed"]
    sent.accepted()
    sent.to(sent.server, b"request")
    sent.end(sent.client)
    sent.close(sent.server)
    sent.to(sent.client, b"answer")
    sent.close(sent.client)
    assert sent.writes[2:] == ["S:request", "S closed", "C:tickets answer", "C closed"]
    sent.accepted()
    sent.close(sent.client)
    assert sent.writes[-2:] == ["C:tickets ", "C closed"]


def _udp(sent: Sent) -> None:
    sent.client.transport_protocol = sent.server.transport_protocol = "udp"
    sent.client.tls_version = "DTLSv1.2"


def _tls_1_2(sent: Sent) -> None:
    sent.client.tls_version = "TLSv1.2"
    sent.client.tls = False


@pytest.mark.parametrize("kind", [_udp, _tls_1_2])
def test_what_somebody_waits_for(sent: Sent, kind: Callable[[Sent], None]) -> None:
    """Datagrams stay as they are. In TLS 1.2 it is the server's Finished that comes last: the client waits for it. A
    client that speaks no TLS has no handshake that the server's Finished could wait for."""
    kind(sent)
    sent.connected()
    sent.end(sent.server)
    sent.accepted()
    sent.to(sent.server, b"a")
    sent.to(sent.server, b"b")
    sent.end(sent.client)
    together = ["S:ab"] if kind is _tls_1_2 else ["S:a", "S:b"]
    assert sent.writes == ["S:finished ", "C:tickets ", *together]


def test_only_what_comes_right_behind_the_handshake(sent: Sent) -> None:
    """Where there were no tickets, the first data that the client gets are an answer: they are not kept back."""
    for between in (
        sent.other,
        lambda: sent.end(sent.client),
        lambda: sent.outgoing.established(HttpRequestHook(tflow.tflow())),
    ):
        sent.writes.clear()
        sent.outgoing.established(TlsEstablishedClientHook(TlsData(sent.client, sent.context)))
        between()
        sent.to(sent.client, b"answer")
        sent.to(sent.server, b"next")
        sent.end(sent.client)
        assert sent.writes == ["C:answer", "S:next"]


def test_a_handshake_inside_of_another(sent: Sent) -> None:
    """A client that speaks TLS in TLS to the proxy has two last flights: neither is lost, and they stay in order."""
    sent.accepted()
    sent.to(sent.server, b"request")
    sent.end(sent.client)
    sent.outgoing.established(TlsEstablishedClientHook(TlsData(sent.client, sent.context)))
    sent.to(sent.client, b"inner tickets")
    sent.end(sent.client)
    assert sent.writes == ["S:request", "C:tickets inner tickets"]


def test_a_servers_handshake_inside_of_another(sent: Sent) -> None:
    """Likewise towards a server behind a proxy that is itself reached over TLS."""
    sent.connected()
    sent.connected()
    sent.end(sent.server)
    assert sent.writes == ["S:finished finished "]


def test_nothing_overtakes_what_is_too_large(sent: Sent) -> None:
    """Tickets behind so much data for the client that they do not fit in stay behind them."""
    sent.to(sent.client, bytes(65530))
    sent.accepted()
    sent.to(sent.client, b"x")
    sent.end(sent.client)
    assert [len(one) - 2 for one in sent.writes] == [65530, len(b"tickets x")]
