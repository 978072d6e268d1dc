"""Which addresses a client may have us connect to: tables of addresses and verdicts."""

from __future__ import annotations

import ipaddress

import pytest

from addons.edge.connecting.destinations import (
    DENIED,
    OWN_LISTENERS,
    Destinations,
    Exemption,
    Listener,
    check_denied,
)

_OURS = ipaddress.ip_address("10.0.0.5")


def _denied_by(address: str, port: int = 443, **lists: list[str]) -> str | None:
    """The verdict of the default lists, or of those that are given, for a proxy on every address, port 8080."""
    destinations = Destinations(
        lists.get("denied", list(DENIED)),
        lists.get("allowed", []),
        [Listener(None, 8080), Listener(_OURS, 9797), Listener(ipaddress.ip_address("127.0.0.1"), 9798)],
        lambda one: one == _OURS,
    )
    return destinations.denied_by(ipaddress.ip_address(address), port)


@pytest.mark.parametrize(
    ("address", "entry"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("febf::1", "link-local"),
        ("fd00:ec2::254", "link-local"),
        ("fd20:ce::254", "link-local"),
        ("100.100.100.200", "link-local"),
        ("168.63.129.16", "link-local"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("255.255.255.255", "multicast"),
        ("ff02::1", "multicast"),
    ],
)
def test_what_nobody_outside_should_reach_is_denied(address: str, entry: str) -> None:
    """The machine itself, its link, and the clouds' metadata services are out of a client's reach by default."""
    assert _denied_by(address) == entry


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:127.0.0.1",  # IPv4-mapped
        "::127.0.0.1",  # IPv4-compatible
        "::ffff:0:127.0.0.1",  # IPv4-translated
        "64:ff9b::127.0.0.1",  # NAT64
        "64:ff9b:1::127.0.0.1",  # a local NAT64 prefix of 96 bits
        "64:ff9b:1:7f00:0:100::",  # ... of 48
        "2002:7f00:1::1",  # 6to4
        "2001:0:7f00:1:0:0:f5ff:fffe",  # Teredo: its server
        "2001:0:808:808:0:0:80ff:fffe",  # Teredo: the client
        "fd00::5efe:127.0.0.1",  # ISATAP
        "fd00::200:5efe:127.0.0.1",
        "64:ff9b::169.254.169.254",
        "::ffff:0.0.0.0",
    ],
)
def test_an_address_that_stands_for_another_is_judged_as_that_one_too(address: str) -> None:
    """IPv6 has many ways to write an IPv4 address, and a translator on the way takes each of them for it."""
    assert _denied_by(address) is not None


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "2606:2800:220:1::1", "fd00::1",
        "64:ff9b::93.184.216.34", "64:ff9b:1:5db8:d8:2200::", "2002:5db8:d822::1", "::ffff:10.0.0.1",
        "126.255.255.255", "128.0.0.1", "169.253.255.255", "fec0::1",
    ],
)  # fmt: skip
def test_the_rest_of_the_world_is_allowed(address: str) -> None:
    """Public and private addresses are reached, written in any way."""
    assert _denied_by(address) is None


@pytest.mark.parametrize(
    ("address", "port", "entry"),
    [
        ("10.0.0.5", 8080, OWN_LISTENERS),
        ("10.0.0.6", 8080, None),
        ("10.0.0.5", 8081, None),
        ("10.0.0.5", 9797, OWN_LISTENERS),
        ("10.0.0.6", 9797, None),
        ("::ffff:10.0.0.5", 8080, OWN_LISTENERS),
        ("64:ff9b::10.0.0.5", 9797, OWN_LISTENERS),
        ("127.0.0.7", 8080, OWN_LISTENERS),
        ("0.0.0.0", 8080, OWN_LISTENERS),
        ("::", 8080, OWN_LISTENERS),
        ("0.0.0.0", 9798, OWN_LISTENERS),
        ("0.0.0.0", 9797, None),
        ("127.0.0.1", 22, None),
    ],
)
def test_a_proxy_does_not_call_itself(address: str, port: int, entry: str | None) -> None:
    """Where hsmitm listens nobody is connected to, by any address of the machine if it listens on all of them."""
    assert _denied_by(address, port, denied=[OWN_LISTENERS]) == entry


