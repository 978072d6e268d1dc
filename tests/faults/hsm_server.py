"""An HSM behind a network: a p11-kit server for one partition, and members that are its clients.

`p11-kit server` only accepts: for each client it starts a `p11-kit-remote` that loads SoftHSM and answers one call at a
time. The client library, `p11-kit-client.so`, is a real client of a real socket: it has no timeouts, and once it has
lost its connection it says CKR_DEVICE_ERROR until the process ends, as network HSMs' clients do.

    async with served(tmp_path, partitions[:2]) as network:
        network.servers["m1"].kill_remotes()

SoftHSM stands behind the fault-injecting module in each remote, so `rig.logins` and `rig.hsm(...).fault` work as they
do elsewhere. Only processes that were started here are signalled, by their ids, and none is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.rig.faulty_module import FaultyModule
from hsm.member.settings import Failover
from tests.faults.rig import Rig, make_rig
from tests.hsm.members import alive, hung
from tests.softhsm import MODULE, Store
from tests.waiting import wait_until

CLIENT = next((str(path) for path in Path("/").glob("usr/lib/*/pkcs11/p11-kit-client.so")), "")


class HsmServer:
    """The server of one partition."""

    def __init__(self, store: Store, hsm: FaultyModule, socket: Path) -> None:
        assert CLIENT, "p11-kit is not installed: run ./dev setup"
        self._store, self._hsm, self._socket = store, hsm, socket
        self._process = 0
        self._remotes: set[int] = set()

    @property
    def client(self) -> dict[str, Any]:
        """Changes of a member's settings that make it a client."""
        return {"module": CLIENT, "environment": {"P11_KIT_SERVER_ADDRESS": f"unix:path={self._socket}"}}

    def start(self) -> None:
        """Run the server; return when it accepts."""
        self._socket.unlink(missing_ok=True)
        # Not a child of this process: a group's end looks for children that it left.
        started = subprocess.run(
            ["sh", "-c", '"$@" </dev/null >/dev/null 2>&1 & echo $!', "sh",
             "p11-kit", "server", "-f", "-n", str(self._socket), "-p", str(self._hsm.path), "pkcs11:"],
            env=os.environ | self._store.environment | self._hsm.environment(MODULE),
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        self._process = int(started.stdout)
        wait_until(self._socket.exists, "the server listens")

    @property
    def remotes(self) -> set[int]:
        """The processes that serve a client each."""
        with suppress(OSError):
            children = Path(f"/proc/{self._process}/task/{self._process}/children").read_text()
            self._remotes |= {int(one) for one in children.split()}
        self._remotes = {one for one in self._remotes if alive(one)}
        return self._remotes

    def kill_remotes(self) -> None:
        """Every client loses its connection; the server accepts new ones."""
        for one in self.remotes:
            os.kill(one, signal.SIGKILL)

    @contextmanager
    def remotes_stopped(self) -> Iterator[set[int]]:
        """Every call of a client hangs; new clients are served."""
        stopped = set(self.remotes)
        with ExitStack() as undo:
            for one in stopped:
                undo.enter_context(hung(one))
            yield stopped

    @contextmanager
    def accepting_stopped(self) -> Iterator[None]:
        """A new client hangs as soon as it loads its library; the others are served."""
        with hung(self._process):
            yield

    def kill(self) -> None:
        """The machine is gone: server and remotes."""
        processes = {*self.remotes, self._process} - {0}
        for one in processes:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        for one in processes:
            wait_until(lambda process=one: not alive(process), f"process {one} is gone", 3)
        self._process = 0


@dataclass
class Network:
    """A group whose members are clients of a server each."""

    rig: Rig
    servers: dict[str, HsmServer] = field(default_factory=dict)


@asynccontextmanager
async def served(
    directory: Path, stores: Sequence[Store], *, absent: Sequence[str] = (), failover: Failover | None = None
) -> AsyncIterator[Network]:
    """`make_rig` over the network. The servers of `absent` members are not started."""
    names = [f"m{place}" for place in range(1, len(stores) + 1)]
    with tempfile.TemporaryDirectory() as sockets, ExitStack() as running:  # an address of a socket has 107 bytes
        servers = {}
        for name, store in zip(names, stores, strict=True):
            servers[name] = HsmServer(store, FaultyModule(directory / name), Path(sockets) / name)
            if name not in absent:
                servers[name].start()
            running.callback(servers[name].kill)
        settings = {name: server.client for name, server in servers.items()}
        async with make_rig(directory, stores, settings=settings, failover=failover, all_up=not absent) as rig:
            yield Network(rig, servers)
