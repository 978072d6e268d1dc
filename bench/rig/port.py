"""A port for a program that is told where to listen: one that nobody else is given before it listens there.

Asking the kernel (port 0) and closing the socket is no answer: until the program listens, the kernel may give the same
port to the next that asks, or to a connection on its way out. So these ports lie below those that the kernel takes for
itself, and as long as a process runs it holds the UDP socket of each port that it was given: TCP stays free for the
program, and whoever else looks for a port, in any process, finds this one claimed.
"""

from __future__ import annotations

import random
import socket

from hsm.errors import MisconfiguredError

_HOST = "127.0.0.1"
_PORTS = range(20_000, 30_000)  # ip_local_port_range begins at 32768, unless an administrator changed it
_claims: list[int] = []  # descriptors: the sockets themselves would complain of being left open at the end


def free_port() -> int:
    """A port of the loopback address on which nobody listens, for this process and the programs that it starts.

    Raises MisconfiguredError where there is none.
    """
    begin = random.SystemRandom().randrange(len(_PORTS))  # tests seed the usual generator, all with the same number
    for place in range(begin, begin + len(_PORTS)):
        port = _PORTS[place % len(_PORTS)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as claim, socket.socket() as probe:
            try:
                claim.bind((_HOST, port))
                probe.bind((_HOST, port))
            except OSError:
                continue
            _claims.append(claim.detach())
            return port
    raise MisconfiguredError(f"no port of {_HOST} from {_PORTS.start} to {_PORTS.stop - 1} is free")
