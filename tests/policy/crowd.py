"""A thousand rules, and clients of every kind that come to them: what each connection is like, and how it is made."""

from __future__ import annotations

import datetime as dt
import json
import random
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.commands.policy.answer import answer
from proxy.commands.policy.question import Question, facts_of
from proxy.config.worker import WorkerConfig
from tests.waiting import wait_until

RULES = 1000
_ACTIONS = ("decrypt", "bypass", "block")
Landed = tuple[str, str]
"""A rule and what it does."""


def rules(port: int) -> str:
    """The policy: rules of five kinds in turn, each with names of its own."""
    tables = ["[policy.categories]\n"] + [f'c{n} = [".r{n}.test"]\n' for n in range(4, RULES, 5)]
    for n in range(RULES):
        wants = (
            f'to = {{ domains = [".r{n}.test"] }}',
            f'to = {{ domains = ["www.r{n}.test"], ports = [{port}] }}',
            f'from = {{ networks = ["127.0.0.2"] }}\nto = {{ domains = [".r{n}.test"] }}',
            f'to = {{ domains = ["www.r{n}.test"] }}\nwhen = {{ days = "mon-sun", zone = "Europe/Rome" }}',
            f'to = {{ categories = ["c{n}"] }}',
        )[n % 5]  # fmt: skip
        tables.append(f'[[policy.rules]]\nname = "r{n}"\naction = "{_ACTIONS[n % 3]}"\n{wants}\n')
    return "".join(tables)


@dataclass(frozen=True)
class Visit:
    """A connection: whom its client asks for, what its ClientHello says, where it comes from."""

    host: str
    sni: str
    client: str
    plain: bool = False

    @property
    def asks_for_an_address(self) -> bool:
        """Whether the client has looked the name up itself."""
        return self.host == "127.0.0.1"


def visits(number: int, seed: int, *, addresses: bool = False, plain: bool = False) -> list[Visit]:
    """As many, honest and not. `addresses`: some ask for an address; `plain`: some are plain HTTP."""
    chance = random.Random(seed)  # the same ones in every run
    made = []
    for _ in range(number):
        name, other = (f"{chance.choice(('www', 'a'))}.r{chance.randrange(RULES + 100)}.test" for _ in range(2))
        said = chance.choices((name, "", other), (8, 1, 1))[0]
        host = "127.0.0.1" if addresses and chance.random() < 0.4 else name
        without = plain and chance.random() < 0.3
        client = chance.choice(("127.0.0.1", "127.0.0.2"))
        made.append(Visit(name if without else host, "" if without else said, client, without))
    return made


def expected(visit: Visit, config: WorkerConfig, port: int, listener: str = "") -> Landed:
    """What `hsmitm policy test` says of it. Every name resolves to the address that is asked for, so it is proved."""
    question = Question(
        host=visit.host, port=port, at=dt.datetime.now(dt.UTC), client=visit.client, sni=visit.sni, listener=listener,
        plain=visit.plain, proved=True,
    )  # fmt: skip
    found = answer(facts_of(question, config), config)
    return found.rule, found.action


Reach = Callable[[socket.socket, Visit, int], None]
"""Ask a proxy, to which there is a connection, for the visit's host and a port. Raises OSError where it refuses."""


def connect(connection: socket.socket, visit: Visit, port: int) -> None:
    """By CONNECT; a plain request goes without."""
    if visit.plain:
        return
    there = f"{visit.host}:{port}"
    connection.sendall(f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n".encode())
    if not _until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200"):
        raise ConnectionRefusedError


def socks(connection: socket.socket, visit: Visit, port: int) -> None:
    """By SOCKS5 (RFC 1928), with a name or an address."""
    connection.sendall(b"\x05\x01\x00")
    connection.recv(2)
    host = visit.host.encode()
    where = b"\x01\x7f\x00\x00\x01" if visit.asks_for_an_address else b"\x03" + bytes((len(host),)) + host
    connection.sendall(b"\x05\x01\x00" + where + port.to_bytes(2))
    if connection.recv(10)[1:2] != b"\x00":
        raise ConnectionRefusedError


def straight(_connection: socket.socket, _visit: Visit, _port: int) -> None:
    """Without a word: the client believes that it has reached the server."""


def come(visit: Visit, proxy: tuple[str, int], port: int, reach: Reach) -> int:
    """Make the connection and a request on it, whatever comes of it. The client's port."""
    with socket.create_connection(proxy, timeout=20, source_address=(visit.client, 0)) as connection:
        own: int = connection.getsockname()[1]
        with suppress(OSError):
            reach(connection, visit, port)
            request = f"http://{visit.host}:{port}/" if visit.plain and reach is connect else "/"
            asked = f"GET {request} HTTP/1.1\r\nHost: {visit.sni or visit.host}:{port}\r\nConnection: close\r\n\r\n"
            with connection if visit.plain else _greeted(connection, visit) as stream:
                stream.sendall(asked.encode())
                while stream.recv(65536):
                    pass
    return own


def _greeted(connection: socket.socket, visit: Visit) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection, server_hostname=visit.sni or None)


def _until(connection: socket.socket, end: bytes) -> bytes:
    found = b""
    while not found.endswith(end) and (data := connection.recv(1)):
        found += data
    return found


def landed(log: Path, all_: Sequence[Visit], proxy: tuple[str, int], port: int, reach: Reach) -> list[Landed]:
    """Have them all come, some at once, and read from the decryption log which rule each was decided by."""
    with ThreadPoolExecutor(8) as pool:
        own = list(pool.map(lambda one: come(one, proxy, port, reach), all_))

    def told() -> dict[tuple[str, int], Landed]:
        return dict(_decisions(log))

    keys = [(one.client, number) for one, number in zip(all_, own, strict=True)]
    wait_until(lambda: set(keys) <= told().keys(), "each connection has its record", 20)
    found = told()
    return [found[key] for key in keys]


def _decisions(log: Path) -> Iterator[tuple[tuple[str, int], Landed]]:
    for line in log.read_text().splitlines() if log.exists() else []:
        one: Any = json.loads(line)
        yield (
            (one["source"]["ip"], one["source"]["port"]),
            (one["hsmitm"].get("rule", ""), one["hsmitm"].get("action", "")),
        )
