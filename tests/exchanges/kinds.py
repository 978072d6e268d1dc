"""The exchanges: what a client does, and what a server does. A kind that was found broken is added here.

Both ends are coroutines on an `End`. Pauses are those of a slow peer: what was sent before one arrives before its end.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.exchanges.ends import End
from tests.exchanges.ends1 import End1
from tests.waiting import pause

_SLOW_S = 0.12
"""What a slow peer waits between what it says; a multiple of what may be added on the way."""
_TYPE = ("content-type", "application/x-exchange")
_BYTES = random.Random(13).randbytes(100_000)

Side = Callable[[End], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """One exchange."""

    client: Side
    server: Side
    versions: tuple[str, ...] = ("http/1.1", "h2")
    """In which it exists."""
    closing: bool = False
    """Whether how its connections end is a part of it."""

    @property
    def name(self) -> str:
        """Of its client's function."""
        return self.client.__name__.removesuffix("_client")

    @property
    def path(self) -> str:
        """By which the server knows it."""
        return f"/{self.name}"


KINDS: dict[str, Kind] = {}


def _kind(server: Side, *versions: str, closing: bool = False) -> Callable[[Side], Side]:
    def add(client: Side) -> Side:
        kind = Kind(client, server, versions or Kind.versions, closing)
        KINDS[kind.name] = kind
        return client

    return add


async def _answer(end: End) -> None:
    await end.until("end")
    await end.respond(200, [_TYPE, ("content-length", "10000"), ("x-b", "2"), ("x-a", "1"), ("x-b", "3")])
    await end.data(_BYTES[:10_000])
    await end.finish()


@_kind(_answer)
async def page_client(end: End) -> None:
    """A page of ten kilobytes."""
    await end.request("GET", "/page", [("x-b", "1"), ("x-a", "2"), ("x-b", "3")], ended=True)
    await end.until("end")


async def _echo(end: End) -> None:
    await end.until("end")
    content = b"".join(one.value for one in end.seen if one.what == "data")
    await end.respond(200, [_TYPE, ("content-length", str(len(content)))])
    await end.data(content)
    await end.finish()


@_kind(_echo)
async def upload_client(end: End) -> None:
    """A hundred kilobytes there and back, with their length."""
    await end.request("POST", "/upload", [_TYPE, ("content-length", str(len(_BYTES)))])
    await end.data(_BYTES)
    await end.finish()
    await end.until("end")


@_kind(_echo)
async def upload_without_length_client(end: End) -> None:
    """A hundred kilobytes there, without their length."""
    await end.request("POST", "/upload_without_length", [_TYPE])
    await end.data(_BYTES)
    await end.finish()
    await end.until("end")


async def _events(end: End) -> None:
    await end.until("end")
    await end.respond(200, [("content-type", "text/event-stream"), ("cache-control", "no-cache")])
    for number in range(4):
        await pause(_SLOW_S)
        await end.data(b"data: %d\n\n" % number)
    await pause(_SLOW_S)
    await end.finish()


@_kind(_events)
async def events_client(end: End) -> None:
    """Server-sent events, each as it is sent."""
    await end.request("GET", "/events", [("accept", "text/event-stream")], ended=True)
    await end.until("end")


async def _slowly(end: End) -> None:
    await end.until("end")
    await end.respond(200, [_TYPE, ("content-length", "3")])
    for piece in (b"a", b"b", b"c"):
        await pause(_SLOW_S)
        await end.data(piece)
    await end.finish()


@_kind(_slowly)
async def slow_client(end: End) -> None:
    """A request and an answer with lengths, each in small pieces."""
    await end.request("POST", "/slow", [_TYPE, ("content-length", "3")])
    for piece in (b"d", b"e", b"f"):
        await pause(_SLOW_S)
        await end.data(piece)
    await end.finish()
    await end.until("end")


async def _converse(end: End) -> None:
    await end.until("head")
    await end.respond(200, [("content-type", "application/grpc"), ("x-initial", "1")])
    for number in range(1, 4):
        await end.until_bytes(5 * number)
        await end.data(b"pong%d" % number)
    await end.until("end")
    await end.finish([("grpc-status", "0"), ("grpc-message", "fine")])


