"""How a client comes to its server: directly, or by one of the ways through hsmitm. What is not "raw" is TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from proxy.demo.origin import OriginCA
from tests.exchanges.comparison import Recording
from tests.exchanges.ends import End
from tests.exchanges.ends1 import HOST, End1
from tests.exchanges.ends2 import End2
from tests.exchanges.ends_raw import EndRaw
from tests.exchanges.kinds import KINDS, Kind
from tests.exchanges.place import REDIRECTED
from tests.waiting import until

VERSIONS: dict[str, type[End]] = {"http/1.1": End1, "h2": End2, "raw": EndRaw, "x-raw": EndRaw}
"""What is spoken, by the name that ALPN has for it. "raw" is without TLS."""
_QUIET_S = 0.05
"""So long nothing comes any more at the end of an exchange."""


class Way(Protocol):
    """A connected socket behind which the server is, or seems to be."""

    async def connect(self, port: int) -> socket.socket:
        """To the server at this port."""


@dataclass
class Servers:
    """One for each version of HTTP, and for what is none; each exchange is a connection of its own, and what its server
    does is found by its path."""

    ports: dict[str, int] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)
    _listening: list[asyncio.Server] = field(default_factory=list)
    _serving: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def start(self, ca: OriginCA) -> None:
        """Listen."""
        for version, kind in VERSIONS.items():

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: type[End] = kind) -> None:
                self._serving.add(asyncio.current_task())
                await self._serve(kind(reader, writer, client=False))

            context = None if version == "raw" else ca.context((HOST, "127.0.0.1"), (version,))
            made = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
            self._listening.append(made)
            self.ports[version] = made.sockets[0].getsockname()[1]

    async def _serve(self, end: End) -> None:
        with contextlib.suppress(Exception, asyncio.CancelledError):  # who was left in the middle has recorded it
            head = await end.until("head")
            if head is None:
                return
            name = head[1].removeprefix("/")
            self.ends[name] = end
            await KINDS[name].server(end)

    async def stop(self) -> None:
        """Listen no more, and leave who is left."""
        for one in self._listening:
            one.close()
        for task in self._serving:
            if task is not None:
                task.cancel()
        await asyncio.sleep(0)


async def connected(way: Way, port: int, version: str, trust: Path) -> End:
    """A client's connection by this way, in this version of HTTP."""
    plain = await way.connect(port)
    if version == "raw":
        return VERSIONS[version](*await asyncio.open_connection(sock=plain), client=True)
    context = ssl.create_default_context(cafile=str(trust))
    context.set_alpn_protocols([version])
    reader, writer = await asyncio.open_connection(sock=plain, ssl=context, server_hostname=HOST)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == version
    return VERSIONS[version](reader, writer, client=True)


async def record(end: End, servers: Servers, kind: Kind) -> Recording:
    """One exchange on this connection."""
    servers.ends.pop(kind.name, None)
    made = Recording(time.monotonic())
    try:
        await kind.client(end)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what became of the exchange
        end.fail(error)
    other = servers.ends.get(kind.name)
    await _quiet(*filter(None, (end, other)))
    made.client, made.server = list(end.seen), list(other.seen) if other else []
    await end.close()
    if other is not None:
        await other.close()
    return made


async def _quiet(*ends: End) -> None:
    """Until nothing more comes."""

    def latest() -> float:
        return max([one.at_s for end in ends for one in end.seen], default=0.0)

    begun = time.monotonic()
    await until(lambda: time.monotonic() - max(latest(), begun) > _QUIET_S, "nothing comes any more", 5)


class Direct:
    """Without hsmitm."""

    async def connect(self, port: int) -> socket.socket:
        """As Way says it."""
        return await _connected(port)


@dataclass
class Explicit:
    """A client that knows the proxy, and says CONNECT."""

    proxy: int
    name: str = HOST
    """That it asks for."""

    async def connect(self, port: int) -> socket.socket:
        """As Way says it."""
        made = await _connected(self.proxy)
        place = f"{self.name}:{port}"
        await _said(made, f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode(), b"\r\n\r\n")
        return made


@dataclass
class Socks:
    """A client of SOCKS5 (RFC 1928)."""

    proxy: int
    name: str = HOST

    async def connect(self, port: int) -> socket.socket:
        """As Way says it."""
        made = await _connected(self.proxy)
        await _said(made, b"\x05\x01\x00", b"\x05\x00")
        name = self.name.encode()
        asked = b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", port)
        await _said(made, asked, b"\x05\x00\x00\x01" + bytes(6))
        return made


class Redirected:
    """A client that knows of nothing: the kernel brings it to us."""

    async def connect(self, port: int) -> socket.socket:
        """As Way says it."""
        return await _connected(port, mark=REDIRECTED)


@dataclass
class Site:
    """A client of one of our own sites; each server is behind a listener of its own."""

    ports: dict[int, int]

    async def connect(self, port: int) -> socket.socket:
        """As Way says it."""
        return await _connected(self.ports[port])


async def _connected(port: int, mark: int = 0) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    if mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    return made


async def _said(made: socket.socket, asked: bytes, answer: bytes) -> None:
    """Say it, and read as much as the answer needs."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(made, asked)
    got = b""
    while not got.endswith(answer):
        data = await asyncio.wait_for(loop.sock_recv(made, 1), 10)
        if not data:
            made.close()
            raise ConnectionError(f"it ended with {got!r}")
        got += data
