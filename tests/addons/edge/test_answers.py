"""What a client is told in HTTP of what came to nothing: in each version, whatever was said of it further in."""

from __future__ import annotations

import urllib.parse
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.http._events import ErrorCode

from addons.edge.answers import Sentence, kind
from addons.edge.http2.server import Http2Server
from addons.records.connections import facts_of
from addons.records.facts import Facts
from tests.addons.edge.talk import Talk, script

INWARD = "LunaHSM2 par-17 /usr/lib/libCryptoki2.so 10.20.30.40 pkcs11:token=x CKR_DEVICE_ERROR"
"""What servers, the network and the HSM say, and no client may read."""
GET = b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n"


class _Closed(Talk):
    """Every connection to a server fails with `error`."""

    error: str = INWARD

    def _done(self, command: commands.Command) -> events.Event | None:
        if isinstance(command, commands.OpenConnection):
            command.connection.error = self.error
            return events.OpenConnectionCompleted(command, self.error)
        return super()._done(command)


class _H2:
    """A client of HTTP/2 in front of a `Talk`, and what it was answered."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self._client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._client.initiate_connection()
        self.head: dict[str, str] = {}
        self.content = b""
        self.ended = False

    def ask(self, method: str = "GET", **fields: str) -> _H2:
        """One request, and whatever comes back."""
        head = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "a.test")]
        head += [(name.replace("_", "-"), value) for name, value in fields.items()]
        self._client.send_headers(self._client.get_next_available_stream_id(), head, end_stream=True)
        return self.read()

    def leave(self, stream_id: int) -> _H2:
        """Reset a stream."""
        self._client.reset_stream(stream_id)
        return self.read()

    def read(self) -> _H2:
        """What has come since."""
        self.talk.client(self._client.data_to_send())
        self.talk.later()
        for event in self._client.receive_data(self.talk.to_client):
            if isinstance(event, h2.events.ResponseReceived):
                self.head = dict(event.headers)  # type: ignore[arg-type]  # decoded, as configured
            elif isinstance(event, h2.events.DataReceived):
                self.content += event.data or b""
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
        self.talk.to_client = b""
        return self


def _behind_http2() -> _H2:
    talk = _Closed(alpn=b"h2", http2_ping_keepalive=0)
    talk.server_ends()
    return _H2(talk)


def _nothing_inward(said: bytes) -> None:
    text = urllib.parse.unquote(said.decode())
    for word in INWARD.split():
        assert word not in text, word


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
@pytest.mark.parametrize(
    "upgrade", [b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"]
)
def test_a_client_of_http_1_gets_a_page_it_can_read(accept: str, upgrade: bytes) -> None:
    """A browser gets HTML, others text, a WebSocket's handshake the same; with the id, and no word from further in."""
    talk = _Closed(HTTPMode.regular).client(GET + upgrade + f"Accept: {accept}\r\n\r\n".encode())
    assert talk.status == "502"
    assert b"a.test cannot be connected to" in talk.to_client
    assert (b"<!doctype html>" in talk.to_client) is (accept == "text/html")
    assert f"Hsmitm-Id: {facts_of(talk.context.client).id}\r\n".encode() in talk.to_client
    assert b"Connection: close\r\n" in talk.to_client
    _nothing_inward(talk.to_client)


