"""What is written down: a burst of refusals, long ones, and while nobody reads the log."""

from __future__ import annotations

from bench.edge.scene import Scene, head_of, status
from bench.edge.target import NAME


def burst(scene: Scene) -> None:
    """Connections that are refused as fast as they can be made: garbage, failed handshakes, servers that are away."""
    turn = iter(range(1 << 30))

    def one() -> None:
        match next(turn) % 3:
            case 0:
                with scene.dial(scene.target.inbound) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    scene.saw("inbound: " + ("alert" if connection.recv(100) else "closed"))
            case 1:
                with scene.dial(scene.target.proxy) as connection:
                    connection.sendall(f"CONNECT {NAME}:1 HTTP/1.1\r\nHost: {NAME}:1\r\n\r\n".encode())
                    scene.saw(status(head_of(connection).encode()))
            case _:
                with scene.tunnel("w0.bench.test", scene.target.tls_port) as connection:
                    connection.sendall(b"\x16\x03\x01\x00\x05garbage" * 5)
                    scene.saw("forward: " + ("alert" if connection.recv(100) else "closed"))

    scene.again(one, threads=16, pause_s=0)


def long_lines(scene: Scene) -> None:
    """Names of 60 kB, which are refused: what is told of them must be short."""

    def one() -> None:
        host = "a" * 60_000
        with scene.dial(scene.target.proxy) as connection:
            connection.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
            scene.saw(status(head_of(connection).encode()))

    scene.again(one, threads=8, pause_s=0)
