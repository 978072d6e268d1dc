"""A client that lies about its SNI gets nowhere uninspected: it is decrypted or blocked, however it comes in, and the
honest one passes. Each case has real sockets, a real policy, and two servers: the bank, and one that is somebody
else's, at another address of this machine with a certificate of its own that is in order."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from addons.edge.connecting.resolver import Found
from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Policy, Profile, Rule, To
from tests.addons.edge.hellos import built, hello
from tests.addons.edge.listeners.far import TIME_S, exactly
from tests.addons.edge.listeners.passing import Passing
from tests.addons.edge.proving.showing import Showing
from tests.addons.upstream.faulty import BETWEEN, ROOT
from tests.waiting import wait_until

BANK, EVIL, OTHER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
"""Where the bank is, where it is not, and where it is as well without our resolver knowing."""
_NAMES = {"bank.test": BANK} | dict.fromkeys(("evil.test", "127.2", "2130706434", "0x7f000002"), EVIL)


def _lookup(name: str) -> tuple[Found, ...]:
    name = name.removesuffix(".")
    if name not in _NAMES:
        raise OSError("no such name")
    return ((2, (_NAMES[name], 0)),)


_BANK = Rule(name="bank", action="bypass", to=To(domains=("bank.test",)), profile="lax")
POLICIES = {
    "strict": compiled(Policy(rules=(replace(_BANK, profile="default"),))),
    # Nothing but the choice of the rule itself keeps a forged name out here.
    "lax": compiled(Policy(probe="off", rules=(_BANK,)), {"lax": Profile(sni_mismatch="decrypt")}),
    "lax, probed": compiled(
        Policy(rules=(_BANK,)), {"lax": Profile(sni_mismatch="decrypt", name_mismatch="allow", untrusted="allow")}
    ),
}


class Scene(NamedTuple):
    """The servers, on one port of three addresses."""

    bank: Showing
    evil: Showing
    other: Showing
    roots: Path

    @property
    def port(self) -> int:
        """The one port."""
        return self.bank.port


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All of it."""
    here = tmp_path_factory.mktemp("scene")
    (here / "roots.pem").write_bytes(ROOT.pem)
    with (
        Showing(BETWEEN.issue("bank.test"), here) as bank,
        Showing(BETWEEN.issue("evil.test"), here, at=EVIL, port=bank.port) as evil,
        Showing(BETWEEN.issue("bank.test"), here, at=OTHER, port=bank.port) as other,
    ):
        yield Scene(bank, evil, other, here / "roots.pem")


def _name(*names: str) -> bytes:
    listed = b"".join(b"\0" + len(one).to_bytes(2) + one.encode() for one in names)
    return len(listed).to_bytes(2) + listed


_REST: tuple[tuple[int, bytes], ...] = (
    (43, b"\x04\x03\x04\x03\x03"), (10, b"\0\x02\0\x1d"), (13, b"\0\x04\x04\x03\x08\x04"),
    (51, b"\0\x24\0\x1d\0\x20" + bytes(range(32))),
)  # fmt: skip


def _built(*extensions: tuple[int, bytes]) -> bytes:
    return built(b"\x13\x01\xc0\x2b", *extensions, *_REST)


HELLOS = {
    "as it is": hello("bank.test"),
    "in capitals": hello("BANK.TEST"),
    "mixed": hello("bAnK.tEsT"),
    "with a dot": _built((0, _name("bank.test."))),
    "two names": _built((0, _name("bank.test", "evil.test"))),
    "two names, the bank last": _built((0, _name("evil.test", "bank.test"))),
    "two extensions": _built((0, _name("bank.test")), (0, _name("evil.test"))),
    "two extensions, the bank last": _built((0, _name("evil.test")), (0, _name("bank.test"))),
    "ECH": _built((0, _name("bank.test")), (0xFE0D, b"\0\0\x01\0\x01\x2a\0\x20" + bytes(32) + b"\0\x20" + bytes(32))),
    "no name": _built(),
    "an address": _built((0, _name("127.0.0.1"))),
}


def _connected(proxy: Passing, host: str, port: int) -> socket.socket | None:
    """A tunnel, or nothing where it is refused."""
    one = socket.create_connection(("127.0.0.1", proxy.port), TIME_S)
    one.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n") and (more := one.recv(1)):
        head += more
    if head.startswith(b"HTTP/1.1 200"):
        return one
    one.close()
    return None