@_kind(_converse)
async def conversation_client(end: End) -> None:
    """A bidirectional gRPC stream: the answer's head before any content, then message for message."""
    await end.request("POST", "/conversation", [("content-type", "application/grpc"), ("te", "trailers")])
    await end.until("head")
    for number in range(1, 4):
        await end.data(b"ping%d" % number)
        await end.until_bytes(5 * number)
    await end.finish()
    await end.until("end")


async def _fail(end: End) -> None:
    await end.until("head")
    await end.respond(200, [("content-type", "application/grpc"), ("trailer", "grpc-status")])
    await end.finish([("grpc-status", "5")])
    await end.until("end")


@_kind(_fail)
async def failed_call_client(end: End) -> None:
    """A gRPC call whose server says no while the client is still sending, and which the client ends then."""
    await end.request("POST", "/failed_call", [("content-type", "application/grpc"), ("te", "trailers")])
    await end.data(b"hello")
    await end.until("end")
    await end.finish()


async def _trail(end: End) -> None:
    await end.until("end")
    await end.respond(200, [_TYPE, ("trailer", "x-sum, server-timing")])
    await end.data(b"answer")
    await end.finish([("x-sum", "2"), ("server-timing", "t")])


@_kind(_trail)
async def trailers_client(end: End) -> None:
    """Trailers there and back."""
    await end.request("POST", "/trailers", [_TYPE, ("te", "trailers"), ("trailer", "x-sum")])
    await end.data(b"question")
    await end.finish([("x-sum", "1")])
    await end.until("end")


async def _hint(end: End) -> None:
    await end.until("end")
    await end.interim(103, [("link", "</a.css>; rel=preload")])
    await pause(_SLOW_S)
    await end.interim(103, [("link", "</b.css>; rel=preload")])
    await pause(_SLOW_S)
    await _answer(end)


@_kind(_hint)
async def hints_client(end: End) -> None:
    """Early hints, each as it comes, and then the answer."""
    await end.request("GET", "/hints", ended=True)
    await end.until("end")


async def _invite(end: End) -> None:
    await end.until("head")
    await pause(_SLOW_S)
    await end.interim(100)
    await _echo(end)


@_kind(_invite)
async def expectation_client(end: End) -> None:
    """A client that asks whether it may send, and is told that it may."""
    await end.request("POST", "/expectation", [_TYPE, ("content-length", "5"), ("expect", "100-continue")])
    await end.until("interim")
    await end.data(b"hello")
    await end.finish()
    await end.until("end")


async def _refuse(end: End) -> None:
    await end.until("head")
    await pause(_SLOW_S)
    await end.respond(417, [_TYPE, ("content-length", "2")])
    await end.data(b"no")
    await end.finish()
    await end.until("closed")


@_kind(_refuse, closing=True)
async def refused_expectation_client(end: End) -> None:
    """A client that asks whether it may send, is told that it may not, and leaves without having sent it."""
    await end.request("POST", "/refused_expectation", [_TYPE, ("content-length", "5"), ("expect", "100-continue")])
    await end.until("end")
    await end.close()


async def _early(end: End) -> None:
    await end.until("data")
    await end.respond(413, [_TYPE])
    await end.data(b"enough")
    await end.finish()
    await end.until("end")


@_kind(_early)
async def early_answer_client(end: End) -> None:
    """An answer that is whole in the middle of its request, which goes on to its end."""
    await end.request("POST", "/early_answer", [_TYPE])
    await end.data(b"first")
    await end.until("end")
    await pause(_SLOW_S)
    await end.data(b"second")
    await end.finish()


async def _break_off(end: End) -> None:
    await end.until("end")
    await end.respond(200, [_TYPE])
    await end.data(b"half of it")
    await pause(_SLOW_S)
    await end.give_up()


@_kind(_break_off, closing=True)
async def broken_answer_client(end: End) -> None:
    """A server that breaks its answer off in the middle: the client is not made to believe that it is whole."""
    await end.request("GET", "/broken_answer", ended=True)
    await end.until("reset" if type(end).__name__ == "End2" else "closed")


async def _be_left(end: End) -> None:
    await end.until("end")
    await end.respond(200, [_TYPE])
    await end.data(b"half of it")
    await end.until("reset" if type(end).__name__ == "End2" else "closed")


@_kind(_be_left, closing=True)
async def left_answer_client(end: End) -> None:
    """A client that leaves in the middle of its answer: the server hears of it."""
    await end.request("GET", "/left_answer", ended=True)
    await end.until_bytes(10)
    await pause(_SLOW_S)
    await end.give_up()


