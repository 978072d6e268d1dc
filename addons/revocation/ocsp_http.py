"""Asks an OCSP responder over HTTP (RFC 6960 appendix A), bounded in time and size. It reads no response."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import SplitResult, urlsplit

import h11

from hsm.wire.worker import MAX_STAPLE

MAX_BYTES = MAX_STAPLE
"""Of an answer with its headers: what is fetched can be kept."""
_FETCH_S = 10.0


async def fetch(url: str, request: bytes) -> bytes:
    """What the responder at `url` (http or https) answers to `request` (DER). Raises ValueError with what went wrong.

    h11 on asyncio's streams: tornado's client has limits, too, but does not say which was passed, and leaves its
    connection open where the caller is cancelled; urllib's time limit is for each read. Redirects are not followed, as
    nginx does not: HTTP turns a redirected POST into a GET (RFC 9110 section 15.4). Nor do proxies of the environment
    count: a worker's may well name this very proxy. Who has no other way out lets a program renew a file.
    """
    try:
        async with asyncio.timeout(_FETCH_S):
            return await _post(urlsplit(url), request)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error) or f"no answer within {_FETCH_S:g} s"
        raise ValueError(f"the OCSP responder {url} cannot be asked: {why}") from error
    except h11.ProtocolError as error:
        raise ValueError(f"the OCSP responder {url} breaks off or does not speak HTTP: {error}") from error
    except _AnswerError as error:
        raise ValueError(f"the OCSP responder {url} {error}") from error


class _AnswerError(Exception):
    """What kind of answer came, said of the responder."""


async def _post(url: SplitResult, body: bytes) -> bytes:
    # Loading the system's authorities takes tens of milliseconds.
    tls = await asyncio.to_thread(ssl.create_default_context) if url.scheme == "https" else None
    reader, writer = await asyncio.open_connection(url.hostname, url.port or (443 if tls else 80), ssl=tls)
    try:
        http = h11.Connection(h11.CLIENT)
        headers = [
            ("host", url.netloc.rpartition("@")[2]),
            ("user-agent", "hsmitm"),
            ("accept", "application/ocsp-response"),
            ("content-type", "application/ocsp-request"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        for event in (h11.Request(method="POST", target=target, headers=headers), h11.Data(body), h11.EndOfMessage()):
            writer.write(http.send(event) or b"")
        await writer.drain()
        return await _answer(http, reader)
    finally:
        writer.transport.abort()  # a TLS goodbye may take longer than all the rest


async def _answer(http: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    body, size = bytearray(), 0
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                data = await reader.read(MAX_BYTES)
                size += len(data)
                if size > MAX_BYTES:
                    raise _AnswerError(f"answers with more than {MAX_BYTES // 1024} KiB")
                if not data and http.their_state is h11.SEND_RESPONSE:
                    raise _AnswerError("closes the connection without an answer")
                http.receive_data(data)
            case h11.Response(status_code=status) if status != 200:
                raise _AnswerError(f"answers with HTTP status {status}")
            case h11.Data(data=piece):
                body += piece
            case h11.EndOfMessage():
                return bytes(body)
