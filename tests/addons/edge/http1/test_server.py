"""HTTP/1 towards the client, in mitmproxy's own HTTP layer, in memory."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.http import Headers, HTTPFlow, Response
from mitmproxy.proxy.commands import StartHook
from mitmproxy.proxy.events import DataReceived
from mitmproxy.proxy.layer import NextLayerHook
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.tcp import TCPLayer

from addons.edge.settings import Bounds
from tests.addons.edge.http1.test_sections import cut
from tests.addons.edge.talk import Talk, script

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"

_REFUSED = [
    b"GET / HTTP/1.2\r\nHost: a.test\r\n\r\n",
    b"GET\t/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a.test\n\n",
    b"GET / HTTP/1.1\r\nHost: a.test\nX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rClient-Cert: forged\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n Client-Cert: forged\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\nX : a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\r\n\r\n\r\n\r\n\r\n" + GET,
    CHUNKED + b"5\rabcde\r\n0\r\n\r\n",
    CHUNKED + b"5\r\nabcdef\r\n0\r\n\r\n",
    CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n",
]


@pytest.mark.parametrize("sent", _REFUSED)
@pytest.mark.parametrize("mode", ["regular", "inbound:0"])
@pytest.mark.parametrize("checks", [True, False])
def test_what_is_no_request_gets_a_400_and_goes_no_further(sent: bytes, mode: str, checks: bool) -> None:
    """In each mode, whatever mitmproxy's own option says, and once: a page with a reason, one line, and the end."""
    talk = Talk(mode=mode, validate_inbound_headers=checks).client(sent, GET)
    assert talk.to_client.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert talk.to_client.count(b"HTTP/1.1 400") == 1
    assert talk.refused[0].detail.encode() in talk.to_client
    assert talk.closed[0] == "client"
    assert talk.kinds == ["malformed-request"]
    assert b"GET" not in talk.to_server
    assert b"0\r\n\r\n" not in talk.to_server


@settings(max_examples=150, deadline=None)
@given(sent=st.sampled_from(_REFUSED), places=st.lists(st.integers(0, 200), max_size=6))
def test_a_refusal_does_not_hang_on_the_pieces(sent: bytes, places: list[int]) -> None:
    """However the network cuts it."""
    talk = Talk().client(*cut(sent, places))
    assert talk.status == "400"
    assert talk.kinds == ["malformed-request"]


@settings(max_examples=150, deadline=None)
@given(places=st.lists(st.integers(0, 400), max_size=10), back=st.lists(st.integers(0, 400), max_size=10))
def test_an_exchange_does_not_hang_on_the_pieces(places: list[int], back: list[int]) -> None:
    """Requests and answers, chunks and trailers: what is passed on is the same, however the network cuts it."""
    talk = Talk().client(*cut(CHUNKED + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nSum: 1\r\n\r\n", places))
    talk.server(*cut(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                     b"3\r\nfgh\r\n0\r\nServer-Timing: t\r\n\r\n", back))  # fmt: skip
    assert talk.to_server == CHUNKED + b"5\r\nabcde\r\n0\r\nSum: 1\r\n\r\n"
    assert talk.to_client == (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nfgh\r\n0\r\nServer-Timing: t\r\n\r\n"
    )
    assert not talk.refused
    assert not talk.closed


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.test\r\n" + (b"X: " + b"a" * 2000 + b"\r\n") * 33, b"larger than 65536 bytes"),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 33000, b"longer than 32768 bytes"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 202, b"more than 200 fields"),
        (b"GET /" + b"a" * 70000, b"longer than 32768 bytes"),
    ],
)
@pytest.mark.parametrize("step", [1000, 65535])
def test_a_head_beyond_its_bounds_gets_a_431(sent: bytes, sentence: bytes, step: int) -> None:
    """With the bound that it broke, before it has come to its end; what it goes on with is dropped, for a while."""
    talk = Talk()
    talk.client(*[sent[at : at + step] for at in range(0, len(sent), step)])
    assert talk.to_client.startswith(b"HTTP/1.1 431 ")
    assert sentence in talk.to_client
    assert talk.kinds == ["oversized-head"]
    assert talk.to_server == b""
    assert not talk.closed
    talk.later()
    assert talk.closed == ["client"]


def test_an_oversized_head_that_does_not_end_is_ended() -> None:
    """What is dropped has a bound, too, and a client that leaves ends it."""
    talk = Talk().client(*[b"X" * 65536] * 40)
    assert talk.closed == ["client"]
    talk = Talk().client(*[b"X" * 65536] * 3)
    talk.client_ends(half=True)
    assert talk.closed == ["client"]


@pytest.mark.parametrize("sent", [b"1;" + b"a" * 5000, b"0\r\nX: " + b"a" * 17000, b"1;a=b\r\nx\r\n" * 2000 + b"0;"])
def test_extensions_and_trailers_beyond_their_bounds_get_a_400(sent: bytes) -> None:
    """And are counted as what they are."""
    bounds = msgspec.structs.replace(Bounds(), chunk_extension_bytes=1000)
    talk = Talk(bounds=bounds).client(CHUNKED, sent)
    assert talk.status == "400"
    assert talk.kinds == ["oversized-trailers"]