def test_a_connect_has_the_id_in_its_head() -> None:
    """Where only the CONNECT can be answered the id is in a header."""
    talk = _Closed(HTTPMode.regular).client(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n")
    assert talk.status == "502"
    assert f"Hsmitm-Id: {facts_of(talk.context.client).id}\r\n".encode() in talk.to_client
    _nothing_inward(talk.to_client)


def test_head_has_no_content_in_http_1() -> None:
    """A client that sent HEAD reads no content, so none may come."""
    talk = _Closed(HTTPMode.regular).client(GET.replace(b"GET", b"HEAD") + b"\r\n")
    assert talk.status == "502"
    assert talk.to_client.endswith(b"\r\n\r\n")


def test_a_scripts_answer_to_a_connect_stays() -> None:
    """A script that refuses a CONNECT with 502 itself is heard, and nobody else."""

    def refuse(flow: Any) -> None:
        from mitmproxy import http  # noqa: PLC0415

        flow.response = http.Response.make(502, b"mine")

    talk = _Closed(HTTPMode.regular, on_hook=script(http_connect=refuse))
    talk.client(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n")
    assert talk.to_client.endswith(b"mine")


def test_where_a_script_leads_is_not_told() -> None:
    """A request that a script sends elsewhere fails under the name that the client asked for."""

    def lead(flow: Any) -> None:
        flow.request.host = "10.20.30.40"

    talk = _Closed(HTTPMode.regular, on_hook=script(requestheaders=lead)).client(GET + b"\r\n")
    assert b"Host: a.test\n" in talk.to_client
    _nothing_inward(talk.to_client)


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_a_client_of_http_2_gets_it_on_its_stream(accept: str) -> None:
    """Over HTTP/2 the page is the stream's answer, in fields that HTTP/2 allows."""
    client = _behind_http2().ask(accept=accept)
    assert (client.head[":status"], client.ended) == ("502", True)
    assert client.head["content-type"].startswith("text/html" if accept == "text/html" else "text/plain")
    assert client.head["hsmitm-id"] == facts_of(client.talk.context.client).id
    assert "connection" not in client.head
    assert b"a.test cannot be connected to" in client.content
    _nothing_inward(client.content)


def test_head_has_no_content_in_http_2() -> None:
    """HEAD over HTTP/2 ends with its head."""
    client = _behind_http2().ask("HEAD")
    assert (client.head[":status"], client.content, client.ended) == ("502", b"", True)


def test_grpc_reads_its_own_status() -> None:
    """A gRPC client gets its status, and the sentence, in the head that ends its stream."""
    client = _behind_http2().ask("POST", content_type="application/grpc", te="trailers")
    assert (client.head[":status"], client.head["grpc-status"], client.ended) == ("200", "14", True)
    assert "a.test cannot be connected to" in client.head["grpc-message"]
    _nothing_inward(client.head["grpc-message"].encode())


def _kept(client: _H2) -> dict[int, Any]:
    (server,) = (one for one in client.talk.layer.connections.values() if isinstance(one, Http2Server))
    return server._came_with


def test_nothing_is_kept_of_requests_that_were_answered_or_reset() -> None:
    """A connection that has served many streams holds none of their heads, whoever ended them."""
    client = _behind_http2()
    for _ in range(5):
        client.ask()
    assert _kept(client) == {}
    waiting = _H2(Talk(alpn=b"h2", http2_ping_keepalive=0)).ask()
    assert list(_kept(waiting)) == [1]
    waiting.leave(1)
    assert _kept(waiting) == {}


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "400", b"There is no Host field."),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", "431", b"head is too large"),
    ],
)
def test_who_made_a_request_badly_is_told_what_is_wrong(sent: bytes, status: str, said: bytes) -> None:
    """What our own parser says of the client's own bytes helps whoever wrote that client."""
    talk = Talk(HTTPMode.regular).client(sent)
    assert talk.status == status
    assert said in talk.to_client
    assert b"\r\nHsmitm-Id: " in talk.to_client


def test_a_servers_nonsense_is_not_quoted() -> None:
    """An answer that is none is told of, and not a byte of it."""
    talk = (
        Talk()
        .client(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .server(b"HTTP/1.1 200 OK\r\n" + INWARD.encode() + b"\r\n\r\n")
    )
    assert b"a.test gave an answer that cannot be passed on" in talk.to_client
    _nothing_inward(talk.to_client)


def _facts(*, plain: bool = False) -> Facts:
    facts = Facts(id="1", began=0, began_monotonic=0, plain=plain)
    facts.fail("server-expired", "server", INWARD)
    return facts


def test_a_failure_that_is_known_is_told() -> None:
    """Behind a CONNECT the page says what was wrong with the server's certificate."""
    text = "no TLS with a.test, which must prove who it is: certificate verify failed"
    assert kind(text, ErrorCode.CONNECT_FAILED, _facts()) == "server-expired"
    assert kind(text, ErrorCode.CONNECT_FAILED, Facts(id="1", began=0, began_monotonic=0)) == "server-unproven"


def test_one_hosts_failure_is_not_anothers() -> None:
    """A client that asks a proxy for one plain page after the other is not told of the first one's failure again."""
    assert kind("refused", ErrorCode.CONNECT_FAILED, _facts(plain=True)) == "connect-failed"
    assert kind(Sentence("dns-failed", "x"), ErrorCode.CONNECT_FAILED, _facts()) == "dns-failed"


@pytest.mark.parametrize("code", ErrorCode)
def test_each_error_that_http_can_answer_has_its_own_kind(code: ErrorCode) -> None:
    """No error of mitmproxy's is told as a fault of ours."""
    if code.http_status_code() is not None:
        assert kind("x", code, Facts(id="1", began=0, began_monotonic=0)) != "internal"
