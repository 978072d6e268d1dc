"""What goes out of a TLS connection, and in how many pieces."""

from __future__ import annotations

import contextlib

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from addons.tls.pieces import PiecewiseConnection
from proxy.demo.origin import OriginCA


def _carry(one: SSL.Connection, other: SSL.Connection) -> int:
    pieces = 0
    try:
        while data := one.bio_read(65535):
            other.bio_write(data)
            pieces += 1
    except SSL.WantReadError:
        pass
    return pieces


def test_a_read_and_its_encryption_are_one_piece() -> None:
    """As many bytes as one read brings go out in one write, and arrive as they were."""
    context = SSL.Context(SSL.TLS_METHOD)
    key = ec.generate_private_key(ec.SECP256R1())
    context.use_privatekey(key)
    context.use_certificate(OriginCA().certify(key.public_key(), ["a.test"]))
    server, client = PiecewiseConnection(context), PiecewiseConnection(SSL.Context(SSL.TLS_METHOD))
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(4):
        for end in (client, server):
            with contextlib.suppress(SSL.WantReadError):
                end.do_handshake()
        _carry(client, server)
        _carry(server, client)
    client.sendall(bytes(65535))
    assert _carry(client, server) == 1
    came = b""
    while len(came) < 65535:
        came += server.recv(65535)
    assert came == bytes(65535)
