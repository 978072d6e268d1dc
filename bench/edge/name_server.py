"""A name server for the measurement: `python -m bench.edge.name_server ADDRESS`. All of .test is this machine (an A
record of 127.0.0.1), but names below `target.SILENT`, for which no answer comes.

A process that is to ask it gets a mount namespace of its own, in which /etc/resolv.conf is another file: so it is met
by whatever hsmitm looks names up with, and the machine's own settings stay.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Self

from bench.edge.target import SILENT
from bench.report.processes import ended

_PORT = 53
_A = 1
_SILENT = SILENT.encode()


def possible() -> str:
    """Why there can be none here; empty where there can be one."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return "names without an answer need root and unshare(1), for a name server of our own in hsmitm's namespace"
    return ""


class NameServer:
    """The process. Use it as an async context manager; `prefix` is put in front of a command that is to ask it."""

    def __init__(self, directory: Path) -> None:
        """Its file is put into `directory`."""
        # An address of its own, so that no other measurement on this machine has the port.
        self.address = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}.53"
        self._file = directory / "resolv.conf"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def prefix(self) -> list[str]:
        """Runs a command, given behind it, in its own mount namespace."""
        script = f'mount --bind {self._file} /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]

    async def __aenter__(self) -> Self:
        """Start it, and wait until it listens."""
        self._file.write_text(f"nameserver {self.address}\n")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bench.edge.name_server", self.address,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        await self._process.stdout.readexactly(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it at once."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            await ended(self._process, 5)


def reply(query: bytes) -> bytes:
    """The answer (RFC 1035 section 4) to a query with one question; empty where none comes."""
    end, labels = 12, []
    while length := query[end]:
        labels.append(query[end + 1 : end + 1 + length])
        end += 1 + length
    name = b".".join(labels).lower()
    if name.endswith(_SILENT):
        return b""
    question, kind = query[12 : end + 5], int.from_bytes(query[end + 1 : end + 3])
    known = name.endswith(b".test")
    address = known and kind == _A
    head = (
        query[:2] + (b"\x85\x80" if known else b"\x85\x83") + b"\0\1" + (b"\0\1" if address else b"\0\0") + b"\0\0\0\0"
    )
    record = b"\xc0\x0c\0\1\0\1" + (60).to_bytes(4) + b"\0\4\x7f\0\0\1"
    return head + question + (record if address else b"")


class _Questions(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        if answer := reply(data):
            self._transport.sendto(answer, addr)


async def _serve(address: str) -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(_Questions, local_addr=(address, _PORT))
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
