"""HTTP/1 towards the server, in mitmproxy's own HTTP layer, in memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.layers.http import HttpClient, HTTPMode, _http1
from mitmproxy.proxy.layers.tcp import TcpMessageInjected
from mitmproxy.tcp import TCPMessage

from addons.edge.http1.client import Http1Client
from addons.edge.http1.server import Http1Server
from tests.addons.edge.http1.test_sections import cut
from tests.addons.edge.talk import Talk, script

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

_REFUSED = [
    b"HTTP/1.2 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: forged\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"I don't speak HTTP.\r\n\r\n",
]


@pytest.mark.parametrize("sent", _REFUSED)
@pytest.mark.parametrize("mode", ["regular", "inbound:0"])
@pytest.mark.parametrize("checks", [True, False])
def test_what_is_no_answer_becomes_a_502(sent: bytes, mode: str, checks: bool) -> None:
    """In each mode, with a reason in the page, one line, and no byte of it to the client."""
    talk = Talk(mode=mode, validate_inbound_headers=checks).client(GET).server(sent)
    assert talk.to_client.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"gave an answer that cannot be passed on" in talk.to_client
    assert b"forged" not in talk.to_client
    assert talk.closed == ["server", "client"]
    assert talk.kinds == ["malformed-response"]
    assert talk.hooks[-1] == "error"


@settings(max_examples=100, deadline=None)
@given(sent=st.sampled_from(_REFUSED), places=st.lists(st.integers(0, 100), max_size=6))
def test_a_refusal_does_not_hang_on_the_pieces(sent: bytes, places: list[int]) -> None:
    """However the network cuts it."""
    talk = Talk().client(GET).server(*cut(sent, places))
    assert talk.status == "502"
    assert talk.kinds == ["malformed-response"]


@pytest.mark.parametrize(
    "sent", [b"X: " + b"a" * 70000, b"X: " + b"a" * 33000, b"X: a\r\n" * 202, b"X: aaaaaaaaaaaaaaaaaaaaa\r\n" * 9000]
)
def test_a_head_beyond_its_bounds_becomes_a_502(sent: bytes) -> None:
    """An answer's head that does not end is not kept in memory."""
    talk = Talk().client(GET).server(b"HTTP/1.1 200 OK\r\n")
    talk.server(*[sent[at : at + 16384] for at in range(0, len(sent), 16384)])
    assert talk.status == "502"
    assert talk.kinds == ["oversized-head"]
    assert talk.closed == ["server", "client"]


def test_interim_answers_are_not_the_answer() -> None:
    """100, 102 and 103 go on to the client, and the answer follows (RFC 9110 section 15.2)."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    more = b"HTTP/1.1 102 Processing\r\n\r\n"
    talk = Talk().client(GET).server(hints + more, b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert talk.to_client == hints + more + b"HTTP/1.1 100 Continue\r\n\r\n" + OK
    talk.client(GET).server(OK)
    assert talk.to_client.endswith(OK + OK)


def test_an_old_client_is_spared_interim_answers() -> None:
    """HTTP/1.0 has none."""
    talk = Talk().client(b"GET / HTTP/1.0\r\n\r\n").server(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    assert talk.to_client == OK


def test_interim_answers_without_end_are_refused() -> None:
    """A server that sends nothing else is no server."""
    talk = Talk().client(GET).server(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 101)
    assert talk.status == "502"
    assert talk.to_client.count(b"100 Continue") == 100


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (GET, OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"),
        (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\nforged"),
        (GET, b"HTTP/1.1 304 Not Modified\r\n\r\nforged"),
        (GET.replace(b"GET", b"HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"),
        (GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nforged"),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_what_comes_behind_an_answer_is_nobodys(asked: bytes, answer: bytes, apart: bool) -> None:
    """It is not taken for the answer to the next request, whether it comes with the answer or behind it."""
    at = answer.rindex(b"HTTP/1.1") if answer.count(b"HTTP/1.1") > 1 else answer.index(b"forged")
    talk = Talk().client(asked).server(*([answer[:at], answer[at:]] if apart else [answer]))
    assert b"forged" not in talk.to_client
    assert talk.closed == ["server"]
    assert talk.kinds == ["malformed-response"]
    talk.client(GET).server(OK)
    assert talk.to_client.endswith(OK)
    assert b"forged" not in talk.to_client


@pytest.mark.parametrize("options", [b"Set-Cookie", b"X-Hop, close"])
def test_a_servers_connection_options_stay_with_it(options: bytes) -> None:
    """What it names is its connection's; what is for the client arrives."""
    talk = Talk().client(GET)
    talk.server(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX-Hop: b\r\nConnection: " + options + b"\r\nContent-Length: 0\r\n\r\n"
    )
    assert b"Set-Cookie: a" in talk.to_client
    assert (b"X-Hop" in talk.to_client) is (b"X-Hop" not in options)