def test_an_empty_line_before_a_request_does_not_matter() -> None:
    """Old clients send one behind a request's content (RFC 9112 section 2.2), in the same segment or alone."""
    talk = Talk().client(b"\r\n" + GET).server(OK).client(b"\r\n", GET).server(OK)
    assert talk.to_client == OK * 2


def test_requests_that_come_together_are_answered_in_turn() -> None:
    """Pipelining is answered, one at a time and in order."""
    second = GET.replace(b"/ ", b"/2 ")
    talk = Talk().client(GET + second + GET[:10])
    assert talk.to_server == GET
    talk.server(OK)
    assert talk.to_server == GET + second
    talk.client(GET[10:]).server(OK).server(OK)
    assert talk.to_client == OK * 3
    assert talk.to_server == GET + second + GET


@pytest.mark.parametrize("patient", [True, False])
def test_a_thousand_requests_at_once_that_need_no_server_give_others_their_turn(*, patient: bool) -> None:
    """A few are answered, then the loop has a chance, then the next few; a client that has ended its direction is
    answered by a site that is patient."""

    def answer(flow: HTTPFlow) -> None:
        flow.response = Response.make(299)

    talk = Talk(patient=patient, on_hook=script(request=answer)).client(GET * 1000)
    turns = 0
    while talk.wakeups:
        assert len(talk.wakeups) == 1
        if turns == 10 and patient:
            talk.client_ends(half=True)
        turns += 1
        talk.later()
    assert talk.to_client.count(b"HTTP/1.1 299") == 1000
    assert turns > 40
    assert talk.closed == (["client"] if patient else [])


def test_a_client_far_ahead_is_held_back() -> None:
    """What it sends while its first request waits is not read on without end; each request gets its answer."""
    talk = Talk().client(GET, *[GET * 100] * 100)
    server = talk.layer.connections[talk.context.client]
    assert not talk.reads_client
    assert len(server._ahead) <= 65536 * 2
    for _ in range(10_001):
        talk.client().server(OK)
        talk.later()
    assert talk.to_client == OK * 10_001
    assert talk.closed == []


def test_a_client_that_nobody_holds_back_is_not_kept_in_memory() -> None:
    """What it sends too early is lost then, and its connection ends with its answer."""
    talk = Talk().client(GET)
    for _ in range(100):
        talk.run(DataReceived(talk.context.client, GET * 1000))
    assert len(talk.layer.connections[talk.context.client]._ahead) <= 65536 * 2
    talk.server(OK)
    assert talk.to_client == OK
    assert talk.closed == ["client"]


