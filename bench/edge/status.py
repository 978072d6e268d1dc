"""The status page: large bodies, many connections, many questions, and pages of other sites that ask in a browser."""

from __future__ import annotations

import itertools
import socket

from bench.edge.scene import Scene, answer, status


def bodies(scene: Scene) -> None:
    """99 MB as the body of a POST to /metrics, again and again."""
    head = b"POST /metrics HTTP/1.1\r\nHost: %s\r\nContent-Length: 99000000\r\n\r\n" % scene.target.status.encode()

    def one() -> None:
        with scene.dial(scene.target.status) as connection:
            connection.sendall(head)
            try:
                scene.flood(connection, itertools.repeat(bytes(100_000), 990))
            finally:
                scene.saw(status(answer(connection)))

    scene.again(one, threads=4)


def connections(scene: Scene) -> None:
    """1,500 connections on which nothing is said."""
    kept: list[socket.socket] = []

    def one() -> None:
        if len(kept) < 1500:
            kept.append(scene.dial(scene.target.status))

    scene.again(one, threads=8, pause_s=0)
    scene.saw(f"{len(kept)} taken")


def pipelined(scene: Scene) -> None:
    """/metrics, asked without waiting for answers."""
    requests = b"GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n" % scene.target.status.encode() * 100

    def one() -> None:
        with scene.dial(scene.target.status) as connection:
            connection.settimeout(0.5)
            try:
                scene.flood(connection, itertools.repeat(requests))
            finally:
                scene.saw(status(connection.recv(100)))

    scene.again(one, threads=4)


def foreign_host(scene: Scene) -> None:
    """A Host that is not the page's own: what a browser sends that was led here by another site (DNS rebinding)."""
    for host in (b"evil.example", b"evil.example:80", b"127.0.0.1.evil.example", b""):
        with scene.dial(scene.target.status) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
            told = status(answer(connection))
            scene.saw(f"Host '{host.decode()}': {told}")
            if told == "status 200":
                scene.passed(f"Host '{host.decode()}'")
