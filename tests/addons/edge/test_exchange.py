"""Messages that go on as they come, in mitmproxy's HTTP layer, in memory: both versions of HTTP, and across them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow, Response
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HttpRequestHook

from addons.edge.connecting.stream import EdgeStream
from addons.edge.http2 import nghttp2
from addons.edge.http2.events import Ended, Head, Reset
from addons.edge.streaming import DEFAULT, EVERYTHING, Streamed
from addons.records.connections import facts_of
from tests.addons.edge import wire2
from tests.addons.edge.proxied import Peer, Proxy, body, talk
from tests.addons.edge.talk import Talk, script
from tests.addons.edge.wire2 import OK, POST, REQUEST

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECTING = b"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\nX: y\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK1 = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TRAILING = [*POST, (b"te", b"trailers")]


def talking(streamed: Streamed = EVERYTHING, **handlers: Callable[[Any], None]) -> Talk:
    """A client and a server of HTTP/1.1, with a script's hooks between them."""
    made = Talk(on_hook=script(**handlers))
    EdgeStream.streamed = streamed
    return made


def met(client: bytes = b"h2", server: bytes = b"h2", **options: Any) -> tuple[Proxy, Peer, Peer]:
    """A proxy between two ends that have greeted it, of which those of HTTP/1.1 are fed by the test."""
    proxy = Proxy(client=client, server=server, **options)
    EdgeStream.streamed = EVERYTHING
    ends = Peer(proxy, client=True), Peer(proxy, client=False)
    talk(proxy, *(one for one, version in zip(ends, (client, server), strict=True) if version == b"h2"))
    return proxy, *ends


# streaming


@pytest.mark.parametrize("streamed", [EVERYTHING, Streamed.parse(DEFAULT)])
def test_each_piece_of_a_message_goes_on_when_it_comes(streamed: Streamed) -> None:
    """Of a request and of its answer at the same time, whose head does not wait for anything either."""
    talking_ = talking(streamed).client(CHUNKED)
    assert talking_.to_server == CHUNKED
    talking_.server(ENDLESS)
    assert talking_.to_client == ENDLESS
    for piece in (b"1\r\na\r\n", b"1\r\nb\r\n"):
        assert talking_.client(piece).to_server.endswith(piece)
        assert talking_.server(piece).to_client.endswith(piece)
    talking_.client(b"0\r\n\r\n").server(b"0\r\n\r\n")
    assert talking_.hooks[-2:] == ["request", "response"]
    assert talking_.to_client.endswith(b"b\r\n0\r\n\r\n")
    assert not talking_.closed


def test_a_slow_message_with_a_length_goes_on_when_it_comes() -> None:
    """Nobody looks at it: it does not wait for its end."""
    talking_ = talking().client(EXPECTING.replace(b"Expect: 100-continue\r\n", b""), b"ab")
    assert talking_.to_server.endswith(b"\r\n\r\nab")
    talking_.client(b"cde").server(OK1[:-1])
    assert talking_.to_client == OK1[:-1]
    assert talking_.server(OK1[-1:]).to_client == OK1


def test_scripts_see_what_has_a_length_whole() -> None:
    """As ever."""
    seen: list[bytes | None] = []
    talking_ = talking(Streamed.parse(DEFAULT), response=lambda flow: seen.append(flow.response.content))
    talking_.client(GET).server(OK1)
    assert seen == [b"ok"]


def test_a_script_that_wants_a_message_says_so() -> None:
    """In the hook of its head; the message is whole then, whatever the configuration says."""
    seen: list[bytes | None] = []

    def want(flow: HTTPFlow) -> None:
        (flow.response or flow.request).stream = False

    talking_ = talking(
        requestheaders=want, responseheaders=want,
        request=lambda flow: seen.append(flow.request.content),
        response=lambda flow: seen.append(flow.response.content),
    )  # fmt: skip
    talking_.client(CHUNKED, b"1\r\na\r\n")
    assert talking_.to_server == b""
    talking_.client(b"0\r\n\r\n").server(ENDLESS, b"1\r\nb\r\n")
    assert talking_.to_client == b""
    talking_.server(b"0\r\n\r\n")
    assert seen == [b"a", b"b"]


