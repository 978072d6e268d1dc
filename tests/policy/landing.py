"""1,000 rules, and visits that are scripted in any mode: what each visit is, what `hsmitm policy test` says of it, and
on which rule it lands.

`python -m tests.policy.landing MODE DIRECTORY` makes the visits of one mode and prints what differs; for redirected
traffic it wants a network namespace of its own, as root.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.commands.policy.answer import answer
from proxy.commands.policy.question import Question, facts_of
from proxy.config.worker import WorkerConfig, load
from proxy.demo.origin import OriginCA
from tests.integration.harness import System
from tests.waiting import wait_until

ACTIONS = ("decrypt", "bypass", "block")
SHOPS, GROUPS, SOURCES = 40, 8, range(11, 19)
CLIENT = 65533
"""The user whose traffic is redirected."""


def rules(plain_port: int) -> str:
    """The tables of a policy with 1,000 rules, of which some are met, and a default."""
    found: list[str] = []

    def add(name: str, action: str, **fields: str) -> None:
        tables = "".join(f"{key.rstrip('_')} = {value}\n" for key, value in fields.items())
        found.append(f'[[policy.rules]]\nname = "{name}"\naction = "{action}"\n{tables}')

    for number in range(320):
        shop, source = number % SHOPS, SOURCES[number // SHOPS]
        if (shop * 7 + source * 3) % 4 == 0:
            add(f"shop{shop}-{source}", ACTIONS[(shop + source) % 3], from_=_source(source),
                to=f'{{ domains = ["shop{shop}.g{shop % GROUPS}.test"] }}')  # fmt: skip
        add(f"filler-{number}", ACTIONS[number % 3], from_=f'{{ networks = ["10.{number % 250}.0.0/16"] }}',
            to=f'{{ domains = [".filler{number}.test"], ports = [{1000 + number}] }}')  # fmt: skip
    for group in range(GROUPS):
        add(f"h2-{group}", ACTIONS[group % 3], client='{ alpn = ["h2"] }', to=f'{{ domains = [".g{group}.test"] }}')
        add(f"group-{group}", ACTIONS[(group + 1) % 3], from_='{ networks = ["127.0.0.12/31"] }',
            to=f'{{ domains = [".g{group}.test"] }}')  # fmt: skip
    add("banks", "bypass", from_=_source(14), to='{ categories = ["bank"] }')
    add("second", "block", from_='{ networks = ["127.0.0.14/31"] }', to='{ networks = ["127.0.0.2"] }')
    add("third", "bypass", from_=_source(15), to='{ networks = ["127.0.0.3"] }')
    add("ended", "block", expires="2020-01-01", to=f"{{ ports = [{plain_port}] }}")
    add("plain", "block", from_=_source(17), to=f"{{ ports = [{plain_port}] }}")
    add("eighteen", "decrypt", from_=_source(18), profile='"lenient"')
    for number in range(len(found), 1000):
        add(f"network-{number}", ACTIONS[number % 3], to=f'{{ networks = ["10.{number // 250}.{number % 250}.0/24"] }}')
    head = '[policy.categories]\nbank = [".g1.test", "shop3.g3.test"]\n'
    return f'\n{head}[profiles.lenient]\nsni_mismatch = "decrypt"\n' + "".join(found)


def _source(last: int) -> str:
    return f'{{ networks = ["127.0.0.{last}"] }}'


@dataclass(frozen=True)
class Visit:
    """One connection: from 127.0.0.`source` to `host`, at `address`; `sni` is None where it says none."""

    source: int
    host: str
    address: str
    port: int
    sni: str | None
    h2: bool
    plain: bool


def visits(number: int, ports: tuple[int, int], mode: str) -> list[Visit]:
    """As many visits, the same with each run."""
    chance, found = random.Random(mode), []
    for _ in range(number):
        shop = chance.randrange(SHOPS)
        name = f"shop{shop}.g{shop % GROUPS}.test"
        plain = chance.random() < 0.2
        address = chance.choice(("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"))
        by_name = chance.random() < 0.5 or (plain and mode != "transparent")
        sni: str | None = name
        if chance.random() < 0.15:
            sni = chance.choice((None, "shop1.g1.test", "shop3.g3.test"))
        found.append(
            Visit(
                chance.choice(SOURCES),
                name if by_name or plain else address,
                "127.0.0.1" if by_name else address,
                ports[plain],
                sni,
                chance.random() < 0.4,
                plain,
            )
        )
    return found


def said(visit: Visit, mode: str, config: WorkerConfig) -> tuple[str, str]:
    """The rule and action that `hsmitm policy test` names for it."""
    where = visit.host
    if mode == "transparent" and not visit.plain:
        where = visit.address
    alpn = () if visit.plain else ("h2", "http/1.1") if visit.h2 else ("http/1.1",)
    question = Question(
        host=where, port=visit.port, at=dt.datetime.now(dt.UTC), client=f"127.0.0.{visit.source}",
        sni=visit.sni or "", alpn=alpn, plain=visit.plain,
        addresses=() if mode == "upstream" else (visit.address,),
        proved=visit.address != "127.0.0.3" if _by_sni(visit, mode) else None,
    )  # fmt: skip
    found = answer(facts_of(question, config), config)
    return found.rule, found.action


def _by_sni(visit: Visit, mode: str) -> bool:
    return mode == "transparent" or visit.host[0].isdigit()


class Internet:
    """Servers for every name on 127.0.0.1 and .2; whoever asks 127.0.0.3 gets a stranger's certificate."""

    def __init__(self, ca: OriginCA) -> None:
        self._ca = ca
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._stranger = ca.context(("stranger.invalid",), ("http/1.1",))
        self._lock = threading.Lock()

    @contextmanager
    def open(self) -> Iterator[tuple[int, int]]:
        """The ports, of TLS and of plain HTTP."""
        with socket.create_server(("0.0.0.0", 0), backlog=256) as tls, socket.create_server(("0.0.0.0", 0)) as plain:
            for listening, secret in ((tls, True), (plain, False)):
                threading.Thread(target=self._accept, args=(listening, secret), daemon=True).start()
            yield tls.getsockname()[1], plain.getsockname()[1]
            for listening in (tls, plain):
                listening.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket, secret: bool) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=self._serve, args=(connection, secret), daemon=True).start()

    def _serve(self, connection: socket.socket, secret: bool) -> None:
        connection.settimeout(20)
        stranger = connection.getsockname()[0] == "127.0.0.3"
        with connection, suppress(OSError):
            if secret:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context = self._stranger if stranger else self._named("any.test")
                with context.wrap_socket(connection, server_side=True) as tls:
                    _answer(tls)
            else:
                _answer(connection)

    def _named(self, name: str) -> ssl.SSLContext:
        with self._lock:
            if name not in self._contexts:
                made = self._contexts[name] = self._ca.context((name,), ("http/1.1",))
                if name == "any.test":
                    made.sni_callback = lambda tls, sni, _: setattr(tls, "context", self._named(sni or "127.0.0.1"))
            return self._contexts[name]


