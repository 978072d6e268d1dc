"""A client of HTTP/2 in front of a server of HTTP/1: what one has and the other says otherwise."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest

from tests.addons.edge.talk import Talk

HEAD = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")]


class Client:
    """hyper-h2 as the client."""

    def __init__(self) -> None:
        self.talk = Talk(alpn=b"h2", http2_ping_keepalive=0)
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        self._http.initiate_connection()
        self.events: list[h2.events.Event] = []
        self._read = 0
        self.exchange()

    def exchange(self) -> None:
        """Send what there is to send, and read what has come."""
        self.talk.client(self._http.data_to_send())
        self.talk.later()
        came, self._read = self.talk.to_client[self._read :], len(self.talk.to_client)
        self.events += self._http.receive_data(came)

    def ask(self, *fields: tuple[str, str], content: bytes = b"", trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """A request on stream 1."""
        self._http.send_headers(1, [*HEAD, *fields], end_stream=not content and not trailers)
        if content:
            self._http.send_data(1, content, end_stream=not trailers)
        if trailers:
            self._http.send_headers(1, trailers, end_stream=True)
        self.exchange()

    def headers(self, kind: type[h2.events.Event]) -> list[tuple[bytes, bytes]]:
        """Of the only such event."""
        (found,) = (one for one in self.events if isinstance(one, kind))
        return [(bytes(name), bytes(value)) for name, value in found.headers]  # type: ignore[attr-defined]


def test_a_request_without_a_length_is_one_request() -> None:
    """Unframed, its content would be the next request to the server."""
    client = Client()
    client.ask(content=b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert client.talk.to_server.startswith(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 40\r\n\r\n")


def test_trailers_and_interim_answers_pass() -> None:
    """Those that HTTP/1 says in chunks and heads are HTTP/2's own, and the other way."""
    client = Client()
    client.ask(("te", "trailers"), content=b"abc", trailers=(("sum", "1"), ("client-cert", "forged")))
    assert client.talk.to_server == (
        b"POST / HTTP/1.1\r\nHost: a.test\r\nte: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nsum: 1\r\n\r\n"
    )
    client.talk.server(
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\ngrpc-status: 0\r\nhost: b\r\n\r\n"
    )
    client.exchange()
    assert (b":status", b"103") in client.headers(h2.events.InformationalResponseReceived)
    assert (b":status", b"200") in client.headers(h2.events.ResponseReceived)
    assert client.headers(h2.events.TrailersReceived) == [(b"grpc-status", b"0")]


@pytest.mark.parametrize("value", ["a\r\nClient-Cert: forged", "a\nb", "a\x00b"])
def test_a_value_of_http_2_becomes_no_field_of_http_1(value: str) -> None:
    """Line ends in a value reach no server of HTTP/1, and end the stream at least."""
    client = Client()
    client.ask(("x", value))
    assert client.talk.to_server == b""
    assert {"StreamReset", "ConnectionTerminated", "ResponseReceived"} & {type(one).__name__ for one in client.events}


@pytest.mark.parametrize("path", ["/ HTTP/1.1\r\nX: y", "/a b"])
def test_a_path_of_http_2_becomes_no_request_line(path: str) -> None:
    """Nor does a path with a space or a line end in it."""
    client = Client()
    client._http.send_headers(1, [*HEAD[:2], (":path", path), HEAD[3]], end_stream=True)
    client.exchange()
    assert client.talk.to_server == b""