def test_a_server_that_ends_an_idle_connection_may_say_so() -> None:
    """A 408 that nobody asked for is what some servers say then; it is no fault, and no answer to what comes next."""
    talk = Talk().client(GET).server(OK).server(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
    assert talk.closed == ["server"]
    assert not talk.refused
    talk.client(GET).server(OK)
    assert talk.to_client == OK * 2


@pytest.mark.parametrize(("said", "switched"), [(b"WebSocket", True), (b"", True), (b"h2c", False), (b"other", False)])
def test_a_server_switches_to_what_was_offered_alone(said: bytes, switched: bool) -> None:
    """What it switches to by itself nobody could inspect."""
    talk = Talk().client(GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"))
    assert b"\r\nUpgrade: websocket\r\n" in talk.to_server
    answer = b"HTTP/1.1 101 Switching Protocols\r\n" + (b"Upgrade: " + said + b"\r\n") * bool(said) + b"\r\n"
    talk.server(answer)
    assert talk.status == ("101" if switched else "502")


def test_answers_that_end_with_the_connection_arrive() -> None:
    """As HTTP/1.0 has it; the client's connection ends with them."""
    talk = Talk().client(GET).server(b"HTTP/1.0 200 OK\r\n\r\nabc", b"def")
    talk.server_ends()
    assert talk.to_client == b"HTTP/1.0 200 OK\r\n\r\nabcdef"
    assert talk.closed == ["server", "client"]


def test_an_answer_that_was_cut_off_is_no_answer() -> None:
    """The client is told, or at least does not take it for a whole one."""
    talk = Talk().client(GET).server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    talk.server_ends()
    assert talk.status == "502"
    talk = Talk().client(GET).server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    talk.server_ends()
    assert talk.status == "502"
    talk = Talk().client(GET).server(b"HTTP/1.1 200 O")
    talk.server_ends()
    assert talk.status == "502"


def test_trailers_pass() -> None:
    """A server's trailers reach the client, without those that may not be there."""
    talk = Talk().client(GET.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n"))
    assert b"TE: trailers\r\n" in talk.to_server
    talk.server(
        b"HTTP/1.1 200 OK\r\nTrailer: Grpc-Status\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nGrpc-Status: 0\r\nSet-Cookie: a\r\n\r\n"
    )
    assert talk.to_client.endswith(b"Trailer: Grpc-Status\r\nTransfer-Encoding: chunked\r\n\r\n"
                                   b"2\r\nok\r\n0\r\nGrpc-Status: 0\r\n\r\n")  # fmt: skip


def test_websockets_are_switched_to() -> None:
    """What comes with the answer, and what comes behind it, is the WebSocket's."""
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    talk = Talk().client(upgrade)
    assert talk.to_server == upgrade
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    talk.server(answer + b"\x81\x02hi")
    assert talk.to_client == answer + b"\x81\x02hi"
    talk.client(b"\x81\x80abcd")
    assert talk.hooks.count("websocket_message") == 2
    talk.server_ends()
    assert talk.hooks[-1] == "websocket_end"
    assert set(talk.closed) == {"client", "server"}


def test_other_protocols_are_switched_to_and_scripts_may_speak_in_them() -> None:
    """mitmproxy finds the connection to which a script's message belongs by its class."""
    talk = Talk().client(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
    flows: list[object] = []
    talk._on_hook = script(tcp_start=flows.append)
    talk.server(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
    (flow,) = flows
    talk.run(TcpMessageInjected(flow, TCPMessage(from_client=False, content=b"injected")))
    assert talk.to_client.endswith(b"injected")
    assert isinstance(talk.layer.connections[talk.context.server].context.layers[-1], _http1.Http1Connection)


def test_they_stand_in_for_mitmproxys() -> None:
    """In each place where its HTTP layer makes a connection."""
    talk = Talk(HTTPMode.regular).client(b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n").server(OK)
    made = {type(one) for one in talk.layer.connections.values()}
    made |= {type(one.child_layer) for one in talk.layer.connections.values() if isinstance(one, HttpClient)}
    assert made == {Http1Server, HttpClient, Http1Client}
    assert talk.to_client == OK


def test_a_request_whose_content_a_script_changes_in_length_does_not_become_another() -> None:
    """Content that does not fit its length does not go on as the next request."""

    def more(flow: HTTPFlow) -> None:
        flow.request.stream = lambda data: data and data + GET

    talk = Talk(on_hook=script(requestheaders=more))
    talk.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab").server(OK)
    assert talk.to_server.endswith(b"\r\n\r\nab")
    assert talk.closed == ["server"]