def _answer(connection: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        if not (data := connection.recv(4096)):
            return
        head += data
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@contextmanager
def parent() -> Iterator[int]:
    """A proxy for CONNECT and plain requests, which finds every name at 127.0.0.1."""

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(20)
            head = client.recv(4096)
            method, target = head.split(b" ")[:2]
            if method != b"CONNECT":
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                return
            host, _, port = target.decode().rpartition(":")
            address = host if host[0].isdigit() else "127.0.0.1"
            with socket.create_connection((address, int(port)), 10) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join(20)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def visit(one: Visit, mode: str, proxy: tuple[str, int]) -> int:
    """Make the visit, as far as it goes; the client's port."""
    connection = socket.socket()
    connection.settimeout(20)
    connection.bind((f"127.0.0.{one.source}", 0))
    port: int = connection.getsockname()[1]
    with connection, suppress(OSError):
        connection.connect((one.address, one.port) if mode == "transparent" else proxy)
        if mode == "socks5":
            connection.sendall(b"\5\1\0")
            connection.recv(2)
            by_name = not one.host[0].isdigit()
            where = (
                b"\3" + bytes([len(one.host)]) + one.host.encode() if by_name else b"\1" + socket.inet_aton(one.host)
            )
            connection.sendall(b"\5\1\0" + where + struct.pack("!H", one.port))
            if connection.recv(10)[1]:
                return port
        elif mode != "transparent" and not one.plain:
            connection.sendall(
                f"CONNECT {one.host}:{one.port} HTTP/1.1\r\nHost: {one.host}:{one.port}\r\n\r\n".encode()
            )
            if b" 200 " not in connection.recv(4096):
                return port
        target = "/" if mode in ("transparent", "socks5") else f"http://{one.host}:{one.port}/"
        request = f"GET {target} HTTP/1.1\r\nHost: {one.host}:{one.port}\r\nConnection: close\r\n\r\n".encode()
        if one.plain:
            connection.sendall(request)
            connection.recv(4096)
            return port
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2", "http/1.1"] if one.h2 else ["http/1.1"])
        with context.wrap_socket(connection, server_hostname=one.sni) as tls:
            if tls.selected_alpn_protocol() != "h2":
                tls.sendall(request)
                tls.recv(4096)
    return port


def differing(mode: str, directory: Path, number: int) -> list[str]:
    """Make `number` visits in `mode`; those that landed elsewhere than was said, in words."""
    ca = OriginCA()
    with ExitStack() as stack:
        ports = stack.enter_context(Internet(ca).open())
        way = f"upstream:http://127.0.0.1:{stack.enter_context(parent())}" if mode == "upstream" else mode
        made = System.make(directory / "s", upstream_ca=ca.pem, workers="2", mode=f'"{way}"')
        (made.directory / "log").mkdir()
        made.edit(file='"log/decryption.jsonl"', no_sni='"block"')
        made.toml.write_text(made.toml.read_text() + rules(ports[1]))
        system = stack.enter_context(made)
        host, _, port = system.proxy.rpartition(":")
        if mode == "transparent":
            _redirect(ports, port)
        config = load(system.toml)
        script = visits(number, ports, mode)
        if mode == "transparent":
            os.seteuid(CLIENT)
        with ThreadPoolExecutor(8) as pool:
            made_from = list(pool.map(lambda one: visit(one, mode, (host, int(port))), script))
        if mode == "transparent":
            os.seteuid(0)
        wanted = {(f"127.0.0.{one.source}", at): one for one, at in zip(script, made_from, strict=True)}
        wait_until(lambda: wanted.keys() <= _landed(system).keys(), "each connection has its record", 30)
        landed = _landed(system)
        return [
            f"{one}: said {expected}, landed {landed[key][:2]}, {landed[key][2]['hsmitm'].get('error')}"
            for key, one in wanted.items()
            if (expected := said(one, mode, config)) != landed[key][:2]
        ]


def _landed(system: System) -> dict[tuple[str, int], tuple[str, str, Any]]:
    path = system.directory / "log/decryption.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {
        (one["source"]["ip"], one["source"]["port"]): (one["hsmitm"]["rule"], one["hsmitm"]["action"], one)
        for one in records
    }


def _redirect(ports: tuple[int, int], port: str) -> None:
    chain = (
        "table ip nat { chain output { type nat hook output priority -100; "
        f"meta skuid {CLIENT} tcp dport {{ {ports[0]}, {ports[1]} }} redirect to :{port}; }}; }}"
    )
    subprocess.run(["nft", "-f", "-"], input=chain, text=True, check=True)


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for line in differing(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])):
        print(line)
