"""Which addresses a client may have us connect to. Pure: an address in, a verdict out; no names, no sockets, no clock.

It is asked for the resolved address, at the moment of connecting, so that a name's spelling (`127.1`, `2130706433`) or
a name server's change of mind helps nobody. The order for one address and port:

1. an exception of `allow_destinations` that names the port: allowed, our own listeners included
2. a listener of ours, where `own-listeners` is denied: denied, for a proxy that calls itself ends with its descriptors
3. an exception without a port: allowed
4. a class or network of `deny_destinations`: denied
5. allowed

An IPv6 address that stands for an IPv4 address (mapped, NAT64, 6to4, ...) is judged as both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from msgspec import Struct

from addons.addresses import Address, Network, faces

OWN_LISTENERS = "own-listeners"
CLASSES: dict[str, tuple[Network, ...]] = {
    name: tuple(map(ipaddress.ip_network, networks))
    for name, networks in {
        "loopback": ("127.0.0.0/8", "::1/128"),
        # With the addresses outside of it where clouds keep the same service, their instance metadata: AWS, Google,
        # Alibaba, Oracle, Azure, as they document them.
        "link-local": (
            "169.254.0.0/16", "fe80::/10",
            "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32",
        ),
        "multicast": ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8"),
        "unspecified": ("0.0.0.0/8", "::/128"),
    }.items()
}  # fmt: skip
"""What `deny_destinations` has names for (RFC 6890; RFC 4291 section 2.5; RFC 1122 section 3.2.1.3)."""
DENIED = ("loopback", "link-local", "multicast", "unspecified", OWN_LISTENERS)
"""The default of `deny_destinations`."""


class Exemption(Struct, frozen=True):
    """An entry of `allow_destinations`. Without `ports` every port is meant."""

    network: Network
    ports: tuple[range, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Exemption:
        """From "10.0.0.1", "10.0.0.0/8:443", "[fd00::/8]:80,8000-8099". Raises ValueError."""
        network, ports = text, ""
        if text.startswith("["):
            inside, closed, rest = text[1:].partition("]")
            before, _, ports = rest.partition(":")
            network = inside + before
            if not closed or (before and not before.startswith("/")) or rest.endswith(":"):
                raise ValueError(f"'{text}' is no destination; write [fd00::/8]:443 for an IPv6 network and a port")
        elif text.count(":") == 1:
            network, _, ports = text.partition(":")
            if not ports:
                raise ValueError(f"'{text}' ends without a port; leave out the colon for every port")
        return cls(_network(network), tuple(map(_ports, ports.split(","))) if ports else ())

    def names(self, port: int) -> bool:
        """Whether this exception has the port in so many words."""
        return any(port in one for one in self.ports)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is no address or network: {error}") from None


def _ports(text: str) -> range:
    first, dash, last = text.partition("-")
    if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
        raise ValueError(f"'{text}' is no port; write 443 or 8000-8099")
    found = range(int(first), int(last or first) + 1)
    if not found or found[0] < 1 or found[-1] > 65535:
        raise ValueError(f"'{text}': ports are 1 to 65535, the smaller one first")
    return found


def check_denied(text: str) -> str:
    """An entry of `deny_destinations`: a class or a network. Raises ValueError."""
    if text == OWN_LISTENERS or text in CLASSES:
        return text
    try:
        _network(text)
    except ValueError:
        raise ValueError(
            f"'{text}' is neither an address or network (10.0.0.0/8) nor one of {', '.join((*CLASSES, OWN_LISTENERS))}"
        ) from None
    return text


class Listener(Struct, frozen=True):
    """Where this hsmitm listens; an `address` of None means every address of the machine."""

    address: Address | None
    port: int


class Destinations:
    """The operator's lists, as one question."""

    def __init__(
        self,
        denied: Sequence[str],
        allowed: Sequence[str] = (),
        listeners: Sequence[Listener] = (),
        is_local: Callable[[Address], bool] = lambda _: True,
    ) -> None:
        """`denied` and `allowed` are entries of the configuration; `is_local` says whether an address is this
        machine's. Raises ValueError for an entry that is none."""
        self._exemptions = tuple(map(Exemption.parse, allowed))
        self._networks = tuple(
            (name, network)
            for name in denied
            if name != OWN_LISTENERS
            for network in CLASSES.get(name) or (_network(name),)
        )
        self._listeners = tuple(listeners) if OWN_LISTENERS in denied else ()
        self._is_local = is_local

    def denied_by(self, address: Address, port: int) -> str | None:
        """The entry of `deny_destinations` that forbids connecting there; None where nothing does."""
        for face in faces(address):
            if found := self._face_denied_by(face, port):
                return found
        return None

    def exempts(self, address: Address, port: int) -> bool:
        """Whether an entry of `allow_destinations` has this address, with this port or with none."""
        return all(
            any(face in one.network and (not one.ports or one.names(port)) for one in self._exemptions)
            for face in faces(address)
        )

    def _face_denied_by(self, face: Address, port: int) -> str | None:
        exempt = [one for one in self._exemptions if face in one.network and (not one.ports or one.names(port))]
        if any(one.ports for one in exempt):
            return None
        if any(one.port == port and self._meets(one, face) for one in self._listeners):
            return OWN_LISTENERS
        if exempt:
            return None
        return next((name for name, network in self._networks if face in network), None)

    def _meets(self, listener: Listener, face: Address) -> bool:
        """Whether a connection to `face` would end at the listener. Linux takes an unspecified address for loopback."""
        at = listener.address
        if at is None:
            return face.is_unspecified or face.is_loopback or self._is_local(face)
        return face == at or (face.is_unspecified and at.is_loopback)
