"""Which addresses are this machine's, as the kernel says."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import pytest

from addons.edge.connecting import this_machine
from addons.edge.connecting.destinations import Listener

_LOOK = """
import ipaddress, subprocess, sys, time
from addons.edge.connecting.this_machine import is_local

def ip(*words):
    subprocess.run(["ip", *words], check=True)

ip("link", "set", "lo", "up")
ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
ip("link", "set", "v0", "up")
for address in ("192.0.2.5/24", "192.0.2.6/24"):
    ip("addr", "add", address, "dev", "v0")
ip("addr", "add", "2001:db8::5/128", "dev", "lo", "nodad")  # on v0 it would be there a moment later
ip("route", "add", "local", "198.51.100.0/24", "dev", "lo")
until = time.monotonic() + 10
while not is_local(ipaddress.ip_address("2001:db8::5")) and time.monotonic() < until:
    time.sleep(0.01)  # the kernel adds its route in the background
print(*(is_local(ipaddress.ip_address(one)) for one in sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_every_address_of_the_machine_is_known() -> None:
    """First, second and IPv6 addresses of an interface, and whole networks that are local, are this machine's; a
    neighbour's, and what no route leads to, are not."""
    asked = ["192.0.2.5", "192.0.2.6", "2001:db8::5", "198.51.100.77", "127.0.0.9", "::1", "192.0.2.7", "203.0.113.1"]
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _LOOK, *asked],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert done.stdout.split() == ["True"] * 6 + ["False"] * 2


def test_without_netlink_a_socket_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service's sandbox has no netlink, this machine's address is still told from another's."""

    def forbidden(_: object) -> int:
        raise OSError("Address family not supported by protocol")

    monkeypatch.setattr(this_machine, "_route_type", forbidden)
    assert this_machine.is_local(ipaddress.ip_address("127.0.0.1"))
    assert this_machine.is_local(ipaddress.ip_address("::1"))
    assert not this_machine.is_local(ipaddress.ip_address("127.0.0.1") + 2**30)


def test_listeners_are_found_by_address() -> None:
    """What is configured as a name, as every address, or as one address is what a client's destination is compared
    with."""
    found = this_machine.listeners([("", 8080), ("0.0.0.0", 8081), ("127.0.0.1", 8082), ("::", 8083), ("127.0.0.1", 0)])
    here = ipaddress.ip_address("127.0.0.1")
    assert list(found) == [Listener(None, 8080), Listener(None, 8081), Listener(here, 8082), Listener(None, 8083)]
    assert Listener(here, 8084) in list(this_machine.listeners([("localhost", 8084)]))
