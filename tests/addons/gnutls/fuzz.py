"""Mutated handshakes against addons/gnutls/connection.py, in a process of its own: a crash in GnuTLS must fail a test,
not the run.

`python -m tests.addons.gnutls.fuzz EXAMPLES` ends with 0 if nothing but pyOpenSSL's errors came out of it.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import sys
import threading

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from addons.gnutls.connection import Connection
from addons.gnutls.credentials import ClientCertificates, Credentials
from tests.addons.gnutls.peers import NAME, Authority, Client, SoftwareKey, client_context


def recorded(credentials: Credentials, authority: Authority, version: str) -> list[bytes]:
    """A client's flights of one complete handshake, and one record of data."""
    connection = Connection(credentials, [b"http/1.1"])
    context = client_context(authority, version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = Client(context, connection)
    flights: list[bytes] = []
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        flights.append(client.outgoing.read())
        connection.bio_write(flights[-1])
        with contextlib.suppress(SSL.WantReadError):
            connection.do_handshake()
        client.downstream()
    client.tls.write(b"GET / HTTP/1.1\r\n\r\n")
    return [*filter(None, flights), client.outgoing.read()]


def mutate(flights: list[bytes], random_: random.Random) -> list[bytes]:
    """Change, cut, repeat, swap or make up some of it."""
    changed = [bytearray(one) for one in flights]
    for _ in range(random_.randint(1, 4)):
        one = changed[0] if random_.random() < 0.7 else random_.choice(changed)
        at = random_.randrange(len(one) + 1)
        match random_.randrange(7):
            case 0 if one:
                one[at - 1] = random_.randrange(256)
            case 1:
                del one[at:]
            case 2:
                del one[at : at + random_.randint(1, 8)]
            case 3:
                one[at:at] = random_.randbytes(random_.randint(1, 8))
            case 4:
                one[at:at] = one[at : at + random_.randint(1, 64)]
            case 5:
                random_.shuffle(changed)
            case 6 if len(one) > 5:
                one[3:5] = random_.randbytes(2)  # the record's length
    return [bytes(one) for one in changed]


def main(examples: int) -> None:
    """Run."""
    authority = Authority()
    credentials = Credentials(
        [authority.certify(SoftwareKey("p256")), authority.certify(SoftwareKey("rsa"))],
        client_certificates=ClientCertificates((authority.der,), required=False),
        ticket_key=bytes(64),
    )
    sessions = {version: recorded(credentials, authority, version) for version in ("1.2", "1.3")}
    seen: set[str] = set()

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(sorted(sessions)),
        st.sampled_from([*[False] * 19, True]),
        st.integers(0, 1 << 64),
        st.integers(1, 700),
    )
    def run(version: str, established: bool, seed: int, step: int) -> None:
        connection = Connection(credentials, [b"http/1.1"])
        flights = sessions[version]
        if established:
            client = Client(client_context(authority, version), connection)
            client.handshake()
            flights = []
            for _ in range(3):
                client.tls.write(b"question")
                flights.append(client.outgoing.read())
        data = b"".join(mutate(flights, random.Random(seed)))
        for start in range(0, len(data), step):
            connection.bio_write(data[start : start + step])
            try:
                connection.do_handshake()
                connection.recv(65535)
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                seen.add(str(error))
            with contextlib.suppress(SSL.WantReadError):
                while connection.bio_read(65535):
                    pass
        connection.shutdown()

    run()
    assert threading.active_count() == 1, threading.enumerate()
    print(f"{NAME}: {len(seen)} kinds of error")
    for one in sorted(seen):
        print(one)


if __name__ == "__main__":
    main(int(sys.argv[1]))
