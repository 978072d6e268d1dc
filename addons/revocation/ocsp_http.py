"""Asks the OCSP responder of a site of ours (RFC 6960 appendix A), bounded in time and size. It reads no response."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import SplitResult

from addons.revocation.download import Streams, Wanted, download
from hsm.wire.worker import MAX_STAPLE

MAX_BYTES = MAX_STAPLE
"""Of an answer with its headers: what is fetched can be kept."""
_FETCH_S = 10.0


async def fetch(url: str, request: bytes) -> bytes:
    """What the responder at `url` (http or https) answers to `request` (DER). Raises ValueError with what went wrong.

    Redirects are not followed, as nginx does not, and no proxy is asked: who has no other way out lets a program renew
    a file. The certificate is the operator's own, so whatever it names may be asked.
    """
    return await download(question(url, request, _FETCH_S), _connect)


def question(url: str, request: bytes, within_s: float) -> Wanted:
    """The exchange with a responder."""
    return Wanted(
        who="the OCSP responder",
        url=url,
        most=MAX_BYTES,
        within_s=within_s,
        accept="application/ocsp-response",
        body=request,
        kind="application/ocsp-request",
    )


async def _connect(url: SplitResult) -> Streams:
    # Loading the system's authorities takes tens of milliseconds.
    tls = await asyncio.to_thread(ssl.create_default_context) if url.scheme == "https" else None
    return await asyncio.open_connection(url.hostname, url.port or (443 if tls else 80), ssl=tls)
