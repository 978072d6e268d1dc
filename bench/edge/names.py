"""Names: those whose server does not answer, and those that nobody has asked for before."""

from __future__ import annotations

import itertools
import random

from bench.edge.hello import Client
from bench.edge.scene import Scene, head_of, status
from bench.edge.target import SILENT


def silent(scene: Scene) -> None:
    """CONNECT to names whose server does not answer: four threads that look names up are busy for long."""
    numbers = itertools.count(random.randrange(1 << 30))  # noqa: S311

    def one() -> None:
        host = f"n{next(numbers)}.{SILENT}"
        with scene.dial(scene.target.proxy) as connection:
            connection.settimeout(scene.target.seconds)
            connection.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
            scene.saw(status(head_of(connection).encode()))

    scene.again(one, threads=24, pause_s=0.05)


def random_names(scene: Scene) -> None:
    """A handshake for a new name each time: each is a signature, and a leaf that takes another's place."""
    numbers = itertools.count(random.randrange(1 << 30))  # noqa: S311

    def one() -> None:
        host = f"r{next(numbers)}.edge.test"
        with scene.tunnel(host, scene.target.tls_port) as connection:
            connection.sendall(Client(host).hello())
            came = connection.recv(7)
            scene.saw("a leaf" if came[:1] == b"\x16" else f"alert {came[6:7].hex()}" if came else "closed")

    scene.again(one, threads=64, pause_s=0)
