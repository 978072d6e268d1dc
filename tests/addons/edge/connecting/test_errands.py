"""addons/edge/connecting/errands.py: where a certificate's word leads to, and where it does not."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from addons.edge.connecting.destinations import DENIED, Destinations, Listener
from addons.edge.connecting.errands import DeniedError, Errands, Parent
from addons.edge.connecting.resolver import Found, Resolver


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody listens on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def errands(denied: tuple[str, ...], *allowed: str, found: tuple[Found, ...] = (), own: int = 0) -> Errands:
    """Errands of a worker with these lists, whose resolver gives `found` for each name."""
    listeners = [Listener(None, own)] if own else []
    return Errands(
        Resolver(per_client=4, lookup_s=5, lookup=lambda _name: found), Destinations(denied, allowed, listeners)
    )


async def test_an_address_that_is_allowed(port: int) -> None:
    """What is not denied is connected to, by name and by address."""
    for host in ("127.0.0.1", "ca.test"):
        made = await errands((), found=((socket.AF_INET, ("127.0.0.1", 0)),)).connect(host, port)
        assert made.getpeername() == ("127.0.0.1", port)
        made.close()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "ca.test", "0.0.0.0", "::ffff:127.0.0.1", "169.254.169.254", "224.0.0.1"]
)
async def test_an_address_that_is_denied(port: int, host: str) -> None:
    """What clients may not reach certificates may not name, whatever it is called."""
    with pytest.raises(DeniedError, match=r"is denied by '(loopback|unspecified|link-local|multicast)'"):
        await errands(DENIED, found=((socket.AF_INET, ("127.0.0.1", 0)),)).connect(host, port)


async def test_our_own_listener_is_denied(port: int) -> None:
    """A certificate does not have the proxy call itself, not even where loopback is allowed."""
    with pytest.raises(DeniedError, match="own-listeners"):
        await errands(DENIED, "127.0.0.1", own=port).connect("127.0.0.1", port)


async def test_a_name_with_good_and_bad_addresses(port: int) -> None:
    """Of several addresses those are tried that are allowed."""
    both: tuple[Found, ...] = ((socket.AF_INET, ("169.254.169.254", 0)), (socket.AF_INET, ("127.0.0.1", 0)))
    made = await errands(("link-local",), found=both).connect("ca.test", port)
    assert made.getpeername()[0] == "127.0.0.1"
    made.close()


async def test_who_is_outside_names_nobody_inside(port: int) -> None:
    """A server of the Internet that nobody has verified names no machine of ours, one of ours does; an exception of
    the operator's holds for both."""
    for near in ("10.1.2.3", "fd00::1", "127.0.0.1", "::ffff:10.1.2.3", ""):
        (await errands(()).connect("127.0.0.1", port, near)).close()
    for near in ("8.8.8.8", "2606:4700::1"):
        with pytest.raises(DeniedError, match=f"it is inside, and the server that names it, {near}, is not"):
            await errands(()).connect("127.0.0.1", port, near)
        (await errands((), "127.0.0.0/8").connect("127.0.0.1", port, near)).close()
        (await errands((), f"127.0.0.1:{port}").connect("127.0.0.1", port, near)).close()
        with pytest.raises(DeniedError):
            await errands((), f"127.0.0.1:{port + 1}").connect("127.0.0.1", port, near)


async def test_strangers_do_not_take_the_look_ups_of_others(port: int) -> None:
    """A server whose certificates name many places that no name server answers for takes its own look-ups: what CAs
    have said, and what other servers say, is looked up as ever."""
    go = threading.Event()

    def lookup(name: str) -> tuple[Found, ...]:
        assert not name.startswith("slow") or go.wait(10)
        return ((socket.AF_INET, ("127.0.0.1", 0)),)

    made = Errands(Resolver(per_client=4, lookup_s=5, lookup=lookup), Destinations(()))
    slow = [asyncio.create_task(made.connect(f"slow-{number}.test", port, "10.0.0.1")) for number in range(30)]
    await asyncio.sleep(0)
    for near in ("", "10.0.0.2"):
        (await asyncio.wait_for(made.connect(f"ca-{near}.test", port, near), 5)).close()
    go.set()
    for one in await asyncio.gather(*slow, return_exceptions=True):
        if isinstance(one, socket.socket):
            one.close()


async def test_nobody_there() -> None:
    """A connection that is refused says which address, and why."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match=f"127.0.0.1:{port}: Connection refused"):
        await errands(()).connect("127.0.0.1", port)


# behind another proxy


def through(port: int, *, tls: bool = False) -> Errands:
    """Errands that all go to the proxy at `port` of 127.0.0.1, which is denied to others."""
    parent = Parent("127.0.0.1", port, tls=tls)
    return Errands(Resolver(per_client=4, lookup_s=5), Destinations(DENIED), parent)


async def test_behind_a_proxy_that_is_connected_to(port: int) -> None:
    """Where all goes through another proxy, that one is connected to; names are its to look up."""
    made = await through(port).connect("ca.example", 80)
    assert made.getpeername() == ("127.0.0.1", port)
    made.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "::1", "169.254.169.254"])
async def test_behind_a_proxy_denied_addresses_are_denied(port: int, host: str) -> None:
    """What is spelled as a denied address is not asked for there either."""
    with pytest.raises(DeniedError, match="of deny_destinations"):
        await through(port).connect(host, 80)


async def test_a_proxy_behind_tls_is_not_asked(port: int) -> None:
    """Through a proxy that is spoken to over TLS nobody is asked, and that is said."""
    with pytest.raises(DeniedError, match=r"ca\.example is behind a proxy that is spoken to over TLS"):
        await through(port, tls=True).connect("ca.example", 80)
