"""The plain-HTTP server behind our own sites: `python -m bench.edge.echo_origin`. It answers each request with the
bytes that it consisted of, trailers included: what an attacker could get past hsmitm can be read from the answer.
"""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import suppress
from typing import Self

from bench.report.processes import ended


class EchoOrigin:
    """The process. Use it as an async context manager; `url` is where it listens."""

    _process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        """Start it, and wait until it tells its port."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bench.edge.echo_origin",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(await self._process.stdout.readline())}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it at once."""
        if self._process.returncode is None:
            self._process.terminate()
            await ended(self._process, 5)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        while True:
            came = await reader.readuntil(b"\r\n\r\n")
            if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", came):
                came += await reader.readexactly(int(length[1]))
            elif re.search(rb"(?i)\r\ntransfer-encoding:[^\r]*chunked", came):
                while not came.endswith(b"\r\n\r\n") or b"\r\n0\r\n" not in came:
                    came += await reader.readuntil(b"\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(came), came))
            await writer.drain()
    writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
