"""One HTTP exchange with whom a certificate names, bounded in time, bytes and pieces. What comes is not read here.

h11 on asyncio's streams: tornado's client has limits, too, but does not say which was passed, and leaves its connection
open where the caller is cancelled; urllib's time limit is for each read. Redirects are not followed: HTTP turns a
redirected POST into a GET (RFC 9110 section 15.4), and what a certificate names is where it is to be found. Nor do
proxies of the environment count: a worker's may well name this very proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

import h11
from msgspec import Struct

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[SplitResult], Awaitable[Streams]]
"""A connection to where an URL (http or https) says. Raises OSError."""

_READ = 65536
_PIECES, _PIECE = 64, 128
"""A body may come in so many pieces, and one more for each so many bytes: each costs us more than its sender."""


class Wanted(Struct, frozen=True):
    """What is asked, and how much it may cost: `most` bytes with the head, `within_s` seconds in all. `who` is how
    messages begin, such as "the OCSP responder". With a `body`, of media type `kind`, it is a POST."""

    who: str
    url: str
    most: int
    within_s: float
    accept: str
    body: bytes | None = None
    kind: str = ""


class NoAnswerError(ValueError):
    """Nobody answered: there was no connection, or not all of an answer in time."""


class _AnswerError(Exception):
    """What kind of answer came, said of who gave it."""


async def download(wanted: Wanted, connect: Connect, parent: str | None = None) -> bytes:
    """The answer's body. Raises NoAnswerError, or ValueError with what was wrong with the answer.

    `parent`: what is connected to is a proxy, which wants to hear this (Proxy-Authorization), or nothing if empty.
    """
    name = f"{wanted.who} {wanted.url}"
    try:
        async with asyncio.timeout(wanted.within_s):
            return await _exchange(wanted, connect, parent)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error) or f"no answer within {wanted.within_s:g} s"
        raise NoAnswerError(f"{name} cannot be asked: {why}") from error
    except h11.ProtocolError as error:
        raise ValueError(f"{name} breaks off or does not speak HTTP: {error}") from error
    except _AnswerError as error:
        raise ValueError(f"{name} {error}") from error


async def _exchange(wanted: Wanted, connect: Connect, parent: str | None) -> bytes:
    url = urlsplit(wanted.url)
    reader, writer = await connect(url)
    try:
        http = h11.Connection(h11.CLIENT)
        for event in (
            _request(wanted, url, parent),
            *([h11.Data(wanted.body)] if wanted.body else []),
            h11.EndOfMessage(),
        ):
            writer.write(http.send(event) or b"")
        await writer.drain()
        return await _answer(http, reader, wanted.most)
    finally:
        writer.transport.abort()  # a TLS goodbye may take longer than all the rest


def _request(wanted: Wanted, url: SplitResult, parent: str | None) -> h11.Request:
    host = url.netloc.rpartition("@")[2]
    headers = [
        ("host", host),
        ("user-agent", "hsmitm"),
        ("accept", wanted.accept),
        ("connection", "close"),
    ]
    if wanted.body is not None:
        headers += [("content-type", wanted.kind), ("content-length", str(len(wanted.body)))]
    if parent:
        headers.append(("proxy-authorization", parent))
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if parent is not None:
        target = f"{url.scheme}://{host}{target}"  # RFC 9112 section 3.2.2
    return h11.Request(method="GET" if wanted.body is None else "POST", target=target, headers=headers)


async def _answer(http: h11.Connection, reader: asyncio.StreamReader, most: int) -> bytes:
    body, size, pieces = bytearray(), 0, 0
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                data = await reader.read(min(most, _READ))
                size += len(data)
                if size > most:
                    raise _AnswerError(f"answers with more than {most // 1024} KiB")
                if not data and http.their_state is h11.SEND_RESPONSE:
                    raise _AnswerError("closes the connection without an answer")
                http.receive_data(data)
            case h11.Response(status_code=status) if status != 200:
                raise _AnswerError(f"answers with HTTP status {status}")
            case h11.Data(data=piece):
                body += piece
                pieces += 1
                if pieces > _PIECES + len(body) // _PIECE:
                    raise _AnswerError("answers in pieces of a few bytes")
            case h11.EndOfMessage():
                return bytes(body)