async def _say_little(end: End) -> None:
    await end.until("end")
    await end.respond(204, [("x-a", "1")], ended=True)


@_kind(_say_little)
async def nothing_client(end: End) -> None:
    """An answer that has no content."""
    await end.request("DELETE", "/nothing", ended=True)
    await end.until("end")


async def _say_no(end: End) -> None:
    await end.until("data")
    await end.respond(200, [("content-type", "application/grpc"), ("grpc-status", "7")], ended=True)
    await end.until("end")


@_kind(_say_no, "h2")
async def refused_call_client(end: End) -> None:
    """A gRPC call that is answered by a head alone while the client is still sending."""
    await end.request("POST", "/refused_call", [("content-type", "application/grpc"), ("te", "trailers")])
    await end.data(b"hello")
    await end.until("end")
    await end.finish()


async def _until_close(end: End) -> None:
    await end.until("end")
    await end.respond(200, [_TYPE, ("connection", "close")])
    await end.data(b"all that there ")
    await pause(_SLOW_S)
    await end.data(b"is")
    await pause(_SLOW_S)
    await end.finish()
    await end.close()


@_kind(_until_close, "http/1.1", closing=True)
async def until_close_client(end: End) -> None:
    """An answer that ends with its connection."""
    await end.request("GET", "/until_close", ended=True)
    await end.until("closed")


async def _chat(end: End) -> None:
    assert isinstance(end, End1)
    await end.until("end")
    await end.interim(101, [("upgrade", "websocket"), ("connection", "Upgrade")])
    for number in range(3):
        await end.say((await end.until("message", number + 1))[0])
    await pause(_SLOW_S)
    await end.say("unasked")
    await end.until("end", 2)
    await end.leave(1000)


@_kind(_chat, "http/1.1")
async def chat_client(end: End) -> None:
    """A WebSocket: text and bytes there and back, something unasked, and a close."""
    assert isinstance(end, End1)
    wanted = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-version", "13")]
    await end.request("GET", "/chat", [*wanted, ("sec-websocket-key", "ZXhjaGFuZ2UgZXhjaGFuZw==")], ended=True)
    await end.until("head")
    for number, message in enumerate(["grün", b"\x00\xff", "x" * 5000]):
        await end.say(message)
        await end.until("message", number + 1)
    await end.until("message", 4)
    await end.leave(1000)
    await end.until("end")


async def _talk(end: End) -> None:
    await end.until("head")
    for number in range(1, 4):
        await end.until_bytes(5 * number)
        await end.data(b"pong%d" % number)
    await pause(_SLOW_S)
    await end.data(_BYTES)
    await end.until("closed")


@_kind(_talk, "raw", "x-raw", closing=True)
async def talk_client(end: End) -> None:
    """A protocol of its own: message for message, then a hundred kilobytes that nobody asked for; the client leaves."""
    await end.request("", "/talk")
    for number in range(1, 4):
        await end.data(b"ping%d" % number)
        await end.until_bytes(5 * number)
    await end.until_bytes(15 + len(_BYTES))
    await end.close()


async def _leave_first(end: End) -> None:
    await end.until("head")
    await end.data(b"bye")
    await pause(_SLOW_S)
    await end.close()


@_kind(_leave_first, "raw", "x-raw", closing=True)
async def left_talk_client(end: End) -> None:
    """A protocol of its own whose server leaves."""
    await end.request("", "/left_talk")
    await end.until("closed")


async def _answer_the_whole(end: End) -> None:
    await end.until("closed")
    await end.data(b"".join(one.value for one in end.seen if one.what == "data")[::-1])
    await pause(_SLOW_S)
    await end.close()


@_kind(_answer_the_whole, "raw", closing=True)
async def half_closed_client(end: End) -> None:
    """A client that has said all, says so by ending its direction, and waits for the answer."""
    await end.request("", "/half_closed")
    await end.data(_BYTES)
    await end.finish()
    await end.until("closed")


async def _send_back(end: End) -> None:
    while end.seen[-1].what != "closed":
        await end.until_bytes(1)
        data = b"".join(one.value for one in end.seen if one.what == "data")
        end.seen[:] = [one for one in end.seen if one.what != "data"]
        await end.data(data)
    await end.close()


@_kind(_send_back, "not in the matrix")
async def flood_client(end: End) -> None:
    """A protocol of its own that says back what it hears: for who has much to say."""
    raise NotImplementedError
