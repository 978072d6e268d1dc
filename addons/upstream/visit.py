"""A server's certificate as it is seen now: a handshake, and nothing else. For people, who wait for it.

Every version and suite is taken, and nothing of the certificate ends the handshake: who looks wants to know all.
"""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress

from cryptography import x509
from mitmproxy.net.tls import Version
from msgspec import Struct
from OpenSSL import SSL

from addons.policy.settings import Profile
from addons.records.facts import Verification
from addons.tls.pieces import reason
from addons.tls.suites import towards_servers
from addons.upstream.connection import Demand, ServerConnection
from addons.upstream.faults import clause, is_incomplete, own_complaints
from addons.upstream.repeated import Roots
from addons.upstream.stated import ask_for
from hsm.errors import TryLaterError

_BUILT_IN = Profile()


class Visit(Struct, frozen=True):
    """What was seen. `chain` is what OpenSSL built of what the server has sent, its own certificate first; `complaints`
    what is wrong with it, `wrong` the same in words."""

    address: str
    version: str
    cipher: str
    chain: tuple[x509.Certificate, ...]
    complaints: tuple[Verification, ...]
    wrong: tuple[str, ...]
    certificate_wanted: bool


def visit(host: str, port: int, roots: Roots, *, profile: Profile = _BUILT_IN, within_s: float = 10.0) -> Visit:
    """Shake hands with `host` (A-labels, or an address). Raises TryLaterError with a sentence where that fails."""
    until = time.monotonic() + within_s
    try:
        with socket.create_connection((host, port), within_s) as connected:
            made = _begun(host, roots, profile)
            _shake(made, connected, until)
            return _seen(made, connected.getpeername()[0], profile)
    except SSL.Error as error:
        raise TryLaterError(f"no TLS with {host}:{port}: {reason(error)}") from error
    except OSError as error:
        raise TryLaterError(f"no connection to {host}:{port}: {error.strerror or error}") from error


def _begun(host: str, roots: Roots, profile: Profile) -> ServerConnection:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_cipher_list(":".join(towards_servers("compatible", Version.TLS1)).encode())
    context.load_verify_locations(roots.place, roots.directory)
    made = ServerConnection(context)
    ask_for(made, host)
    made.set_connect_state()
    made.note_certificate_request()
    made.watch(Demand(host, profile, (), "block", roots))
    return made


def _shake(made: ServerConnection, connected: socket.socket, until: float) -> None:
    while True:
        try:
            made.do_handshake()
        except SSL.WantReadError:
            over = False
        else:
            over = True
        with suppress(SSL.WantReadError):
            connected.sendall(made.bio_read(65536))
        if over:
            return
        if not select.select([connected], [], [], max(0.0, until - time.monotonic()))[0]:
            raise OSError("it did not end its TLS handshake in time")
        data = connected.recv(65536)
        if not data:
            raise OSError("it ended the connection in the middle of the TLS handshake")
        made.bio_write(data)


def _seen(made: ServerConnection, address: str, profile: Profile) -> Visit:
    chain = tuple(made.built)
    incomplete = is_incomplete(chain)
    said = {one.code: one for one in (*own_complaints(chain, profile.min_rsa), *made.complaints)}
    return Visit(
        address=address,
        version=made.get_protocol_version_name(),
        cipher=made.get_cipher_name() or "",
        chain=chain,
        complaints=tuple(said.values()),
        wrong=tuple(dict.fromkeys(clause(one, chain, incomplete=incomplete) for one in said.values())),
        certificate_wanted=made.certificate_wanted,
    )
