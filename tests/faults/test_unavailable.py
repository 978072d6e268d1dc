"""No member is in service: what clients of a running hsmitm meet, by `hsm.unavailable`."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.ha_system import HaSystem
from tests.integration.harness import OriginThread
from tests.waiting import wait_until

BUDGET_S = 0.5
SERVED_AGAIN_S = 4
"""After its HSM is back: the longest pause between two starts in an outage (1.8 s), a start, and a busy machine."""


class Visit(threading.Thread):
    """One request by curl, which begins at once."""

    def __init__(self, world: World, host: str) -> None:
        super().__init__()
        self._world, self._host = world, host
        self.ok, self.seconds = False, 0.0
        self.start()

    def run(self) -> None:
        """In the thread."""
        begun = time.monotonic()
        self.ok = self._world.system.curl(self._world.url(self._host), proxy=self._world.proxy).ok
        self.seconds = time.monotonic() - begun


@dataclass
class World:
    """A running system with one worker, its origin, and its proxy's address."""

    system: HaSystem
    port: int
    proxy: str

    def url(self, host: str) -> str:
        """A page of the host."""
        return f"https://{host}.test:{self.port}/"

    def visit(self, host: str) -> Visit:
        """A visit that has ended."""
        visit = Visit(self, host)
        visit.join()
        return visit

    def page(self, host: str) -> str:
        """What a client that asks the proxy for this host reads."""
        name, _, port = self.proxy.rpartition(":")
        with socket.create_connection((name, int(port)), timeout=10) as connection:
            connection.sendall(f"CONNECT {host}.test:{self.port} HTTP/1.1\r\nHost: {host}.test\r\n\r\n".encode())
            answer = connection.recv(4096)
            while answer.startswith(b"HTTP/1.1 502") and not answer.endswith(b"\n", answer.find(b"\r\n\r\n") + 4):
                answer += connection.recv(4096)
        return answer.decode()

    def policy(self, unavailable: str) -> None:
        """The operator changes it."""
        self.system.edit(unavailable=f'"{unavailable}"')
        self.system.hsmitm("reload")
        assert self.system.status().group.unavailable == unavailable


@pytest.fixture(scope="module")
def world(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A system that was started with "queue:4000", and has served the host `known`."""
    ca = OriginCA()
    made = HaSystem.make_ha(
        tmp_path_factory.mktemp("unavailable") / "s", ca.pem,
        request_budget_ms=f"{1000 * BUDGET_S:.0f}", attempt_timeout_ms="300", unavailable='"queue:4000"',
    )  # fmt: skip
    with OriginThread(ca) as origin, made:
        world = World(made, origin.port, made.proxy)
        assert world.visit("known").ok
        yield world


def _until_served(world: World, host: str) -> float:
    """Seconds until a new host is served."""
    begun = time.monotonic()
    numbers = iter(range(100))
    wait_until(lambda: world.visit(f"{host}-{next(numbers)}").ok, "new hosts are served", 10)
    return time.monotonic() - begun


def test_unavailable_queue(world: World) -> None:
    """F32: With "queue:MS" a new host waits for a member beyond its budget: it is served if one comes in that time, and
    refused at its end or once none can come; hosts that were visited before are served at once."""
    assert world.system.status().group.unavailable == "queue:4000"
    with world.system.outage():
        assert world.visit("known").ok
        waiting = Visit(world, "new-queue")
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() - begun > 3 * BUDGET_S, "it waits beyond its budget")
        assert waiting.is_alive()
    waiting.join()
    assert waiting.ok
    world.system.until_up("m1", "m2")
    world.policy("queue:1200")
    with world.system.outage():
        refused = world.visit("new-queue-refused")
        assert not refused.ok
        assert refused.seconds < 1.2 + 2
        assert world.visit("known").ok
    world.system.until_up("m1", "m2")


def test_unavailable_fail(world: World) -> None:
    """F32: With "fail" nobody is served while no member is: neither a new host nor one that was visited before, and the
    page says so and the log why; a moment after an HSM is back everybody is."""
    world.policy("fail")
    with world.system.outage():
        wait_until(lambda: not world.visit("known").ok, "the worker knows")
        assert "502" in world.page("known")
        assert "known.test cannot be inspected now, and it is not let through" in world.page("known")
        world.system.until_logged("no member of the HSM is in service, and hsm.unavailable is 'fail'")
        assert not world.visit("known").ok
        assert not world.visit("new-fail").ok
        assert "m1" not in world.page("new-fail")
        why = re.compile("new-fail.* refused: .*m1: member is (down|starting): .*; m2: member is (down|starting): ")
        wait_until(lambda: why.search(world.system.log), "the log says of each member why", 10)
        world.system.hsms["m2"].clear()
        assert _until_served(world, "again-fail") < SERVED_AGAIN_S
        wait_until(lambda: world.visit("known").ok, "the worker knows")
        assert world.system.states()["m1"] in ("down", "starting")
    world.system.until_up("m1", "m2")


def test_unavailable_cached_only(world: World) -> None:
    """F32: With "cached-only" hosts that were visited before are served without any member; a new one is refused as
    soon as its budget is spent, with a page that says so."""
    world.policy("fail")
    with world.system.outage():
        wait_until(lambda: not world.visit("known").ok, "the worker knows")
        world.policy("cached-only")
        wait_until(lambda: world.visit("known").ok, "the worker knows the policy")
        for _ in range(3):
            assert world.visit("known").ok
        new = world.visit("new-cached-only")
        assert not new.ok
        assert new.seconds < BUDGET_S + 2
        page = world.page("new-cached-only")
        assert page.startswith("HTTP/1.1 502")
        assert "new-cached-only.test cannot be inspected now, and it is not let through: the keys for" in page
    assert _until_served(world, "again-cached-only") < SERVED_AGAIN_S
    world.system.until_up("m1", "m2")