def _socks(proxy: Passing, host: str, port: int) -> socket.socket | None:
    one = socket.create_connection(("127.0.0.1", proxy.port), TIME_S)
    one.sendall(b"\5\1\0")
    assert exactly(one, 2) == b"\5\0"
    try:
        where = b"\1" + socket.inet_aton(host) if host[:1].isdigit() and host.count(".") == 3 else None
    except OSError:
        where = None
    one.sendall(b"\5\1\0" + (where or b"\3" + bytes((len(host),)) + host.encode()) + port.to_bytes(2))
    if exactly(one, 10)[:2] == b"\5\0":
        return one
    one.close()
    return None


def _redirected(proxy: Passing, _host: str, _port: int) -> socket.socket | None:
    return socket.create_connection(("127.0.0.1", proxy.port), TIME_S)


Reach = Callable[[Passing, str, int], socket.socket | None]
WAYS: dict[str, tuple[str, Reach]] = {
    "CONNECT": ("regular", _connected), "SOCKS5": ("socks5", _socks), "redirected": ("transparent", _redirected),
}  # fmt: skip


@contextmanager
def _proxy(scene: Scene, mode: str, to: str, policy: Compiled | None = None) -> Iterator[Passing]:
    with Passing(
        policy or POLICIES["strict"],
        mode=mode,
        to=(to, scene.port),
        lookup=_lookup,
        ssl_verify_upstream_trusted_ca=str(scene.roots),
    ) as proxy:
        yield proxy


def _answered(client: socket.socket, data: bytes) -> bytes:
    """The first bytes of the answer."""
    client.sendall(data)
    try:
        return client.recv(65536)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("shape", HELLOS)
@pytest.mark.parametrize(("way", "host"), [
    *(("CONNECT", one) for one in ("evil.test", EVIL, "[::ffff:127.0.0.2]", "127.2", "2130706434", "0x7f000002")),
    *(("SOCKS5", one) for one in ("evil.test", EVIL, "127.2", "2130706434")), ("redirected", EVIL),
])  # fmt: skip
@pytest.mark.parametrize("policy", POLICIES)
def test_a_forged_name_is_not_passed(scene: Scene, way: str, host: str, shape: str, policy: str) -> None:
    """Not a byte of what the client says reaches a server that is not the bank as the client said it."""
    mode, reach = WAYS[way]
    before = len(scene.evil.hellos)
    with _proxy(scene, mode, EVIL, POLICIES[policy]) as proxy:
        client = reach(proxy, host, scene.port)
        if client is not None:
            with client:
                _answered(client, HELLOS[shape])
        wait_until(lambda: proxy.facts, "its record is written")
        assert proxy.facts[-1].event != "bypassed"
    assert HELLOS[shape] not in scene.evil.hellos[before:]


@pytest.mark.parametrize("shape", ["as it is", "in capitals", "mixed", "with a dot", "ECH"])
@pytest.mark.parametrize(("way", "host"), [
    ("CONNECT", "bank.test"), ("CONNECT", "BANK.test."), ("CONNECT", BANK), ("CONNECT", OTHER),
    ("SOCKS5", "bank.test"), ("SOCKS5", BANK), ("SOCKS5", OTHER), ("redirected", BANK), ("redirected", OTHER),
])  # fmt: skip
def test_an_honest_one_passes(scene: Scene, way: str, host: str, shape: str) -> None:
    """What the client says reaches the bank as it is, at the address that our resolver gives, and where the bank shows
    that it is one."""
    mode, reach = WAYS[way]
    bank = scene.other if host == OTHER else scene.bank
    before = len(bank.hellos)
    with _proxy(scene, mode, host if host != "bank.test" else BANK) as proxy:
        client = reach(proxy, host, scene.port)
        assert client is not None
        with client:
            assert _answered(client, HELLOS[shape])[:1] in (b"\x16", b"\x15")
            assert proxy.facts == [] or proxy.facts[-1].event == "bypassed"
        wait_until(lambda: proxy.facts, "its record is written")
        assert proxy.facts[-1].event == "bypassed"
    assert HELLOS[shape] in bank.hellos[before:]


@pytest.mark.parametrize("shape", [one for one in HELLOS if one.startswith("two ")])
@pytest.mark.parametrize("host", ["bank.test", BANK])
def test_a_hello_of_two_names_is_not_passed(scene: Scene, host: str, shape: str) -> None:
    """Not even to the bank: whoever else lives there may be the one that is meant."""
    before = len(scene.bank.hellos)
    with _proxy(scene, "regular", BANK) as proxy:
        client = _connected(proxy, host, scene.port)
        assert client is not None
        with client:
            _answered(client, HELLOS[shape])
        wait_until(lambda: proxy.facts, "its record is written")
        assert proxy.facts[-1].event != "bypassed"
    assert HELLOS[shape] not in scene.bank.hellos[before:]