def test_a_script_that_answers_by_the_head_is_heard() -> None:
    """The server is not asked, and the request is read to its end for the connection to go on."""

    def answer(flow: HTTPFlow) -> None:
        flow.response = Response.make(299, b"mine")

    talking_ = talking(requestheaders=answer).client(CHUNKED, b"1\r\na\r\n0\r\n\r\n", GET)
    assert talking_.to_server == b""
    assert talking_.to_client.count(b"HTTP/1.1 299") == 2


@pytest.mark.parametrize("kill", [False, True])
def test_a_script_that_answers_behind_the_request_is_heard(kill: bool) -> None:
    """The server, which has most of the request, does not get its end, nor a second word with the client."""

    def answer(flow: HTTPFlow) -> None:
        if kill:
            flow.kill()
        else:
            flow.response = Response.make(299, b"mine")

    talking_ = talking(request=answer).client(CHUNKED, b"1\r\na\r\n0\r\n\r\n")
    assert talking_.to_server == CHUNKED + b"1\r\na\r\n"
    assert talking_.closed == (["server", "client"] if kill else ["server"])
    assert (b"HTTP/1.1 299" in talking_.to_client) is not kill
    assert ("error" if kill else "response") in talking_.hooks
    assert not talking_.layer.streams


def test_what_the_server_says_while_a_script_thinks_is_not_mixed_with_its_answer() -> None:
    """A script may think about a request behind its end, and the server answer meanwhile."""
    proxy, client, server = met(script=lambda hook: isinstance(hook, HttpRequestHook))
    stream = client.session.request(POST, ended=False)
    client.session.send(stream, b"a")
    client.session.end(stream)
    talk(proxy, client, server)
    (hook,) = proxy.held
    server.session.respond(1, OK, ended=True)
    talk(proxy, client, server)
    assert isinstance(hook, HttpRequestHook)
    hook.flow.response = Response.make(299, b"mine")
    proxy.resume()
    talk(proxy, client, server)
    came = client.taken()
    assert [one.fields[0][1] for one in came if isinstance(one, Head)] == [b"299"]
    assert body(came, stream) == b"mine"
    assert not proxy.layer.streams


# 1xx and expectations


def test_an_expectation_is_the_servers_affair() -> None:
    """It goes on as it came; the server says that it may be sent, and then it is."""
    talking_ = talking().client(EXPECTING)
    assert (talking_.to_server, talking_.to_client) == (EXPECTING, b"")
    assert talking_.server(CONTINUE).to_client == CONTINUE
    assert talking_.client(b"hello").to_server == EXPECTING + b"hello"
    assert talking_.server(OK1).to_client == CONTINUE + OK1
    assert not talking_.closed


@pytest.mark.parametrize("answer", [417, 413, 401])
def test_a_refused_expectation_is_seen(answer: int) -> None:
    """A client that is told no before it has sent anything need not send it, and may go on with another request when
    it has sent it all the same."""
    refusal = b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % answer
    talking_ = talking().client(EXPECTING).server(refusal)
    assert talking_.to_client == refusal
    assert talking_.client(b"hello", GET).server(OK1).to_client == refusal + OK1


def test_a_script_that_wants_the_whole_request_has_the_client_send_it() -> None:
    """Whoever collects it cannot ask the server first."""

    def want(flow: HTTPFlow) -> None:
        flow.request.stream = False

    talking_ = talking(requestheaders=want).client(EXPECTING)
    assert (talking_.to_server, talking_.to_client) == (b"", CONTINUE)
    assert talking_.client(b"hello").to_server == EXPECTING.replace(b"Expect: 100-continue\r\n", b"") + b"hello"


