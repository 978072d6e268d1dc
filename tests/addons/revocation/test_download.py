"""addons/revocation/download.py: one exchange, with servers on loopback that answer well and badly.

What answers of a wrong kind come to `test_ocsp_http.py` shows, with the same code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import SplitResult

import pytest

from addons.revocation.download import NoAnswerError, Streams, Wanted, download
from tests.addons.revocation.ocsp_responder import Responder, respond_with


async def connect(url: SplitResult) -> Streams:
    return await asyncio.open_connection(url.hostname, url.port)


def wanted(url: str, *, most: int = 1 << 20, within_s: float = 10) -> Wanted:
    """A list at this URL."""
    return Wanted("the server of the CRL", url, most, within_s, "application/pkix-crl")


async def test_a_get(responder: Responder) -> None:
    """Without a body it is a GET, which says who asks and for what, and nothing else."""
    responder.answer = respond_with(b"list" * 100_000)
    assert await download(wanted(f"{responder.url}/a%20b?c=d"), connect) == b"list" * 100_000
    [(path, headers, body)] = responder.asked
    assert (path, body) == ("/ocsp/a%20b?c=d", b"")
    host = responder.url.split("/")[2]
    assert headers == {
        "host": host, "user-agent": "hsmitm", "accept": "application/pkix-crl", "connection": "close",
    }  # fmt: skip


def _chunks(size: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(http: BaseHTTPRequestHandler) -> None:
        http.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        http.wfile.write((b"%x\r\n" % size + bytes(size) + b"\r\n") * 20_000 + b"0\r\n\r\n")

    return answer


async def test_tiny_pieces_are_refused_soon(responder: Responder) -> None:
    """An answer in chunks of a byte each, which costs us twenty microseconds a piece, is left after a few of them; one
    in small chunks is read."""
    responder.answer = _chunks(1)
    began = time.process_time()
    with pytest.raises(ValueError, match="answers in pieces of a few bytes"):
        await download(wanted(responder.url, most=10 << 20), connect)
    assert time.process_time() - began < 0.2
    responder.answer = _chunks(256)
    assert len(await download(wanted(responder.url, most=10 << 20), connect)) == 256 * 20_000


async def test_a_body_byte_by_byte_is_left_in_time(responder: Responder) -> None:
    """A body that comes byte by byte ends with the time that it has, and counts as no answer."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        while not over.is_set():
            writer.write(b"x" * (writer.transport.get_write_buffer_size() == 0))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.1)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(NoAnswerError, match=r"cannot be asked: no answer within 0\.3 s"):
            await download(wanted(url, within_s=0.3), connect)
    over.set()


async def test_more_than_was_agreed(responder: Responder) -> None:
    """An answer of more bytes than may come is left, with its size named."""
    responder.answer = respond_with(bytes(200_000))
    with pytest.raises(ValueError, match=r"the CRL http://.* answers with more than 128 KiB"):
        await download(wanted(responder.url, most=128 << 10), connect)


async def test_a_connection_that_is_reset_is_no_answer(responder: Responder) -> None:
    """Somebody who cuts the connection has not answered."""

    async def cut(url: SplitResult) -> Streams:
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(NoAnswerError, match="cannot be asked: Connection reset by peer"):
        await download(wanted(responder.url), cut)