@pytest.mark.parametrize("name", [b"Client-Cert", b"client-cert", b"Client_Cert", b"X, CLIENT-CERT"])
def test_the_genuine_certificate_cannot_be_named_away(name: bytes) -> None:
    """What our addon says of the client's certificate arrives, whatever the client's connection options are."""

    def genuine(flow: HTTPFlow) -> None:
        flow.request.headers["Client-Cert"] = ":genuine:"

    talk = Talk(mode="inbound:0", on_hook=script(requestheaders=genuine))
    talk.client(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: " + name + b", close\r\nClient-Cert: :forged:\r\n\r\n")
    assert talk.to_server == (b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nClient-Cert: :genuine:\r\n\r\n")


@pytest.mark.parametrize("name", [b"Client-Cert", b"Client_Cert", b"client-cert-chain", b"Host", b"Content-Length"])
def test_trailers_say_nothing_of_ours(name: bytes) -> None:
    """A server that merges trailers into its headers gets no certificate, host or length from them."""
    talk = Talk(mode="inbound:0").client(CHUNKED + b"0\r\nA: b\r\n" + name + b": forged\r\n\r\n")
    assert talk.to_server == CHUNKED + b"0\r\nA: b\r\n\r\n"


def test_scripts_see_trailers_and_may_change_them() -> None:
    """As they see those of HTTP/2."""
    seen: list[str | None] = []

    def change(flow: HTTPFlow) -> None:
        assert flow.request.trailers is not None
        seen.append(flow.request.trailers.get("sum"))
        flow.request.trailers["sum"] = "2"

    talk = Talk(on_hook=script(request=change)).client(CHUNKED + b"1\r\na\r\n0\r\nSum: 1\r\n\r\n")
    assert seen == ["1"]
    assert talk.to_server == CHUNKED + b"1\r\na\r\n0\r\nSum: 2\r\n\r\n"


def test_trailers_without_a_place_are_left_out() -> None:
    """A script that sets trailers on an answer with a length does not break it."""

    def trailers(flow: HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.trailers = Headers(a="b")

    talk = Talk(on_hook=script(response=trailers)).client(GET).server(OK)
    assert talk.to_client == OK


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_is_noticed(streamed: bool) -> None:
    """In the middle of its request, and while it waits: the flow ends with an error and the server is let go."""

    def stream(flow: HTTPFlow) -> None:
        flow.request.stream = streamed

    talk = Talk(on_hook=script(requestheaders=stream)).client(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"
    )
    talk.client_ends()
    assert "error" in talk.hooks
    assert ("server" in talk.closed) is streamed
    talk = Talk().client(GET)
    talk.client_ends()
    assert talk.hooks[-1] == "error"
    assert talk.closed == ["server"]


def test_a_site_may_be_patient() -> None:
    """A client that ends its direction behind its request gets its answer, and then the end (RFC 9112 section 9.6);
    elsewhere it has gone."""
    talk = Talk(patient=True).client(GET)
    talk.client_ends(half=True)
    assert talk.closed == []
    talk.server(OK)
    assert talk.to_client == OK
    assert talk.closed == ["client"]
    for mode in ("regular", "inbound:0"):
        impatient = Talk(mode=mode).client(GET)
        impatient.client_ends(half=True)
        assert impatient.closed == ["client", "server"]


def test_connect_is_a_tunnel() -> None:
    """Bytes behind the CONNECT, early or late, are the tunnel's; empty lines that some clients send are nobody's."""
    talk = Talk(HTTPMode.regular).client(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n\r\n\r\nhello")
    assert talk.to_client == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert talk.hooks[-1] == "next_layer"
    (stream,) = talk.layer.streams.values()
    assert stream.child_layer is not None
    assert stream.child_layer.data_client() == b"hello"  # type: ignore[attr-defined]


@pytest.mark.parametrize("client_first", [True, False])
def test_each_direction_of_a_tunnel_ends_by_itself(client_first: bool) -> None:
    """Who ends its own goes on reading: what the other has to say still arrives, and then all is closed."""

    def pass_on(hook: StartHook) -> None:
        if isinstance(hook, NextLayerHook):
            hook.data.layer = TCPLayer(hook.data.context)

    talk = Talk(HTTPMode.regular, on_hook=pass_on)
    talk.client(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", b"hello").server(b"hi")
    if client_first:
        talk.client_ends(half=True)
        assert talk.closed == ["half of server"]
        talk.server(b" there").server_ends()
        assert talk.to_client.endswith(b"hi there")
        assert talk.closed == ["half of server", "server", "client"]
    else:
        talk.server_ends()
        assert talk.closed == ["half of client"]
        talk.client(b" there").client_ends(half=True)
        assert talk.to_server == b"hello there"
        assert talk.closed[-1] == "client"


def test_an_answer_in_the_middle_of_a_request_lets_the_request_end() -> None:
    """The connection goes on with the next request, not with the rest of this one."""

    def stream(flow: HTTPFlow) -> None:
        flow.request.stream = True

    talk = Talk(on_hook=script(requestheaders=stream))
    talk.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nGET").server(OK).client(b" / XXX", GET)
    assert talk.to_client == OK
    assert talk.to_server.endswith(b"\r\n\r\nGET / XXX" + GET)


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_a_script_may_answer(content: bytes) -> None:
    """As ever, and the connection goes on."""

    def answer(flow: HTTPFlow) -> None:
        flow.response = Response.make(299, content)

    talk = Talk(on_hook=script(request=answer)).client(GET + GET, GET)
    assert talk.to_client == b"HTTP/1.1 299 \r\ncontent-length: %d\r\n\r\n%s" % (len(content), content) * 3
    assert talk.to_server == b""


def test_what_a_script_says_wrong_does_not_become_a_second_answer() -> None:
    """Content beyond its length is cut, and the connection ends; a value with a line end in it is refused."""

    def lie(flow: HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.headers["content-length"] = "1"

    talk = Talk(on_hook=script(response=lie)).client(GET).server(OK)
    assert talk.to_client.endswith(b"\r\n\r\no")
    assert talk.closed[-1] == "client"

    def split(flow: HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.headers["x"] = "a\r\n\r\nHTTP/1.1 200 OK"

    talk = Talk(on_hook=script(response=split)).client(GET).server(OK)
    assert talk.status == "502"
    assert talk.closed[-1] == "client"


def test_content_is_not_kept() -> None:
    """A gigabyte that is streamed leaves nothing behind in the connections."""

    def stream(flow: HTTPFlow) -> None:
        flow.request.stream = True

    talk = Talk(on_hook=script(requestheaders=stream)).client(CHUNKED)
    for _ in range(200):
        talk.client(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        talk.to_server = b""
    server = talk.layer.connections[talk.context.client]
    assert sum(len(value) for value in vars(server).values() if isinstance(value, bytes | bytearray)) == 0


@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n\r\n"])
def test_empty_lines_and_a_request_in_one_piece(empty: bytes) -> None:
    """Before the first request and between two of them, as some old clients send behind a form (RFC 9112 section 2.2):
    nothing hangs, and the server sees none of them."""
    post = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nab"
    talk = Talk().client(empty + post + empty + post)
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert talk.to_server == post + post
