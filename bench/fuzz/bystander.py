"""A client that does nothing wrong, while others do: `python -m bench.fuzz.bystander`, a process of its own.

It asks for the same page again and again, on one connection that it keeps and on ever new ones, and takes the time.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct

_LIMIT_S = 20.0


class Errand(Struct, frozen=True):
    """What to ask for: a page of each of `hosts` at `address` ("host:port"), whose certificates are of the CA in the
    file `ca`; a request each `pause_s` on the kept connection, and a new connection each `pause_s`."""

    address: str
    hosts: list[str]
    ca: str
    pause_s: float = 0.03


class Seen(Struct, frozen=True):
    """Milliseconds of each request on the kept connection, and of each new connection with its request."""

    kept_ms: list[float]
    new_ms: list[float]
    errors: list[str]


class Bystander:
    """The process. Use it as an async context manager; `stop` has what it saw."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start it, and return when it has been served once."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bench.fuzz.bystander", msgspec.json.encode(self._errand).decode(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        await self._process.stdout.readexactly(1)
        return self

    async def stop(self) -> Seen:
        """Have it ask no more, and tell what it saw."""
        assert self._process is not None
        out, _ = await self._process.communicate()
        return msgspec.json.decode(out, type=Seen)

    async def __aexit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """End it, whatever it saw."""
        assert self._process is not None
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class _Client:
    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._over = threading.Event()
        self._contexts = []
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=errand.ca)
            context.minimum_version = context.maximum_version = version
            self._contexts.append(context)
        self._seen = Seen([], [], [])

    def run(self) -> Seen:
        kept = self._connection(0)
        self._ask(kept)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        threads = [threading.Thread(target=self._new), threading.Thread(target=self._kept, args=(kept,))]
        for one in threads:
            one.start()
        sys.stdin.read()
        self._over.set()
        for one in threads:
            one.join()
        return self._seen

    def _kept(self, kept: http.client.HTTPSConnection) -> None:
        while not self._over.wait(self._errand.pause_s):
            began = time.monotonic()
            try:
                self._ask(kept)
            except (OSError, http.client.HTTPException) as error:
                self._seen.errors.append(f"kept connection: {type(error).__name__}: {error}")
                kept = self._connection(0)
            else:
                self._seen.kept_ms.append(1000 * (time.monotonic() - began))

    def _new(self) -> None:
        number = 0
        while not self._over.wait(self._errand.pause_s):
            number += 1
            began = time.monotonic()
            try:
                connection = self._connection(number)
                self._ask(connection)
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                self._seen.errors.append(f"new connection {number}: {type(error).__name__}: {error}")
            else:
                self._seen.new_ms.append(1000 * (time.monotonic() - began))

    def _connection(self, number: int) -> http.client.HTTPSConnection:
        """To the sites and with the versions in turn."""
        address, _, port = self._errand.address.rpartition(":")
        hosts = self._errand.hosts
        context = self._contexts[number // len(hosts) % 2]
        made = _Named(address, int(port), context=context, timeout=_LIMIT_S)
        made.site = hosts[number % len(hosts)]
        made.context = context
        return made

    def _ask(self, connection: http.client.HTTPSConnection) -> None:
        assert isinstance(connection, _Named)
        connection.request("GET", "/", headers={"Host": connection.site})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")


class _Named(http.client.HTTPSConnection):
    """A connection to an address, for a site of another name."""

    site = ""
    context: ssl.SSLContext

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self.context.wrap_socket(self.sock, server_hostname=self.site)


if __name__ == "__main__":
    seen = _Client(msgspec.json.decode(sys.argv[1], type=Errand)).run()
    sys.stdout.buffer.write(msgspec.json.encode(seen))
