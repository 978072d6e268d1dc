"""Is the proxy's address free? Asked by the supervisor before workers share it.

Workers listen with SO_REUSEPORT, and so would a second hsmitm, silently taking half of the connections. So the
supervisor first binds without it, which fails while anybody listens, and then keeps the address with a socket of its
own that is bound and never listens: the kernel sends it nothing, and no other user can take the port from under us.
"""

from __future__ import annotations

import errno
import os
import socket

from hsm.errors import MisconfiguredError
from proxy.config.section import Address


def reserve(address: Address, owner: int | None = None) -> tuple[socket.socket, Address]:
    """The reservation, to be kept, and the address with its port (where 0 was asked for, the kernel's choice).

    `owner` is the user who will listen, if another than ours: the kernel shares a port among sockets of one user alone.
    Raises MisconfiguredError where the address cannot be had.
    """
    if address.port:
        _bind(address, reuse_port=False).close()
    held = _bind(address, reuse_port=True, owner=owner)
    if not address.host and socket.has_dualstack_ipv6():
        # Workers listen on both families.
        try:
            _bind(Address("::", held.getsockname()[1]), reuse_port=False).close()
        except MisconfiguredError:
            held.close()
            raise
    return held, Address(address.host, held.getsockname()[1])


def check(address: Address, field: str) -> None:
    """Raise MisconfiguredError, naming the `field`, where the address is not free."""
    try:
        _bind(address, reuse_port=False).close()
    except MisconfiguredError as error:
        raise MisconfiguredError(f"{field}: {error}") from None


def _bind(address: Address, *, reuse_port: bool, owner: int | None = None) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    if owner is not None:
        os.fchown(bound.fileno(), owner, -1)
    # Never both on the reservation: SO_REUSEADDR would let another program's check pass while nobody listens yet.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if reuse_port else socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        bound.bind((address.host, address.port))
    except TypeError as error:  # Python's word for a host that has no IDNA form
        bound.close()
        raise MisconfiguredError(f"cannot listen on {address}: not a host name") from error
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise MisconfiguredError(f"the address {address} is in use by another program; choose another") from error
        if error.errno == errno.EACCES:
            raise MisconfiguredError(f"not allowed to listen on {address}; ports below 1024 need a right") from error
        raise MisconfiguredError(f"cannot listen on {address}: {error.strerror or error}") from error
    return bound