def test_an_exception_holds_for_its_port_alone() -> None:
    """Who allows one port of a denied address has opened no other."""
    assert _denied_by("127.0.0.1", 8443, allowed=["127.0.0.1/32:8443"]) is None
    assert _denied_by("127.0.0.1", 8444, allowed=["127.0.0.1/32:8443"]) == "loopback"
    assert _denied_by("127.0.0.2", 8443, allowed=["127.0.0.1/32:8443"]) == "loopback"
    assert _denied_by("::ffff:127.0.0.1", 8443, allowed=["127.0.0.1/32:8443"]) is None


def test_an_exception_opens_a_listener_of_ours_only_where_it_names_the_port() -> None:
    """A whole network may be allowed without the proxy being allowed to call itself; that has to be meant."""
    assert _denied_by("127.0.0.1", 8080, allowed=["127.0.0.0/8"]) == OWN_LISTENERS
    assert _denied_by("127.0.0.1", 8081, allowed=["127.0.0.0/8"]) is None
    assert _denied_by("10.0.0.5", 8080, allowed=["10.0.0.5:8080"]) is None


def test_networks_may_be_added_and_the_list_may_be_empty() -> None:
    """The operator's own networks are denied like the classes, and an empty list denies nothing."""
    assert _denied_by("10.9.1.1", denied=["10.9.0.0/16"]) == "10.9.0.0/16"
    assert _denied_by("::ffff:10.9.1.1", denied=["10.9.0.0/16"]) == "10.9.0.0/16"
    assert _denied_by("127.0.0.1", denied=["10.9.0.0/16"]) is None
    assert all(_denied_by(one, 8080, denied=[]) is None for one in ("127.0.0.1", "0.0.0.0", "10.0.0.5", "fe80::1"))


@pytest.mark.parametrize(
    ("text", "network", "ports"),
    [
        ("127.0.0.1", "127.0.0.1/32", []),
        ("127.0.0.1:8443", "127.0.0.1/32", [8443]),
        ("10.0.0.0/8:80,8000-8002", "10.0.0.0/8", [80, 8000, 8001, 8002]),
        ("fd00::/8", "fd00::/8", []),
        ("[fd00::/8]:443", "fd00::/8", [443]),
        ("[fd00::]/8:443", "fd00::/8", [443]),
        ("[::1]", "::1/128", []),
    ],
)
def test_an_exception_is_read(text: str, network: str, ports: list[int]) -> None:
    """Address or network, with or without ports, IPv6 in brackets where a port follows."""
    found = Exemption.parse(text)
    assert str(found.network) == network
    assert [port for one in found.ports for port in one] == ports


@pytest.mark.parametrize(
    "text",
    [
        "", "loopback", "127.0.0.1/8", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:90-80", "a:80",
        "[::1", "[::1]443", "[::1]:", "127.0.0.1:http", "127.1", "10.0.0.0/8:80-", "127.0.0.1:٣",
    ],
)  # fmt: skip
def test_what_is_no_exception_is_refused(text: str) -> None:
    """A slip of the pen in an exception keeps hsmitm from starting instead of opening something else."""
    with pytest.raises(ValueError, match=r"."):
        Exemption.parse(text)


@pytest.mark.parametrize("text", ["loop-back", "localhost", "10.0.0.1/8", "10.0.0.0/8:80", ""])
def test_what_is_neither_class_nor_network_is_refused(text: str) -> None:
    """A class that does not exist would deny nothing, unnoticed."""
    with pytest.raises(ValueError, match="neither an address or network"):
        check_denied(text)
