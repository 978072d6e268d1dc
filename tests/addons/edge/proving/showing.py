"""A real TLS server that shows a certificate of a test's, and echoes."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding

from tests.addons.upstream.faulty import Shown


class Showing:
    """A thread for each connection; a context manager. `seen` are the SNIs that were asked for, in their order,
    `hellos` what each connection began with."""

    def __init__(
        self, shown: Shown, directory: Path, version: ssl.TLSVersion | None = None, *, wants: bool = False,
        at: str = "127.0.0.1", port: int = 0,
    ) -> None:  # fmt: skip
        """`wants`: it lets nobody in who has no certificate."""
        file = directory / "shown.pem"
        file.write_bytes(shown.pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_ciphers("DEFAULT:@SECLEVEL=0")
        self._context.load_cert_chain(file)
        if version is not None:
            self._context.minimum_version = self._context.maximum_version = version
        if wants:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(cadata=shown.chain[0].public_bytes(Encoding.PEM).decode())
        self._context.sni_callback = self._note
        self.seen: list[str | None] = []
        self.hellos: list[bytes] = []
        self.socket = socket.create_server((at, port), backlog=128)
        self.port: int = self.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _note(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.seen.append(name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                one = self.socket.accept()[0]
                threading.Thread(target=self._echo, args=(one,), daemon=True).start()

    def _echo(self, one: socket.socket) -> None:
        one.settimeout(20)
        with suppress(OSError):
            self.hellos.append(one.recv(65536, socket.MSG_PEEK))
        with one, suppress(OSError), self._context.wrap_socket(one, server_side=True) as tls:
            while data := tls.recv(65536):
                tls.sendall(data)