@pytest.mark.parametrize("client", [b"http/1.1", b"h2"])
def test_interim_answers_of_http2_pass(client: bytes) -> None:
    """An early hint and a 100 of an HTTP/2 server reach a client of either version."""
    proxy, one, server = met(client)
    if client == b"h2":
        one.session.request(REQUEST, ended=True)
        talk(proxy, one, server)
    else:
        proxy.feed(proxy.client, GET)
        talk(proxy, server)
    for status in (b"103", b"100"):
        server.session.inform(1, [(b":status", status), (b"link", b"x")])
    server.session.respond(1, OK, ended=True)
    if client == b"h2":
        talk(proxy, one, server)
        heads = [head.fields for head in one.taken() if isinstance(head, Head)]
        assert heads == [[(b":status", b"103"), (b"link", b"x")], [(b":status", b"100"), (b"link", b"x")], OK]
    else:
        talk(proxy, server)
        got = proxy.out(proxy.client)
        hints = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\nlink: x\r\n\r\n"
        assert got.startswith(hints + b"HTTP/1.1 200 OK\r\n")


# answers that end before their requests


def test_an_answer_in_the_middle_of_a_request_is_whole() -> None:
    """Its end does not wait for the request's, which may go on."""
    talking_ = talking().client(CHUNKED).server(ENDLESS + b"1\r\nb\r\n0\r\n\r\n")
    assert talking_.to_client == ENDLESS + b"1\r\nb\r\n0\r\n\r\n"
    talking_.client(b"1\r\na\r\n0\r\n\r\n", GET).server(OK1)
    assert talking_.to_server == CHUNKED + b"1\r\na\r\n0\r\n\r\n" + GET
    assert talking_.to_client.endswith(OK1)
    assert not talking_.closed


def test_a_server_that_has_answered_and_leaves_is_passed_on() -> None:
    """The client gets the answer, is given a moment to read it, and is let go; scripts see an answer, no error."""
    talking_ = talking().client(CHUNKED).server(OK1)
    talking_.server_ends()
    assert talking_.to_client == OK1
    assert talking_.closed == ["server"]
    talking_.client(b"1\r\na\r\n")
    talking_.later()
    assert talking_.closed == ["server", "client"]
    assert "error" not in talking_.hooks
    assert not talking_.layer.streams


def test_an_answer_that_ends_with_the_connection_ends_it() -> None:
    """However much of the request is still to come."""
    talking_ = talking().client(CHUNKED).server(b"HTTP/1.0 200 OK\r\n\r\nabc")
    talking_.server_ends()
    assert talking_.to_client == b"HTTP/1.0 200 OK\r\n\r\nabc"
    assert set(talking_.closed) == {"server", "client"}
    assert not talking_.layer.streams


@pytest.mark.parametrize("server", [b"h2", b"http/1.1"])
def test_a_client_of_http2_hears_that_no_more_is_read(server: bytes) -> None:
    """Behind the whole answer comes RST_STREAM with NO_ERROR (RFC 9113 section 8.1), whichever way the server said it,
    and nothing of the exchange stays."""
    proxy, client, other = met(b"h2", server)
    stream = client.session.request(POST, ended=False)
    client.session.send(stream, b"a")
    talk(proxy, client, *([other] if server == b"h2" else []))
    if server == b"h2":
        other.session.respond(1, OK, ended=False)
        other.session.send(1, b"ok")
        other.session.end(1)
        other.session.reset_behind(1, nghttp2.NO_ERROR)
        talk(proxy, client, other)
    else:
        proxy.feed(proxy.server, OK1)
        proxy.server.state &= ~proxy.server.state.CAN_READ
        proxy.event(events.ConnectionClosed(proxy.server))
        talk(proxy, client)
    came = client.taken()
    assert body(came, stream) == b"ok"
    assert came[-2:] == [Ended(stream), Reset(stream, nghttp2.NO_ERROR, by_peer=True)]
    assert not proxy.layer.streams


def test_a_client_that_aborts_behind_its_answer_is_told_to_the_server() -> None:
    """The server does not wait for the rest of the request."""
    proxy, client, server = met()
    stream = client.session.request(POST, ended=False)
    talk(proxy, client, server)
    server.session.respond(1, OK, ended=True)
    talk(proxy, client, server)
    client.session.reset(stream, nghttp2.CANCEL)
    talk(proxy, client, server)
    assert not server.session.streams
    assert not proxy.layer.streams


