"""What a client is answered that may not have a connection: mitmproxy's HTTP layer in memory, with its door closed."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HTTPMode

from addons.edge.answers import Sentence
from addons.records.connections import facts_of
from tests.addons.edge.talk import Talk

_DENIED = Sentence("blocked-destination", "10.20.30.40 is denied by '10.0.0.0/8'")
_TOLD = b"hsmitm: a.test is not reached through this proxy: its address is denied"


class _Closed(Talk):
    """Every connection to a server fails with `error`."""

    error: str = _DENIED

    def _done(self, command: commands.Command) -> events.Event | None:
        if isinstance(command, commands.OpenConnection):
            command.connection.error = self.error
            return events.OpenConnectionCompleted(command, self.error)
        return super()._done(command)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
        b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    ],
)
@pytest.mark.parametrize("streamed", [None, "1"])
def test_what_is_denied_is_403(request_: bytes, streamed: str | None) -> None:
    """A plain request, whole or as it comes, and a CONNECT get the page that says why; scripts see an error."""
    talk = _Closed(HTTPMode.regular, stream_large_bodies=streamed).client(request_)
    assert talk.status == "403"
    assert _TOLD in talk.to_client
    assert b"10." not in talk.to_client
    assert facts_of(talk.context.client).id.encode() in talk.to_client
    assert talk.to_server == b""
    assert ("http_connect_error" if request_.startswith(b"CONNECT") else "error") in talk.hooks


def test_what_fails_otherwise_is_502_as_ever() -> None:
    """A server that does not answer is 502; what the network said of it is for the log."""

    class Failed(_Closed):
        error = "Connection refused"

    for target in (b"GET http://a.test/", b"CONNECT a.test:443"):
        talk = Failed(HTTPMode.regular).client(target + b" HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert talk.status == "502"
        assert b"a.test cannot be connected to" in talk.to_client
        assert b"refused" not in talk.to_client


def test_in_http2_it_is_the_streams_answer() -> None:
    """A name that leads elsewhere by the time its server has to be connected to again is 403 on that stream, in fields
    that HTTP/2 allows, and the connection goes on."""
    talk = _Closed(alpn=b"h2", http2_ping_keepalive=0)
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    talk.server_ends()
    head = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")]
    for stream in (1, 3):
        client.send_headers(stream, head, end_stream=True)
    talk.client(client.data_to_send())
    talk.later()
    came = client.receive_data(talk.to_client)
    answers = [one for one in came if isinstance(one, h2.events.ResponseReceived)]
    assert [dict(one.headers)[b":status"] for one in answers if one.headers] == [b"403", b"403"]
    assert not any(b"connection" in dict(one.headers) for one in answers if one.headers)
    said = b"".join(one.data for one in came if isinstance(one, h2.events.DataReceived) and one.data)
    assert said.count(_TOLD) == 2
    assert len([one for one in came if isinstance(one, h2.events.StreamEnded)]) == 2
