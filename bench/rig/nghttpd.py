"""The HTTP/2 origin: nghttp2's own server, which answers a request in a few microseconds."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.report.processes import ended
from bench.rig.port import free_port
from hsm.errors import MisconfiguredError
from proxy.demo.origin import OriginCA

HOST = "h2.bench.test"
SMALL, BODY = "small", "body"
"""Files that it serves: 30 bytes, and a large one."""
_WINDOW_BITS = "24"
"""16 MiB for a stream and for the connection: it is never the origin that a body waits for."""
_READY_S = 20.0


class Nghttpd:
    """Use it as an async context manager; it listens at `address` with a certificate for HOST."""

    def __init__(self, directory: Path, ca: OriginCA, body_bytes: int) -> None:
        """`directory` is made; /body has `body_bytes` zeros."""
        self.directory, self.address = directory, f"127.0.0.1:{free_port()}"
        self._ca, self._body_bytes = ca, body_bytes
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pids(self) -> list[int]:
        """Its one process."""
        assert self._process is not None
        return [self._process.pid]

    @property
    def port(self) -> int:
        """Where it listens, on the loopback address."""
        return int(self.address.rpartition(":")[2])

    @property
    def body(self) -> Path:
        """The file behind /body."""
        return self.directory / "served" / BODY

    async def __aenter__(self) -> Self:
        """Start it and wait until it accepts connections. Raises MisconfiguredError with its log where it does not."""
        program = shutil.which("nghttpd")
        assert program is not None
        self._prepare()
        host, _, port = self.address.partition(":")
        files = [str(self.directory / name) for name in ("origin.key", "origin.pem")]
        with (self.directory / "output.log").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                program, "-a", host, "-d", str(self.body.parent), "-w", _WINDOW_BITS, "-W", _WINDOW_BITS, port, *files,
                env={"PATH": os.environ.get("PATH", "")}, stdin=asyncio.subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            await self._until_ready(self._process, host, int(port))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it, at once if it must be."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await ended(self._process, 5)

    def _prepare(self) -> None:
        (self.directory / "served").mkdir(parents=True)
        (self.body.parent / SMALL).write_bytes(b"thirty bytes of an HTTP answer")
        with self.body.open("wb") as body:
            body.truncate(self._body_bytes)
        key = ec.generate_private_key(ec.SECP256R1())
        private = self.directory / "origin.key"
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        certificate = self._ca.certify(key.public_key(), [HOST])
        (self.directory / "origin.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    async def _until_ready(self, process: asyncio.subprocess.Process, host: str, port: int) -> None:
        until = time.monotonic() + _READY_S
        while process.returncode is None and time.monotonic() < until:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(0.05)  # another process's doing
            else:
                writer.close()
                return
        raise MisconfiguredError(
            f"nghttpd did not begin to serve: {(self.directory / 'output.log').read_text()[-2000:]}"
        )