def test_a_head_alone_is_a_whole_answer_in_http1() -> None:
    """What ends an answer of HTTP/2 says so in HTTP/1.1, too: the client need not wait for the connection's end."""
    proxy, _, server = met(b"http/1.1", b"h2")
    proxy.feed(proxy.client, GET)
    talk(proxy, server)
    server.session.respond(1, OK, ended=True)
    talk(proxy, server)
    assert proxy.out(proxy.client) == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 0\r\n\r\n"
    assert proxy.client not in proxy.closed


# trailers


def test_a_grpc_call_passes_across_versions() -> None:
    """Its messages and its status, in trailers, from a server of HTTP/2 to a client of HTTP/1.1 and the other way."""
    proxy, _, server = met(b"http/1.1", b"h2")
    te = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: TE\r\nTE: gzip, trailers\r\n\r\n")
    proxy.feed(proxy.client, te + b"1\r\na\r\n0\r\nSum: 1\r\nHost: b\r\n\r\n")
    talk(proxy, server)
    came = server.taken()
    heads = [one for one in came if isinstance(one, Head)]
    assert heads[0].fields[-1] == (b"te", b"trailers")
    assert heads[1].fields == [(b"sum", b"1")]
    server.session.respond(1, [*OK, (b"content-length", b"2"), (b"trailer", b"grpc-status")], ended=False)
    server.session.send(1, b"ok")
    server.session.end(1, [(b"grpc-status", b"0"), (b"set-cookie", b"a")])
    talk(proxy, server)
    got = proxy.out(proxy.client)
    assert got.endswith(
        b"trailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"
    )
    assert b"content-length" not in got


def test_trailers_of_a_request_with_a_length_pass() -> None:
    """HTTP/2 has a place for both, HTTP/1.1 in chunks alone."""
    proxy, client, _ = met(b"h2", b"http/1.1")
    fields = [*TRAILING, (b"content-length", b"1"), (b"trailer", b"sum")]
    stream = client.session.request(fields, ended=False)
    client.session.send(stream, b"a")
    client.session.end(stream, [(b"sum", b"1")])
    talk(proxy, client)
    got = proxy.out(proxy.server)
    assert b"content-length" not in got
    assert got.endswith(b"\r\n\r\n1\r\na\r\n0\r\nsum: 1\r\n\r\n")


# what is over


@pytest.mark.parametrize("why", ["killed", "too large", "invalid"])
def test_what_is_over_is_not_kept(why: str) -> None:
    """On a connection that lasts thousands may be killed by a script, larger than the limit or invalid, and the next is
    served as the first."""
    options = {"body_size_limit": "1k"} if why == "too large" else {}
    proxy, client, server = met(script=_killing if why == "killed" else lambda _: None, **options)
    for number in range(30):
        client.session.request(REQUEST, ended=True)
        talk(proxy, client, server)
        for head in [one for one in server.taken() if isinstance(one, Head)]:
            fields = (b"content-length", b"5000") if why == "too large" else (b"transfer-encoding ", b"chunked")
            proxy.feed(proxy.server, wire2.headers([*OK, fields], head.stream_id, flags=0))
        talk(proxy, client, server)
        assert len(proxy.layer.streams) <= 1, number
    assert len(heads_or_resets(client)) == 30


def heads_or_resets(client: Peer) -> list[Head | Reset]:
    """How the client was told."""
    return [one for one in client.taken() if isinstance(one, Head | Reset)]


def _killing(hook: commands.StartHook) -> None:
    if isinstance(hook, HttpRequestHook):
        hook.flow.kill()


def test_a_request_that_comes_to_nothing_is_told_by_whose_doing_it_was() -> None:
    """A server that leaves without an answer has failed; a client of HTTP/2 that does not wait for one has not."""
    left = talking().client(GET)
    left.server_ends()
    failure = facts_of(left.context.client).failure
    assert failure is not None
    assert (failure.kind, failure.side) == ("connect-failed", "server")
    proxy, client, server = met()
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    client.session.reset(stream, nghttp2.CANCEL)
    talk(proxy, client, server)
    assert Reset(1, nghttp2.CANCEL, by_peer=True) in server.taken()
    assert facts_of(proxy.client).failure is None
