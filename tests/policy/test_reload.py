"""A reload of the policy on a running hsmitm: as a whole, in every worker, and without a connection that notices."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from bench.rig.port import free_port
from proxy.config.worker import load
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System, hsmitm
from tests.waiting import wait_until

BEGINS = "# the policy of this test"
FIRST = """
[[policy.rules]]
name = "one"
action = "decrypt"
to = { domains = [".site.test"] }
[[policy.rules]]
name = "one-games"
action = "block"
to = { domains = ["games.test"] }
"""
SECOND = """
[[policy.rules]]
name = "two"
action = "decrypt"
profile = "other"
to = { domains = [".site.test"] }
[[policy.rules]]
name = "two-kept"
action = "block"
to = { domains = ["kept.test"] }
[profiles.other]
expired = "allow"
"""
BROKEN = FIRST.replace('domains = ["games.test"]', 'domain = ["games.test"]')


@dataclass
class World:
    """A running system, where its proxy and its metrics are (its file is not always one that can be read), and the port
    of the internet."""

    system: System
    proxy: tuple[str, int]
    metrics: str
    port: int


@pytest.fixture(scope="module")
def world(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two workers with the first policy, a log and a page of metrics."""
    ca, page = OriginCA(), f"127.0.0.1:{free_port()}"
    made = System.make(tmp_path_factory.mktemp("reload") / "s", upstream_ca=ca.pem, workers="2")
    (made.directory / "log").mkdir()
    made.edit(file='"log/decryption.jsonl"', status__listen=f'"{page}"')
    made.toml.write_text(f"{made.toml.read_text()}\n{BEGINS}\n{FIRST}")
    with OriginThread(ca, alpn=("http/1.1",)) as origin, made as running:
        host, _, port = running.proxy.rpartition(":")
        yield World(running, (host, int(port)), page, origin.port)


def written(system: System, policy: str) -> None:
    """The operator edits the policy."""
    text = system.toml.read_text()
    system.toml.write_text(text[: text.index(BEGINS)] + f"{BEGINS}\n{policy}")


def metric(world: World, name: str) -> dict[str, float]:
    """A metric of all processes, by its labels."""
    with urllib.request.urlopen(f"http://{world.metrics}/metrics", timeout=10) as page:
        text = page.read().decode()
    return {labels: float(value) for labels, value in re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)}


def version(world: World) -> str:
    """The version that both workers have."""

    def same() -> str | None:
        found = metric(world, "hsmitm_policy_version")
        return next(iter(found), "") if list(found.values()) == [2] else None

    return wait_until(same, "both workers have one policy", 20)


class Kept:
    """A connection that is kept open; `request` is one more on it."""

    def __init__(self, world: World, host: str) -> None:
        self._host = host
        connection = socket.create_connection(world.proxy, 10)
        where = f"{host}:{world.port}"
        connection.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        self.answer = connection.recv(4096).decode()
        self.status = self.answer.split()[1]
        self.tls: Any = connection
        if self.status == "200":
            context = ssl.create_default_context(cafile=str(world.system.ca))
            self.tls = context.wrap_socket(connection, server_hostname=host)

    def request(self) -> None:
        """It is answered."""
        self.tls.sendall(f"GET / HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"path /\n"):
            more = self.tls.recv(4096)
            assert more, answer
            answer += more
        assert answer.startswith(b"HTTP/1.1 200")

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()


@contextmanager
def loaded(world: World) -> Iterator[list[str]]:
    """Visits, one after the other on two threads; what went wrong."""
    leave, wrong = threading.Event(), []

    def visit(thread: int) -> None:
        number = 0
        while not leave.is_set():
            number += 1
            try:
                with Kept(world, f"host{number % 7}-{thread}.site.test") as one:
                    one.request()
            except (OSError, AssertionError) as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=visit, args=(one,)) for one in range(2)]
    for one in threads:
        one.start()
    try:
        yield wrong
    finally:
        leave.set()
        for one in threads:
            one.join(20)


def records(system: System) -> list[Any]:
    """The decryption log."""
    return [json.loads(one) for one in (system.directory / "log/decryption.jsonl").read_text().splitlines()]


def test_two_policies_are_swapped_under_load(world: World) -> None:
    """Each connection is decided upon by one of them, as a whole; one that was open before goes on, though the new
    policy blocks it; who asks anew meets the new one in every worker."""
    versions = [version(world)]
    with Kept(world, "kept.test") as kept, loaded(world) as wrong:
        kept.request()
        for policy in (SECOND, FIRST, SECOND):
            written(world.system, policy)
            done = hsmitm("reload", "--config", str(world.system.toml))
            assert done.returncode == 0, done.stderr
            assert "what workers read has changed" in done.stdout
            wait_until(lambda: version(world) != versions[-1], "it is another policy")
            versions.append(version(world))
            kept.request()
        for _ in range(4):
            with Kept(world, "kept.test") as anew:
                assert anew.status == "403"
    assert wrong == []
    assert versions[0] == versions[2] != versions[1] == versions[3]
    by_version: dict[str, set[str]] = {}
    for one in records(world.system):
        if one["hsmitm"]["host"].endswith("site.test"):
            by_version.setdefault(one["hsmitm"]["policy_version"], set()).add(one["hsmitm"]["rule"])
    assert sorted(by_version.values(), key=sorted) == [{"one"}, {"two"}]


@pytest.mark.parametrize(
    ("how", "broken", "said"),
    [
        ("command", BROKEN, "policy.rules[1] 'one-games': to.domain: unknown field"),
        ("signal", BROKEN, "policy.rules[1] 'one-games': to.domain: unknown field"),
        ("command", "no TOML", "hsmitm.toml is not TOML"),
    ],
)
def test_a_broken_file_leaves_the_old_policy(world: World, how: str, broken: str, said: str) -> None:
    """`hsmitm reload` says what is wrong, and fails; a signal's reload says it in the log. A metric shows it until the
    file is right, and every worker goes on with what it had."""
    written(world.system, FIRST)
    assert hsmitm("reload", "--config", str(world.system.toml)).returncode == 0
    before = f'{{version="{load(world.system.toml).policy.version}"}}'
    wait_until(lambda: version(world) == before, "the first policy is in force")
    told = world.system.log.count("nothing changed")
    written(world.system, broken)
    if how == "command":
        done = hsmitm("reload", "--config", str(world.system.toml))
        assert done.returncode != 0
        assert said in done.stderr
    else:
        assert world.system.process is not None
        world.system.process.send_signal(signal.SIGHUP)
        wait_until(lambda: world.system.log.count("nothing changed") > told, "the log says it")
        assert said in world.system.log
    wait_until(lambda: metric(world, "hsmitm_config_reload_failed") == {"": 1}, "a metric shows it")
    for _ in range(4):
        assert "one-games" in _shown(world)
    assert version(world) == before
    written(world.system, FIRST)
    assert hsmitm("reload", "--config", str(world.system.toml)).returncode == 0
    wait_until(lambda: metric(world, "hsmitm_config_reload_failed") == {"": 0}, "it is over")
    assert version(world) == before


def _shown(world: World) -> str:
    """The page that a client gets of a blocked site, with the rule's name."""
    with Kept(world, "games.test") as refused:
        assert refused.status == "403", refused.answer
        found: bytes = b"" if refused.answer.endswith("proxy\n") else refused.tls.recv(4096)
        return refused.answer + found.decode()
