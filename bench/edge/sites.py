"""Our own sites: another site than the one that the handshake chose, and headers that a server could take for ours."""

from __future__ import annotations

import socket
from functools import partial

from hpack import Decoder

from bench.edge import frames
from bench.edge.frames import ACK, END_HEADERS, END_STREAM, Peer, frame
from bench.edge.scene import Scene, answer, status
from bench.edge.server import Server, over_tls
from bench.edge.target import CLIENT_A, CLIENT_B
from bench.rig.nghttpd import SMALL

_A, _B = CLIENT_A.encode(), CLIENT_B.encode()
_FORGED = b":Zm9yZ2Vk:"

OTHERS: dict[str, bytes] = {
    "Host": b"GET / HTTP/1.1\r\nHost: " + _A + b"\r\n\r\n",
    "Host with a port": b"GET / HTTP/1.1\r\nHost: " + _A + b":443\r\n\r\n",
    "Host in capitals": b"GET / HTTP/1.1\r\nHost: " + _A.upper() + b"\r\n\r\n",
    "Host with a dot": b"GET / HTTP/1.1\r\nHost: " + _A + b".\r\n\r\n",
    "absolute form": b"GET https://" + _A + b"/ HTTP/1.1\r\nHost: " + _B + b"\r\n\r\n",
    "absolute form, its Host": b"GET http://" + _A + b"/ HTTP/1.1\r\nHost: " + _A + b"\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: " + _B + b"\r\nHost: " + _A + b"\r\n\r\n",
    "two Hosts, other order": b"GET / HTTP/1.1\r\nHost: " + _A + b"\r\nHost: " + _B + b"\r\n\r\n",
    "Host of nobody": b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n",
    "second request": b"GET / HTTP/1.1\r\nHost: " + _B + b"\r\n\r\nGET / HTTP/1.1\r\nHost: " + _A + b"\r\n\r\n",
}
"""Requests for the first site, which demands a certificate, on a connection to the second one."""


def _asked(scene: Scene, request: bytes, *, name: str = CLIENT_B, with_certificate: bool = False) -> bytes:
    with scene.tls(scene.dial(scene.target.inbound), name, with_certificate=with_certificate) as connection:
        connection.sendall(request)
        return answer(connection)


def other_site(scene: Scene) -> None:
    """Ask the first site through the second: 421 (RFC 9110 section 15.5.20) or 400 it must be."""

    def tried(variant: str) -> str:
        came = _asked(scene, OTHERS[variant])
        answers = came.count(b"HTTP/1.1 200")
        if answers > (variant == "second request"):
            scene.passed(variant)
        return f"{status(came)}{' twice' if answers > 1 else ''}"

    scene.each([*((name, partial(tried, name)) for name in OTHERS), ("HTTP/2", partial(_http2, scene))])


def _http2(scene: Scene) -> str:
    """:authority of the first site, and that of the second with a Host of the first."""
    path = f"/{SMALL}".encode()
    blocks = {
        "HTTP/2 :authority": frames.request(CLIENT_A, path=path),
        "HTTP/2 host": frames.request(CLIENT_B, path=path, extra=frames.field(b"host", _A)),
    }
    told = []
    for variant, block in blocks.items():
        with scene.tls(scene.dial(scene.target.inbound_h2), CLIENT_B, alpn="h2") as connection:
            peer = Peer(connection)
            peer.send(frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, block))
            peer.until(1, heads=1 << 30)
            fields = [pair for one in _decoded(peer) for pair in one]
            told += [value for name, value in fields if name == ":status"] or [peer.outcome()]
            if (":status", "200") in fields:
                scene.passed(variant)
    return ", ".join(told)


def _decoded(peer: Peer) -> list[list[tuple[str, str]]]:
    decoder = Decoder()
    return [[(str(name), str(value)) for name, value in decoder.decode(block)] for _, block in peer.blocks]


FORGED: dict[str, tuple[bytes, bytes]] = {
    "Client-Cert": (b"Client-Cert: :Zm9yZ2Vk:\r\n", b""),
    "Client_Cert": (b"Client_Cert: :Zm9yZ2Vk:\r\n", b""),
    "client_cert-chain": (b"client_cert-chain: :Zm9yZ2Vk:\r\n", b""),
    "CLIENT-CERT_CHAIN": (b"CLIENT-CERT_CHAIN: :Zm9yZ2Vk:\r\n", b""),
    "CR in a value": (b"X-A: a\rClient-Cert: :Zm9yZ2Vk:\r\n", b""),
    "CR and space": (b"X-A: a\r Client-Cert: :Zm9yZ2Vk:\r\n", b""),
    "obs-fold": (b"X-A: a\r\n Client-Cert: :Zm9yZ2Vk:\r\n", b""),
    "trailer": (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\nClient-Cert: :Zm9yZ2Vk:\r\n\r\n"),
    "trailer with _": (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\nClient_Cert: :Zm9yZ2Vk:\r\n\r\n"),
}
"""What a client without a certificate adds to its request, and the body: the server must not see "Zm9yZ2Vk"."""


def forged(scene: Scene) -> None:
    """A certificate that the client has not, in a header that the server reads (RFC 9440)."""

    def tried(variant: str) -> str:
        fields, body = FORGED[variant]
        method = b"POST" if body else b"GET"
        came = _asked(scene, method + b" / HTTP/1.1\r\nHost: " + _B + b"\r\n" + fields + b"\r\n" + body)
        if b"Zm9yZ2Vk" in came:
            scene.passed(variant)
        return status(came)

    named = [(name, partial(tried, name)) for name in FORGED]
    scene.each([*named, ("Connection", partial(_dropped, scene)), ("HTTP/2", partial(_forged_http2, scene))])


def _dropped(scene: Scene) -> str:
    """A connection option that names our header: whoever stands behind us would take it away."""
    told = []
    for options in (b"Client-Cert", b"close, client-cert"):
        request = b"GET / HTTP/1.1\r\nHost: " + _A + b"\r\nConnection: " + options + b"\r\n\r\n"
        came = _asked(scene, request, name=CLIENT_A, with_certificate=True)
        told.append(status(came))
        lines = came.lower().split(b"\r\n")
        named = any(line.startswith(b"connection:") and b"client-cert" in line for line in lines)
        if told[-1] == "status 200" and (named or not any(line.startswith(b"client-cert:") for line in lines)):
            scene.passed(f"Connection: {options.decode()}")
    return ", ".join(told)


def _forged_http2(scene: Scene) -> str:
    """To a site whose server is ours, and speaks HTTP/2."""
    received: list[str] = []

    def serve(connection: socket.socket) -> None:
        peer = Peer(connection, client=False)
        peer.send(frame(frames.SETTINGS, ACK))
        peer.until(2, heads=1 << 30)
        received.extend(f"{name}: {value}" for fields in _decoded(peer) for name, value in fields)

    values = [(b"client-cert", _FORGED), (b"client_cert", _FORGED), (b"x-a", b"a\rClient-Cert: " + _FORGED)]
    with Server(over_tls(scene.target, serve, alpn="h2"), scene.target.own_port):
        for name, value in values:
            with scene.tls(scene.dial(scene.target.inbound_h2), CLIENT_A, alpn="h2") as connection:
                peer = Peer(connection)
                block = frames.request(CLIENT_A, extra=frames.field(name, value))
                peer.send(frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, block))
                peer.until(1, heads=1 << 30)
        if any("Zm9yZ2Vk" in line for line in received):
            scene.passed("HTTP/2 header")
        return f"{len(received)} fields reached the server"
