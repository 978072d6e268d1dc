"""Is the proxy's address free? Asked on this machine's own addresses, against listeners of every kind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hsm.errors import MisconfiguredError
from proxy import listening
from proxy.config.section import Address

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_FAMILIES = pytest.mark.parametrize("family", list(_LOOPBACK), ids=["IPv4", "IPv6"])


@contextmanager
def _listener(family: socket.AddressFamily, *, reuse_port: bool, host: str | None = None) -> Iterator[Address]:
    """Another program that listens."""
    with socket.socket(family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((_LOOPBACK[family] if host is None else host, 0))
        other.listen()
        yield Address(_LOOPBACK[family], other.getsockname()[1])


def _worker_socket(address: Address) -> socket.socket:
    """A listening socket as a worker's event loop makes it."""
    made = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((address.host, address.port))
    made.listen()
    return made


@_FAMILIES
def test_a_free_port_is_found(family: socket.AddressFamily) -> None:
    """With port 0 the kernel chooses one, and it is ours from then on."""
    held, address = listening.reserve(Address(_LOOPBACK[family], 0))
    with held:
        assert address.port > 0
        assert address.host == _LOOPBACK[family]
        assert held.getsockname()[1] == address.port


@_FAMILIES
def test_workers_share_what_was_reserved(family: socket.AddressFamily) -> None:
    """Workers listen on the reserved port beside the reservation, which itself gets no connection."""
    held, address = listening.reserve(Address(_LOOPBACK[family], 0))
    with held, _worker_socket(address) as first, _worker_socket(address) as second:
        clients = [socket.create_connection((address.host, address.port), timeout=5) for _ in range(16)]
        accepted = 0
        for worker in (first, second):
            worker.setblocking(False)
            while True:
                try:
                    worker.accept()[0].close()
                except BlockingIOError:
                    break
                accepted += 1
        for client in clients:
            client.close()
    assert accepted == 16


@_FAMILIES
@pytest.mark.parametrize("reuse_port", [False, True], ids=["plain", "SO_REUSEPORT"])
def test_a_port_that_is_in_use_is_refused(family: socket.AddressFamily, reuse_port: bool) -> None:
    """Another program on the address is noticed, also one that would share it: it would take half of the traffic."""
    with _listener(family, reuse_port=reuse_port) as address:
        with pytest.raises(MisconfiguredError) as caught:
            listening.reserve(address)[0].close()
        assert str(caught.value) == f"the address {address} is in use by another program; choose another"
    held, again = listening.reserve(address)
    with held:
        assert again == address


@pytest.mark.parametrize("reuse_port", [False, True], ids=["plain", "SO_REUSEPORT"])
def test_a_listener_on_every_address_is_noticed(reuse_port: bool) -> None:
    """A program that listens on the port at every address of the machine has ours too."""
    with _listener(socket.AF_INET, reuse_port=reuse_port, host="") as address, pytest.raises(MisconfiguredError):
        listening.reserve(address)[0].close()


def test_a_second_proxy_is_refused() -> None:
    """A reservation of another hsmitm counts before any of its workers listens."""
    held, address = listening.reserve(Address("127.0.0.1", 0))
    with held, pytest.raises(MisconfiguredError, match="in use"):
        listening.reserve(address)[0].close()


@pytest.mark.parametrize("family", list(_LOOPBACK), ids=["IPv4", "IPv6"])
def test_every_address_of_the_machine_means_both_families(family: socket.AddressFamily) -> None:
    """With an empty host workers listen on IPv4 and IPv6: a program on either is noticed before they start."""
    with _listener(family, reuse_port=True) as address, pytest.raises(MisconfiguredError, match="in use"):
        listening.reserve(Address("", address.port))[0].close()


def test_a_check_names_the_field_and_keeps_nothing() -> None:
    """`hsmitm check` says which setting to change, and leaves a free address free."""
    with (
        _listener(socket.AF_INET, reuse_port=True) as address,
        pytest.raises(MisconfiguredError, match=r"^status\.listen: the address 127\.0\.0\.1:\d+ is in use"),
    ):
        listening.check(address, "status.listen")
    listening.check(address, "status.listen")
    held, _ = listening.reserve(address)
    held.close()


def test_connections_that_ended_lately_do_not_occupy_the_port() -> None:
    """After a stop the proxy starts again at once, though the kernel still remembers its last connections."""
    held, address = listening.reserve(Address("127.0.0.1", 0))
    with (
        held,
        _worker_socket(address) as worker,
        socket.create_connection((address.host, address.port), timeout=5) as client,
    ):
        accepted, _ = worker.accept()
        accepted.close()  # the side that closes first keeps the port in TIME_WAIT
        assert client.recv(1) == b""
    again, same = listening.reserve(address)
    with again:
        assert same == address


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (Address("192.0.2.1", 8080), "cannot listen on 192.0.2.1:8080: Cannot assign requested address"),
        (Address("2001:db8::1", 8080), "cannot listen on [2001:db8::1]:8080: Cannot assign requested address"),
        (Address("ü" * 64, 8080), f"cannot listen on {'ü' * 64}:8080: "),
    ],
    ids=["IPv4", "IPv6", "no host"],
)
def test_an_address_that_is_not_ours_is_a_sentence(address: Address, reason: str) -> None:
    """An address of another machine, or what is no host at all, stops the start with the address and the reason."""
    with pytest.raises(MisconfiguredError) as caught:
        listening.reserve(address)[0].close()
    assert str(caught.value).startswith(reason)
