"""The demo's client: curl through the proxy, and a CONNECT of its own, whose answer curl does not show."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from msgspec import Struct

from proxy.config.file import Config

_PATIENCE_S = 20


class Visit(Struct, frozen=True):
    """What curl saw. `subject` and `issuer` are of the certificate; "-" where there was none."""

    url: str
    status: str
    version: str
    text: str
    subject: str
    issuer: str


async def visit(config: Config, url: str, *options: str, trusting: Path) -> Visit:
    """Ask for `url` through the proxy, as a client that trusts the CAs in the file `trusting`."""
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--verbose", "--max-time", str(_PATIENCE_S), *options,
        "--proxy", f"http://{config.listen}", "--cacert", str(trusting),
        "--write-out", "\n%{http_code} %{http_version}", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
    )  # fmt: skip
    output, trace = await process.communicate()
    text, _, numbers = output.decode().rpartition("\n")
    status, _, version = numbers.partition(" ")
    said = trace.decode(errors="replace")
    if process.returncode:
        text = said.strip().rpartition("\n")[2]
    return Visit(url, status, version, text, _found(r"subject: (.*)", said), _found(r"issuer: (.*)", said))


def _found(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return found[-1] if found else "-"


class Refusal(Struct, frozen=True):
    """The answer to a CONNECT that is refused: HTTP's status, the page, and the id that is in a header."""

    status: str
    page: str
    id: str


async def connect(config: Config, host: str, port: int) -> Refusal:
    """Ask the proxy for a tunnel, and read what it says to the end of its page."""
    listen = config.listen
    assert listen is not None
    reader, writer = await asyncio.open_connection(listen.host, listen.port)
    try:
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        async with asyncio.timeout(_PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?im)^content-length: (\d+)", head)
            page = await reader.readexactly(int(length[1])) if length else b""
    finally:
        writer.close()
    return Refusal(head.split(" ")[1], page.decode(), _found(r"(?im)^hsmitm-id: (\S+)", head))
