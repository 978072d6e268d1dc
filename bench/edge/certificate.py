"""Servers that fail before they have proved who they are: no leaf of the CA that clients trust is for them."""

from __future__ import annotations

import socket
import ssl
import tempfile
from functools import partial
from pathlib import Path

from bench.edge.scene import Scene
from bench.edge.server import Serve, Server, over_tls
from bench.edge.target import NAME


def _closes(_connection: socket.socket) -> None:
    """It says nothing and closes."""


def _closes_later(connection: socket.socket) -> None:
    connection.recv(4096)


def _garbage(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)


def _alert(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")


def _half(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")


def unproven(scene: Scene) -> None:
    """A client that verifies asks for servers that close, talk nonsense, or show a chain of 200 kB."""
    with tempfile.TemporaryDirectory() as directory:
        chain = Path(directory) / "chain.pem"
        own = Path(scene.target.certificate).read_text()
        chain.write_text(own + Path(scene.target.origin_ca).read_text() * 500)
        servers: dict[str, Serve] = {
            "closes": _closes,
            "closes after the ClientHello": _closes_later,
            "garbage": _garbage,
            "alert": _alert,
            "half a ServerHello": _half,
            "chain of 200 kB": over_tls(scene.target, _closes_later, chain=str(chain)),
        }
        scene.each((name, partial(_tried, scene, name, serve)) for name, serve in servers.items())


def _tried(scene: Scene, variant: str, serve: Serve) -> str:
    trusting = ssl.create_default_context(cafile=scene.target.ca)
    with Server(serve) as server, scene.tunnel(NAME, server.port) as raw:
        try:
            with trusting.wrap_socket(raw, server_hostname=NAME):
                scene.passed(variant)
                return "a leaf of the trusted CA"
        except ssl.SSLCertVerificationError:
            return "a leaf that no client trusts"
