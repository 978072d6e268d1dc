"""p11-kit: a client library, and over a UNIX socket a server that loads SoftHSM for each client."""

from __future__ import annotations

from pathlib import Path

from tests.modules.daemon import Daemon
from tests.modules.softhsm import SoftHSM
from tests.modules.vendor import library
from tests.softhsm import MODULE


class P11Kit(SoftHSM):
    """SoftHSM's token, across a socket."""

    name = "p11-kit"

    def __init__(self, directory: Path) -> None:
        """The socket is in `directory`."""
        super().__init__(directory)
        self._socket = directory / "socket"
        serve = ["p11-kit", "server", "-f", "-n", self._socket, "-p", MODULE, "pkcs11:"]
        self._server = Daemon(serve, directory / "server.log", self._socket.exists, self.store)

    @property
    def module(self) -> str:
        """p11-kit's client."""
        return library("usr/lib/*/pkcs11/p11-kit-client.so", package="p11-kit-modules")

    @property
    def environment(self) -> dict[str, str]:
        """Where the server is."""
        return {"P11_KIT_SERVER_ADDRESS": f"unix:path={self._socket}"}

    def prepare(self) -> None:
        """The token is made without the server."""
        super().prepare()
        self.daemons = [self._server]
        self._server.start()

    def revive(self) -> None:
        """A killed server leaves its socket, and a new one would not take it."""
        self._socket.unlink(missing_ok=True)
        super().revive()
